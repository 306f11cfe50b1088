"""Choose the transform and the number of clusters together: the most useful of the stable candidates.

Contains the rule and the verdict on each candidate. The conditions of one transform are in `k_search`, the measures of
usefulness in `usefulness`.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import get_args

from segmentation_pipeline.model.arrays import Array
from segmentation_pipeline.model.k_search import (
    KSearchResult,
    NumberSearch,
    Report,
    fit_on_all,
    searched_sample,
)
from segmentation_pipeline.model.kmeans import KMeansFit, Transform
from segmentation_pipeline.model.naming import name_clusters
from segmentation_pipeline.model.segmentation_model import Fence, SegmentationModel
from segmentation_pipeline.model.thresholds import FitRules, SearchRules
from segmentation_pipeline.model.usefulness import Lead, Past, lead_over, mean_ginis, scaled_months

DEFAULT: Transform = "standard"
TRANSFORMS: tuple[Transform, ...] = get_args(Transform)
# A transform, and a number of clusters.
Choice = tuple[Transform, int]


def search_model(
    features: Array,
    *,
    fences: dict[str, Fence],
    past: Past,
    rules: SearchRules | None = None,
    method: FitRules | None = None,
    report: Report = lambda _: None,
) -> KSearchResult:
    """Choose the most useful candidate of all transforms and numbers of clusters that meets every condition.

    The default is what `search_k` chooses for the transform `standard`. Another candidate is chosen only if it is
    clearly more useful: its clusters, formed at past month ends, predict the later spend of normal customers with a
    Gini that is higher by `min_lead`, and by more than the noise. Of these the one with the highest Gini is chosen that
    meets the conditions of `search_k` for its transform, and under which `min_kept_overnight` of the customers keep
    their segment from one night to the next. What cannot change the choice is not measured.

    Args:
        features: Shape (n, 3), the normal customers in natural units, sorted by customer.
        fences: The fences of the model.
        past: What candidates are compared by.
        rules: As of `search_k`.
        method: As of `search_k`.
        report: As of `search_k`.

    Raises:
        ValueError: There are too few distinct customers for the fewest clusters, or no feature varies.
    """
    rules, method = rules or SearchRules(), method or FitRules()
    sample = searched_sample(features, rules, method)
    searches = {transform: NumberSearch(sample, transform, rules, method, report) for transform in TRANSFORMS}
    number, passes = searches[DEFAULT].choose()
    default, found = (DEFAULT, number), searches[DEFAULT].candidates(number, passes)
    leads = _leads(default, past, rules, method, report)
    if not leads:
        return KSearchResult(fit_on_all(features, sample, searches[DEFAULT].models[number], method), found, passes)
    judged = {(DEFAULT, one.n_clusters): _Judged(one.verdict) for one in found}
    judged |= dict(_judged(leads, searches, fences, past, rules, default))
    chosen = next((choice for choice, one in judged.items() if one.is_chosen), default)
    if chosen != default:
        judged[default] = _Judged(f"Not chosen: {_words(chosen)} is clearly more useful, and passes.")
    candidates = []
    for choice in ((transform, k) for transform, search in searches.items() for k in search.numbers):
        (transform, k), lead = choice, leads.get(choice)
        one = judged.get(choice) or _Judged(_not_useful(lead, default))
        candidates.append(
            replace(
                searches[transform].candidate(k, one.verdict, is_chosen=choice == chosen),
                gini=lead.gini if lead else None,
                gini_lead=lead.difference if lead else None,
                gini_lead_low=lead.low if lead else None,
                kept_overnight=one.kept,
            )
        )
    fitted = fit_on_all(features, sample, searches[chosen[0]].models[chosen[1]], method)
    months = tuple(month.month_end for month in past.months)
    return KSearchResult(fitted, candidates, passes or chosen != default, months)


@dataclass(frozen=True)
class _Judged:
    """The verdict on a candidate.

    Attributes:
        verdict: The reason for or against it.
        kept: The share of customers that keep their segment overnight; None if it was not measured.
        is_chosen: Whether it is clearly more useful than the default and meets every condition.
    """

    verdict: str
    kept: float | None = None
    is_chosen: bool = False


def _leads(default: Choice, past: Past, rules: SearchRules, method: FitRules, report: Report) -> dict[Choice, Lead]:
    """Return how much better each candidate predicts later spend than the default; empty if that is not defined."""
    from threadpoolctl import threadpool_limits

    ginis, numbers = dict[Choice, Array](), range(rules.k_min, rules.k_max + 1)
    # As in `resampling.bootstrap_ari`: each fit has one thread, so that its sums do not depend on their number.
    pool = ThreadPoolExecutor(os.cpu_count(), initializer=threadpool_limits, initargs=(1,))
    with threadpool_limits(1), pool:
        for transform in TRANSFORMS:
            report(f"comparing later spend of {rules.k_min} to {rules.k_max} clusters, {transform}")
            compared = partial(mean_ginis, scaled_months(past.months, transform, method=method), method=method)
            found = zip(numbers, pool.map(compared, numbers), strict=True)
            ginis |= {(transform, k): one for k, one in found if one is not None}
            if transform == DEFAULT and default not in ginis:
                return {}
    return {
        choice: lead_over(one, ginis[default], comparisons=len(ginis) - 1, chance=rules.chance)
        for choice, one in ginis.items()
    }


def _judged(
    leads: dict[Choice, Lead],
    searches: dict[Transform, NumberSearch],
    fences: dict[str, Fence],
    past: Past,
    rules: SearchRules,
    default: Choice,
) -> Iterator[tuple[Choice, _Judged]]:
    """Yield the candidates that are clearly more useful than the default, the most useful first."""
    useful = [choice for choice, lead in leads.items() if lead.difference >= rules.min_lead and lead.low > 0]
    winner: Choice | None = None
    for choice in sorted(useful, key=lambda choice: (-leads[choice].gini, choice)):
        (transform, k), search = choice, searches[choice[0]]
        if winner is not None:
            yield (
                choice,
                _Judged(f"Not chosen: {_words(winner)} is more useful and passes, so the rest was not measured."),
            )
        elif not search.passes(k):
            yield choice, _Judged(f"Not chosen: {' and '.join(search.shortfalls(k))}.")
        else:
            # Replayed last, because it takes longest.
            kept = past.kept_overnight(_model(search.models[k], fences))
            share = f"{kept:.2%} of the customers keep their segment overnight"
            if kept < rules.min_kept_overnight:
                yield choice, _Judged(f"Not chosen: {share}, less than {rules.min_kept_overnight:.1%}.", kept)
                continue
            winner = transform, k
            verdict = (
                f"Chosen, the most useful that passes: {_useful(leads[choice], default)}; {share} (at least"
                f" {rules.min_kept_overnight:.1%}), {search.met(k)}."
            )
            yield choice, _Judged(verdict, kept, is_chosen=True)


def _model(found: KMeansFit, fences: dict[str, Fence]) -> SegmentationModel:
    """Return the model that a first fit would make of these clusters."""
    return SegmentationModel(fences, found.scaler, found.centroids_, tuple(name_clusters(found.standardised_)))


def _not_useful(lead: Lead | None, default: Choice) -> str:
    """Return the verdict on a candidate of another transform that is not clearly more useful than the default."""
    if lead is None:
        return "Left out: there are too few distinct customers at a month end."
    return f"Not chosen: not clearly more useful; {_useful(lead, default)}."


def _useful(lead: Lead, default: Choice) -> str:
    """Return the usefulness of a candidate in words."""
    return (
        f"Gini {lead.gini:.4f} of later spend, {_words(default)} {lead.other:.4f}, a lead of {lead.difference:.4f}"
        f" (at least {lead.low:.4f} beyond the noise)"
    )


def _words(choice: Choice) -> str:
    return f"{choice[0]} with {choice[1]} clusters"
