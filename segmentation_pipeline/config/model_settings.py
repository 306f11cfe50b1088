"""The tables of a retailer file that say how customers are segmented: the model, its life, and who moves when.

Belongs here: what the methods of `core` and the SELECTs of the segments are told. Does not: what is read and what is
published (`sections`).
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from segmentation_pipeline.config.base import Section, SettingError


class Model(Section):
    """The k-means fit; names as in scikit-learn."""

    transform: Literal["standard", "log", "yeo-johnson", "robust"] = "standard"
    """What the features go through: standardised, ln(1 + x), Yeo-Johnson, or median and IQR. Standardised,
    99.3 % of Online Retail stayed overnight under a frozen model; in logarithms, where a day more since a purchase of
    yesterday is a leap, 97.9 %, and a sixth went to and fro."""
    n_clusters: Literal["auto"] | Annotated[int, Field(ge=2, le=12)] = "auto"
    """How many segments the normal customers fall into; `auto`: chosen at the first fit, then kept, because no number
    suits every shop and a number that changed by itself would end segments that others build on."""
    k_range: list[Annotated[int, Field(ge=2, le=12)]] = Field([3, 8], min_length=2, max_length=2)
    """Where the search looks: two segments are hardly worth a campaign each, more than eight are hardly told apart."""
    tolerance: float = Field(0.15, ge=0, lt=1)
    """The search: how far the silhouette may stay below the best of the range, as a share of it. The best is nearly
    always the fewest clusters; 15 % buy detail (Online Retail: 4 for 3) and stop before clusters blur (6: 20 %)."""
    min_share: float = Field(0.05, ge=0, lt=0.5)
    """The search and the gate: the least share of the normal customers in the smallest cluster; below a twentieth it is
    odd customers and no segment: once two clusters, of which one was 8 customers, had the best silhouette."""
    min_stability: float = Field(0.8, ge=-1, le=1)
    """The search: the least adjusted Rand index between the clusters and those of any bootstrap resample. At .8 the
    same groups are still found, with other edges; where one splits otherwise it is .6 (five on Online Retail)."""
    resamples: int = Field(100, ge=1, le=1_000)
    """The search: how many resamples; of twenty, chance decides whether one of the few that disagree is among them."""
    random_state: int = Field(42, ge=0, lt=2**32)
    """Seed of the fit and of the resamples, so that a run done again is the same; any will do."""
    n_init: int = Field(10, ge=1, le=100)
    """Starts of the fit, of which the best counts: enough that the seed does not decide."""

    @field_validator("n_clusters", mode="before")
    @classmethod
    def _is_auto_or_a_number(cls, value: object) -> object:
        """One sentence: pydantic would tell of each of the two that it might have been."""
        if value != "auto" and (type(value) is not int or not 2 <= value <= 12):
            raise ValueError("allowed: auto, or a whole number from 2 to 12")
        return value

    @classmethod
    def combined_errors(cls, settings: dict[str, Any]) -> Iterator[SettingError]:
        """The range of the search is not empty."""
        match settings.get("k_range"):
            case [int(least), int(most)] if least > most:
                message = "allowed: the least number of clusters, then the most"
                yield SettingError(("k_range",), message, [least, most])


class Promotion(Section):
    """The gate that a refitted model must pass before it replaces the standing one."""

    min_kept: float = Field(0.95, ge=0, le=1)
    """The least share of all customers that keep their segment: a refit may move as many as a week of usual nights
    does, not more."""
    max_moved: float = Field(0.25, gt=0, le=1)
    """No refit counts on data under which more of the customers left their segment since the last run. A night moves
    about 1 %; a quarter is no behaviour but shuffled columns, or pence for pounds, by which both models would agree."""
    min_agreement: float = Field(0.9, ge=-1, le=1)
    """The least adjusted Rand index between the segments of both models, over all customers: sees what the share kept
    does not, a small segment that falls apart while the large ones stay."""
    max_quality_drop: float = Field(0.1, ge=0, le=1)
    """How much lower the silhouette may be than the standing model's, as a share of it: as much as tells four
    clusters from three on Online Retail. And the smallest cluster, where it is below `model.min_share`."""
    max_holds: int = Field(3, ge=1)
    """So many refused models in a row ask for a person: with weekly refits three weeks, longer than a bad one."""


class Membership(Section):
    """When a customer moves: hysteresis, so that nobody goes to and fro at a border."""

    margin: float = Field(0.09, ge=0, lt=1)
    """A customer leaves its segment only for a centroid that is nearer by this share of the distance: of the shares
    that were tried on Online Retail, the one with the most reserve (ADR 7)."""
    fence_margin: float = Field(0.05, ge=0, lt=1)
    """It crosses a fence only beyond this share of it, outwards and back: with less, the night on which a fence
    jumps moves too many (ADR 7)."""
    max_pending_days: int = Field(30, ge=0)
    """Nobody is kept off the nearest segment for longer: a month, so that no segment speaks of longer ago."""
    control_share: float = Field(0.1, ge=0, lt=1)
    """The share of every segment that campaigns leave alone, to be measured against: a tenth of a segment of 500 tells
    a response of 30 % from one of 50 %."""


class Drift(Section):
    """Bounds of the warnings that today's customers are no longer those that the model was fitted on."""

    max_psi: float = Field(0.25, gt=0)
    """Population stability index of a feature; above .25 a population is usually said to have changed."""
    max_moved: float = Field(0.05, gt=0, le=1)
    """Share of the customers that changed their segment since the last run: a usual night moves less than 1 %, eight
    days at once 4 %."""
    max_new: float = Field(0.1, gt=0, le=1)
    """Share of the customers that the last run did not know: a shop of 4,000 wins some ten a night, so a tenth is
    another source, or other customer ids."""


class Backtest(Section):
    """Which past months the segments are tried on, and how far ahead."""

    history_days: int = Field(180, ge=30)
    """So many days of data before a month end, for segments to form: with less, nobody has lapsed yet."""
    horizon_days: int = Field(90, ge=7)
    """So many complete days after it, for the customers to show what they are worth: a quarter, in which two of three
    customers with a rhythm buy again (ADR 6)."""
    resamples: int = Field(200, ge=20)
    """Bootstrap resamples behind each interval: of 200 five lie beyond each end, enough for a warning."""
