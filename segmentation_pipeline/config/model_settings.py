"""The sections of a retailer file that describe how customers are segmented.

Contains settings only. The constants of the search, of promotion, of hysteresis, of drift and of the back-test are in
`model.thresholds`.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from segmentation_pipeline.config.validation import Section

# Sections and keys that earlier versions had. Their values are constants in `model.thresholds`.
REMOVED_SETTINGS = frozenset(
    {
        "backtest",
        "drift",
        "promotion",
        "membership.fence_margin",
        "membership.margin",
        "membership.max_held_days",
        "model.k_range",
        "model.min_share",
        "model.min_stability",
        "model.n_init",
        "model.random_state",
        "model.resamples",
        "model.tolerance",
    }
)


class Model(Section):
    """The k-means fit; names as in scikit-learn."""

    transform: Literal["auto", "standard", "log", "yeo-johnson", "robust"] = "auto"
    """How features are transformed before the fit. `standard`: standardised; `log`: ln(1 + x), standardised;
    `yeo-johnson`: Yeo-Johnson, standardised; `robust`: by median and interquartile range. `auto` takes `standard`
    unless another one is clearly better: at the first fit, and by `segments model search`, the transform and the number
    of clusters are chosen together by how well their segments predicted later spend at past month ends, among those
    that keep customers in their segment overnight ([ADR 38](adr/0038-a-search-for-useful-segments.md)). That needs 12
    months of data and `n_clusters = "auto"`; otherwise, it is `standard`. Refits keep what was chosen."""
    n_clusters: Literal["auto"] | Annotated[int, Field(ge=2, le=12)] = "auto"
    """Number of segments of the normal customers. `auto` chooses it at the first fit and then keeps it: no number suits
    every shop, and a number that changed by itself would end segments that other systems use. The names fit the
    positions of up to twelve clusters, since the catalogue has twelve places; beyond that they begin to mislead."""

    @field_validator("n_clusters", mode="before")
    @classmethod
    def _is_auto_or_a_number(cls, value: object) -> object:
        """Report one error; Pydantic would report one for each member of the union."""
        if value != "auto" and (type(value) is not int or not 2 <= value <= 12):
            raise ValueError("allowed: auto, or a whole number from 2 to 12")
        return value


class Membership(Section):
    """How segments are used in campaigns."""

    control_share: float = Field(0.1, ge=0, lt=1)
    """Share of every segment that campaigns leave out as a control group. A tenth of a segment of 500 customers
    distinguishes a response of 30 % from one of 50 %."""
