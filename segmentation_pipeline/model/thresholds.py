"""The constants of the model's life: how it is searched for, promoted, applied and monitored, and the reason for each.

Contains values only. They are not settings of a retailer file: no retailer has needed others, and each was measured on
data of several shops. `docs/choice_of_k.md` and `docs/stability.md` show the measurements.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class FitRules:
    """How k-means is fitted; names as in scikit-learn."""

    random_state: int = 42
    """Seed of the fit, of the resamples and of the silhouette's sample. Any seed gives the same segments."""
    n_init: int = 10
    """Starts of a fit, of which the best counts. With ten, the seed does not decide the result; with three, resamples
    ended elsewhere (adjusted Rand index 0.4) on 2 of 19 nights of Online Retail."""
    max_customers: int = field(default=1_000_000, repr=False)
    """Of more customers, fences, scaling and clusters are fitted on a systematic sample of this size, so that arrays
    take no more memory for more customers (ADR 41). Not part of the digest of the settings."""


@dataclass(frozen=True)
class SearchRules:
    """How the number of clusters is chosen."""

    k_min: int = 3
    """Two segments of normal customers are too coarse for campaigns of their own."""
    k_max: int = 8
    """More than eight segments can hardly be distinguished."""
    tolerance: float = 0.15
    """How far the silhouette may be below the best of the range, as a share of it. The best is nearly always the
    fewest clusters; 15 % allow more detail (Online Retail: 4 clusters instead of 3) and stop before clusters blur (6
    clusters are 20 % below)."""
    min_share: float = 0.05
    """The least share of the normal customers in the smallest cluster, also for promotion. Below a twentieth a cluster
    is a few unusual customers: once two clusters, one of 8 customers, had the best silhouette."""
    min_stability: float = 0.8
    """The least adjusted Rand index between the clusters and those of any bootstrap resample. At 0.8 the same groups
    are found again with other edges; where a group splits differently it is 0.6 (five clusters on Online Retail)."""
    resamples: int = 100
    """Bootstrap resamples. Five clusters of Online Retail disagree in about 4 of 100; with twenty, the seed decides
    whether one of them is drawn."""
    block: int = field(default=20, repr=False)
    """Resamples after which an unstable number of clusters is rejected without the others: in a shop where no number
    is stable, the search takes a fifth of the time. Not part of the digest of the settings."""
    max_customers: int = field(default=10_000, repr=False)
    """Of more normal customers, the search uses a seeded sample of this size; the chosen number is then fitted on all
    (ADR 23). Not part of the digest of the settings, because a model that is fitted already stays valid."""
    max_month_ends: int = field(default=4, repr=False)
    """Month ends whose later spend a search compares: every second, from the latest, so that the others are left for
    the back-test (ADR 38). Four cover the seasons of a year, and bound the cost."""
    min_month_ends: int = field(default=2, repr=False)
    """With fewer, transforms are not compared: one quarter is one season, and no month end would be left to report."""
    compared_customers: int = field(default=20_000, repr=False)
    """Of more customers, those whose later spend and nights are compared are a sample of this size (ADR 23)."""
    min_lead: float = field(default=0.01, repr=False)
    """The least lead in Gini, beside the noise, for which another transform is chosen: what nobody would notice is not
    worth features that are harder to explain."""
    chance: float = field(default=0.025, repr=False)
    """The chance that noise alone makes one of all candidates seem better than the default."""
    nights: int = field(default=28, repr=False)
    """Past nights over which the customers that keep their segment are counted: the days of a week differ, and one
    week of a shop of 2,500 customers has a noise of .06 %, as much as candidates differ by."""
    min_kept_overnight: float = field(default=0.992, repr=False)
    """The least share of the customers that keep their segment from one day to the next: the target of
    `docs/stability.md`."""


@dataclass(frozen=True)
class PromotionRules:
    """What a fitted model must satisfy to replace the active one without a person's approval."""

    min_kept: float = 0.95
    """The least share of the customers that keep their segment: a refit may move as many customers as a week of usual
    nights, not more."""
    max_moved: float = 0.25
    """No model is promoted on data under which more of the customers left their segment since the last run. A night
    moves about 1 %. A quarter is not behaviour but damaged data, such as shuffled columns, or pence for pounds, on
    which both models would agree."""
    min_agreement: float = 0.9
    """The least adjusted Rand index between the segments of both models. It detects a small segment that falls apart
    while the large segments stay, which `min_kept` does not."""
    max_quality_drop: float = 0.1
    """How far the silhouette may be below the active model's, as a share of it: the difference between three and four
    clusters on Online Retail. The same share applies to the smallest cluster where it is below
    `SearchRules.min_share`."""
    max_pending: int = 3
    """So many models pending approval make the check `last_model_was_promoted` an error. With weekly refits that is
    three weeks, longer than one bad week of data."""
    fence_steps: tuple[float, ...] = (0.5, 0.25, 0.125, 0.0)
    """How far a second attempt moves the fences from the active model's towards today's. A quartile of whole numbers
    jumps; without smaller steps every later refit would move too many customers, and would stay pending."""


@dataclass(frozen=True)
class HysteresisRules:
    """When a customer moves to another segment, so that nobody alternates at a border."""

    margin: float = 0.09
    """A customer leaves its segment only for a centroid that is nearer by this share of the distance. Of the values
    tried on Online Retail it has the most reserve (ADR 7)."""
    fence_margin: float = 0.05
    """A customer crosses a fence, in either direction, only beyond this share of it. With less, a night on which a
    fence jumps moves too many customers (ADR 7)."""
    max_pending_days: int = 30
    """A pending move is made after this time: no segment then reflects behaviour older than a month."""


@dataclass(frozen=True)
class DriftBounds:
    """Bounds of the warnings that today's customers differ from the customers that the model was fitted on."""

    max_psi: float = 0.25
    """Population stability index of a feature. Above 0.25 a population is usually considered changed (Siddiqi,
    2006)."""
    max_moved: float = 0.05
    """Share of the customers that changed their segment since the last run. A usual night moves less than 1 %, eight
    days at once 4 %."""
    max_new: float = 0.1
    """Share of the customers that the last run did not know. A shop of 4,000 customers wins about ten a night; a tenth
    means another source, or other customer ids."""


@dataclass(frozen=True)
class BacktestPeriods:
    """Which past month ends the segments are evaluated at."""

    history_days: int = 180
    """Days of data before a month end. With less, no customer has lapsed yet."""
    horizon_days: int = 90
    """Complete days after a month end, in which spend is measured: a quarter, in which two of three regular customers
    buy again (ADR 6)."""
    resamples: int = 200
    """Bootstrap resamples of each interval. Of 200, five lie beyond each end, enough for a warning."""
    max_customers: int = 1_000_000
    """Of more customers, a systematic sample of this size is evaluated, also for forecasts of customer value. Their
    arrays then take no more memory for more customers, and the noise of a Gini is about .001 (ADR 41)."""


FIT = FitRules()
SEARCH = SearchRules()
PROMOTION = PromotionRules()
HYSTERESIS = HysteresisRules()
DRIFT = DriftBounds()
BACKTEST = BacktestPeriods()
