"""Decide which model is active: activate an approved one, or fit a candidate and compare it with the active model.

Contains the conditions of promotion and the reasons for which a model is pending approval. How a model is fitted is in
`training`.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import FitError
from segmentation_pipeline.model import thresholds
from segmentation_pipeline.segments.counterfactual import with_model
from segmentation_pipeline.segments.membership import is_before_last_change, last_change_at
from segmentation_pipeline.segments.past_customers import read_past
from segmentation_pipeline.segments.registry import ModelRecord, Registry
from segmentation_pipeline.segments.training import CandidateModel, fit_candidate, read_features
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.table_write import TableWrite

# Raise it when the method of the fit or of promotion changes.
METHOD_VERSION = "2"
# What assignments under another model read as it is stored.
_STORED = {
    "rfm_features": "select * from main.rfm_features",
    "previous_segments": "select * from main.previous_segments",
}
_COUNTS = """
select today.before, today.current, proposed.segment_key as proposed, count(*) as customers
from temp.current_segments as today
inner join proposed using (customer_id)
group by all
order by all
"""


def next_registry(
    database: Warehouse, settings: Retailer, *, refit: bool = True, search: bool = False, accept_change: bool = False
) -> tuple[Registry, list[TableWrite]]:
    """Return the registry after a run that materialises the model, and the table of the search.

    A model that a person has approved becomes active. Then a model is fitted if that is requested, or if the settings
    have changed since the last fit.

    Args:
        database: The working database, with today's `rfm_features`.
        settings: The retailer's settings.
        refit: Whether to fit a model although none is due.
        search: Whether to fit a model and choose its transform and number of clusters again.
        accept_change: Whether a person has accepted a model that fails promotion.

    Raises:
        FitError: A fit is requested as of an earlier time than the last change of the membership history, or there are
            too few distinct customers.
    """
    as_of = database.row("select max(as_of) as as_of from rfm_features")["as_of"]
    kept = [TableWrite("kmeans_candidates", "select * from kmeans_candidates")]
    if is_before_last_change(database, as_of) and not accept_change:
        if not (refit or search):
            return Registry.of(database), kept
        raise FitError(
            f"This run is as of {as_of}, and segment_membership goes to {last_change_at(database)}. A model is fitted"
            " for later runs, not for the past: fit in a run as of the last change, or later. To take back the later"
            " changes, run with accept_change (--accept-change)."
        )
    registry, searched = Registry.of(database).with_approved_activated(as_of), list[TableWrite]()
    if refit or search or not is_current(registry, settings):
        registry, searched = fit_and_promote(
            database, settings, registry, as_of, search=search, accept_change=accept_change
        )
    return registry, searched or kept


def fit_is_due(registry: Registry, settings: Retailer) -> bool:
    """Return whether the next run must materialise the model: none is active, one is approved, or settings changed."""
    return registry.approved is not None or not is_current(registry, settings)


def is_current(registry: Registry, settings: Retailer) -> bool:
    """Return whether the last model, active or pending, was fitted with these settings.

    With `auto`, any transform is what a search may have chosen, so the digest of the settings does not contain it.
    """
    if registry.active is None:
        return False
    last = registry.models[-1]
    return last.settings_digest == settings.model_digest and settings.model.transform in ("auto", last.transform)


def fit_and_promote(
    database: Warehouse,
    settings: Retailer,
    registry: Registry,
    as_of: datetime,
    *,
    search: bool = False,
    accept_change: bool = False,
) -> tuple[Registry, list[TableWrite]]:
    """Fit a candidate on `rfm_features` and promote it, or leave it pending approval.

    The first model becomes active. A later one becomes active if it meets every condition of promotion, or if a person
    has accepted it. If it fails, candidates with fences nearer to the active model's are tried. If none of them
    passes, the first candidate is pending approval.

    Returns:
        The registry after the fit, and the table of the search if there was one.
    """
    registry = registry.before_fit(as_of)
    active, features, number = registry.active, read_features(database), registry.next_number
    is_compared = settings.model.transform == "auto" and (search or active is None)
    past = read_past(database, settings, as_of) if is_compared else None
    first = fit_candidate(features, settings, as_of, active=active, number=number, search=search, past=past)
    if active is None:
        return registry.with_active(first.record, as_of), first.search_writes
    if first.record.model_id == active.model_id:
        return registry, first.search_writes
    _create_current_segments(database, active, settings)
    evaluated = tried = evaluate(database, first, active, settings)
    is_comparable = first.model.fences.keys() == active.model.fences.keys() and not search
    for step in thresholds.PROMOTION.fence_steps if is_comparable and not accept_change else ():
        if tried.reasons is None:
            break
        nearer = fit_candidate(features, settings, as_of, active=active, number=number, fence_step=step)
        tried = evaluate(database, nearer, active, settings)
    if tried.reasons is None or accept_change:
        return registry.with_active(tried, as_of), first.search_writes
    return registry.with_pending(evaluated), first.search_writes


def evaluate(database: Warehouse, candidate: CandidateModel, active: ModelRecord, settings: Retailer) -> ModelRecord:
    """Return the candidate's record with the comparison of both models over the segments that would be published.

    Args:
        database: The working database, with the temporary table of the current segments.
        candidate: The candidate.
        active: The active model.
        settings: The retailer's settings.
    """
    from segmentation_pipeline.model.arrays import round_significant
    from segmentation_pipeline.model.matching import agreement, kept_share

    proposed = with_model(database, candidate.record.model, "assigned_segments", _STORED)
    # Counted in SQL: the segments of millions of customers are gigabytes of text in Python.
    counted = database.rows(f"with proposed as ({proposed}) {_COUNTS}", **settings.sql_values)
    pairs, known, moved = Counter[tuple[str, str]](), 0, 0
    for row in counted:
        pairs[row["current"], row["proposed"]] += row["customers"]
        if row["before"] is not None:
            known += row["customers"]
            moved += row["customers"] if row["before"] != row["current"] else 0
    record = replace(
        candidate.record,
        moved_share=float(round_significant(moved / known)) if known else 0.0,
        kept_share=float(round_significant(kept_share(pairs))),
        agreement=float(round_significant(agreement(pairs))),
    )
    return replace(record, reasons=" ".join(_reasons(record, candidate, active)) or None)


def _create_current_segments(database: Warehouse, active: ModelRecord, settings: Retailer) -> None:
    """Create the temporary table of each customer's segment today under the active model, and of that before."""
    assigned = with_model(database, active.model, "assigned_segments", _STORED)
    database.execute(
        f"create or replace temp table current_segments as with today as ({assigned})"  # noqa: S608 - own SQL
        " select today.customer_id, today.segment_key as current, previous.segment_key as before"
        " from today left join previous_segments as previous using (customer_id)",
        settings.sql_values,
    )


