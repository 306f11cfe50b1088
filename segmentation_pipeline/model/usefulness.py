"""How useful clusters would have been: the later spend that they predict.

Contains the measures of one candidate of a search. Which candidate is chosen is decided in `model_search`; the past of
the customers is read in `segments.past_customers`, their nights in `segments.past_nights`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from segmentation_pipeline.model.arrays import Array, round_decimals
from segmentation_pipeline.model.kmeans import Scaler, Transform, fit, fit_scaler, nearest, sampled_rows
from segmentation_pipeline.model.lift import block_ginis
from segmentation_pipeline.model.segmentation_model import SegmentationModel
from segmentation_pipeline.model.thresholds import FitRules

# Blocks of customers, from whose absence the noise is computed.
BLOCKS = 50
# Customers and starts of the fit at a past month end, whose clusters are compared and not published.
_FITTED, _STARTS = 5_000, 3


@dataclass(frozen=True)
class PastMonth:
    """The normal customers at a past month end, and what they spent afterwards.

    Attributes:
        month_end: The month end.
        features: Shape (n, 3), in natural units.
        spend: Money spent afterwards, shape (n,).
        blocks: The block of each customer, from 0 to BLOCKS - 1, the same at every month end, shape (n,).
    """

    month_end: datetime
    features: Array
    spend: Array
    blocks: NDArray[np.int64]


@dataclass(frozen=True)
class Past:
    """What the candidates of a search are compared by.

    Attributes:
        months: Past month ends.
        kept_overnight: Returns the share of customers that keep their segment from one night to the next under a model.
    """

    months: tuple[PastMonth, ...]
    kept_overnight: Callable[[SegmentationModel], float]


@dataclass(frozen=True)
class Lead:
    """How much better a candidate predicts later spend than another.

    Attributes:
        gini: Its Gini, averaged over the month ends.
        other: The Gini of the other.
        low: The least difference that the noise allows.
    """

    gini: float
    other: float
    low: float

    @property
    def difference(self) -> float:
        """Its Gini minus that of the other."""
        return float(round_decimals(self.gini - self.other))


@dataclass(frozen=True)
class ScaledMonth:
    """A month end in the scaling of a transform, which is the same for every number of clusters.

    Attributes:
        month: The month end.
        sample: Shape (n, 3), the customers that clusters are fitted on, in natural units.
        scaler: The scaling, fitted on these.
    """

    month: PastMonth
    sample: Array
    scaler: Scaler


def scaled_months(months: tuple[PastMonth, ...], transform: Transform, *, method: FitRules) -> list[ScaledMonth]:
    """Fit the scaling of each month end.

    Args:
        months: The month ends.
        transform: The transform before the scaling.
        method: The seed of the samples.

    Returns:
        The month ends in their scaling; none at all if no feature varies at one of them.
    """
    found, seed = [], method.random_state
    for month in months:
        sample = month.features[sampled_rows(month.features, _FITTED, seed)]
        try:
            found.append(ScaledMonth(month, sample, fit_scaler(sample, transform, seed)))
        except ValueError:
            return []
    return found


def mean_ginis(months: Sequence[ScaledMonth], n_clusters: int, *, method: FitRules) -> Array | None:
    """Form clusters at past month ends, and measure how well they predict the spend afterwards.

    Args:
        months: The month ends.
        n_clusters: Number of clusters.
        method: The seed of the fits.

    Returns:
        The mean over the month ends of `lift.block_ginis`, shape (1 + BLOCKS,); None if there are none, or if one has
        too few distinct customers or no spend after it.
    """
    found, seed = [], method.random_state
    for one in months:
        month, scaler = one.month, one.scaler
        try:
            model = fit(
                one.sample,
                transform=scaler.transform,
                n_clusters=n_clusters,
                random_state=seed,
                n_init=_STARTS,
                scaler=scaler,
            )
        except ValueError:
            return None
        clusters = nearest(scaler.apply(month.features), model.centroids_)
        found.append(block_ginis(clusters, month.features[:, 0], month.spend, month.blocks, BLOCKS))
    if not found:
        return None
    mean: Array = round_decimals(np.mean(found, axis=0))
    return mean if np.isfinite(mean).all() else None


def lead_over(ginis: Array, others: Array, *, comparisons: int, chance: float) -> Lead:
    """Compare two candidates by what `mean_ginis` returns.

    Kott (2001), "The delete-a-group jackknife". A customer is in the same block at every month end, so the noise is
    that of customers, whose spend after one month end is not independent of their spend after the next.

    Args:
        ginis: Those of the candidate.
        others: Those of the other.
        comparisons: How many candidates are compared with the other (Bonferroni).
        chance: The chance that noise alone makes one of them seem better.
    """
    from scipy.special import ndtri

    differences = ginis - others
    without, blocks = differences[1:], len(differences) - 1
    error = np.sqrt((blocks - 1) / blocks * ((without - without.mean()) ** 2).sum())
    low = differences[0] - ndtri(1 - chance / max(comparisons, 1)) * error
    return Lead(float(ginis[0]), float(others[0]), float(round_decimals(low)))