def _reasons(record: ModelRecord, candidate: CandidateModel, active: ModelRecord) -> Iterator[str]:
    """Yield each reason for which a person must approve the candidate, as a sentence with its values."""
    assert record.moved_share is not None
    assert record.kept_share is not None
    assert record.agreement is not None
    rules = thresholds.PROMOTION
    if (retired := sorted(active.keys - record.keys)) or len(record.keys) != len(active.keys):
        new, old = (", ".join(keys) or "none" for keys in (sorted(record.keys - active.keys), retired))
        yield f"{len(record.keys)} clusters instead of {len(active.keys)}: new {new}; retired {old}."
    if record.moved_share > rules.max_moved:
        yield (
            f"Under the active model {record.moved_share:.1%} of the customers left their segment since the last run,"
            f" more than {rules.max_moved:.0%}: check the source before you promote it."
        )
    # Where fences move only a part of the way, the next refit moves customers again: this one may move half as many.
    min_kept = (1 + rules.min_kept) / 2 if 0 < record.fence_step < 1 else rules.min_kept
    if record.kept_share < min_kept:
        yield f"Only {record.kept_share:.1%} of the customers would keep their segment, less than {min_kept:.1%}."
    if record.agreement < rules.min_agreement:
        yield (
            f"The adjusted Rand index with the active model is {record.agreement:.3f}, below {rules.min_agreement:g}."
        )
    bound = active.silhouette - rules.max_quality_drop * abs(active.silhouette)
    if record.silhouette < bound:
        yield f"The silhouette fell from {active.silhouette:.3f} to {record.silhouette:.3f}, below {bound:.3f}."
    # A number of clusters set by a person may have a small cluster from the start.
    bound = min(thresholds.SEARCH.min_share, (1 - rules.max_quality_drop) * active.smallest_share)
    if record.smallest_share < bound:
        share = f"{record.smallest_share:.1%} of the normal customers"
        yield f"The smallest cluster holds {share}, less than {bound:.1%}."
    for key in _misnamed(candidate):
        yield f"The name of {key} no longer fits the position of its cluster."


def _misnamed(candidate: CandidateModel) -> list[str]:
    """Return the keys whose centroid is nearer to another segment's position, and that naming would not give today."""
    from segmentation_pipeline.model.naming import misplaced, name_clusters

    centroids, keys = candidate.fit.standardised_, candidate.model.keys
    today = dict(zip(keys, name_clusters(centroids), strict=True))
    return [key for key in misplaced(centroids, keys) if today[key] != key]
