"""A refit: a candidate put before the gate, which lets it stand or holds it with reasons.

Belongs here: what may replace the model that stands. How a model is made is told in `fitting`.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import FitError
from segmentation_pipeline.segments.membership import is_before_last_change, last_change_at
from segmentation_pipeline.segments.registry import Entry, Registry, with_model
from segmentation_pipeline.segments.training import Candidate, features_of, fit
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import TableWrite, Warehouse

if TYPE_CHECKING:
    from segmentation_pipeline.model.segmentation_model import Keys

# Raise it when the method of the fit changes.
METHOD_VERSION = "1"
# How far the fences of a refit go from the standing ones to today's, where they cannot go all the way.
FENCE_STEPS = (0.5, 0.25, 0.125, 0.0)


def next_registry(
    database: Warehouse, settings: Retailer, *, refit: bool = True, search: bool = False, accept_change: bool = False
) -> tuple[Registry, list[TableWrite]]:
    """Return the registry after a run that materialises the model, and the table of the search if there was one.

    A model that a person has approved becomes active. Then a model is fitted if that is asked for, or the settings
    have changed since the last fit.

    Raises:
        FitError: The run is for an earlier as_of than the last change of the membership history.
    """
    as_of = database.row("select max(as_of) as as_of from rfm_features")["as_of"]
    if is_before_last_change(database, as_of) and not accept_change:
        raise FitError(
            f"This run is as of {as_of}, and segment_membership goes to {last_change_at(database)}. A model is fitted"
            " for later runs, not for the past: fit in a run as of the last change, or later. To take back the later"
            " changes, run with accept_change (--accept-change)."
        )
    registry, searched = Registry.of(database).decided(as_of), list[TableWrite]()
    if refit or search or not suits(registry, settings.model_digest):
        registry, searched = _refit(database, settings, registry, as_of, search=search, accept_change=accept_change)
    return registry, searched or [TableWrite("kmeans_candidates", "select * from kmeans_candidates")]


def fit_is_due(registry: Registry, settings: Retailer) -> bool:
    """Return whether the next run must materialise the model: none is active, one is approved, or settings changed."""
    return registry.promoted is not None or not suits(registry, settings.model_digest)


def suits(registry: Registry, digest: str) -> bool:
    """Return whether the last model, active or pending, was fitted with these settings."""
    return registry.standing is not None and registry.entries[-1].facts["settings_digest"] == digest


def _refit(
    warehouse: Warehouse,
    settings: Retailer,
    registry: Registry,
    as_of: datetime,
    *,
    search: bool = False,
    accept_change: bool = False,
) -> tuple[Registry, list[TableWrite]]:
    """Fit a candidate on `rfm_features`, put it before the gate; the registry after that, and the rows of the search.

    The first model stands. Another stands if nothing speaks against it, or a person has accepted it. Where something
    does, fences nearer to the standing ones are tried: a quartile of whole numbers jumps, and so many customers with
    it that the gate would hold every refit from then on. If nothing passes, the first candidate is held.
    """
    registry = registry.before(as_of)
    standing, features, number = registry.standing, features_of(warehouse), registry.next_number
    first = fit(features, settings, as_of, standing=standing, number=number, search=search)
    if standing is None:
        return registry.with_standing(first.entry, as_of), first.candidates
    if first.entry.model_id == standing.model_id:
        return registry, first.candidates
    refused = judged(warehouse, first, standing, settings)
    tried = refused
    comparable = first.model.fences.keys() == standing.model.fences.keys() and not search
    for step in FENCE_STEPS if comparable and not accept_change else ():
        if tried.facts["reasons"] is None:
            break
        nearer = fit(features, settings, as_of, standing=standing, number=number, fence_step=step)
        tried = judged(warehouse, nearer, standing, settings)
    if tried.facts["reasons"] is None or accept_change:
        return registry.with_standing(tried, as_of), first.candidates
    return registry.with_held(refused), first.candidates


def judged(warehouse: Warehouse, candidate: Candidate, standing: Entry, settings: Retailer) -> Entry:
    """The candidate's entry with what the gate found: under each model every customer as it would be published."""
    from segmentation_pipeline.model.kmeans import rounded
    from segmentation_pipeline.model.matching import agreement, kept_share

    now, before = _segments_under(warehouse, standing, settings)
    then, _ = _segments_under(warehouse, candidate.entry, settings)
    known = before != ""
    entry = candidate.entry.replace(
        moved_share=float(rounded((now != before)[known].mean())) if known.any() else 0.0,
        kept_share=float(rounded(kept_share(now, then))),
        agreement=float(rounded(agreement(now, then))),
    )
    found = " ".join(_reasons(entry, candidate, standing, settings))
    return entry.replace(reasons=found or None)


def _segments_under(warehouse: Warehouse, entry: Entry, settings: Retailer) -> "tuple[Keys, Keys]":
    """Where each customer would be tonight under a model, and where it was before (empty: it was not known)."""
    tonight = {name: f"select * from main.{name}" for name in ("rfm_features", "previous_segments")}
    given = with_model(warehouse, entry, "assigned_segments", tonight)
    [(name, text)] = given.relations.items()
    found = warehouse.fetch(
        f"with {quoted(name)} as ({text}) select tonight.segment_key, coalesce(before.segment_key, '') as before"
        f" from {quoted(name)} as tonight left join previous_segments as before using (customer_id)"
        " order by customer_id",
        settings.sql_values | given.values,
    )
    return found["segment_key"].astype("U32"), found["before"].astype("U32")


def _reasons(entry: Entry, candidate: Candidate, standing: Entry, settings: Retailer) -> Iterator[str]:
    """Why a person should look before the candidate replaces the standing model; each a sentence with its figures."""
    facts, bounds, least = entry.facts, settings.promotion, standing.facts
    if (retiring := sorted(standing.keys - entry.keys)) or len(entry.keys) != len(standing.keys):
        new, old = (", ".join(keys) or "none" for keys in (sorted(entry.keys - standing.keys), retiring))
        yield f"{len(entry.keys)} clusters for {len(standing.keys)}: new {new}; retiring {old}."
    if facts["moved_share"] > bounds.max_moved:
        yield (
            f"Under the standing model already {facts['moved_share']:.1%} of the customers left their segment since the"
            f" last run, more than {bounds.max_moved:.0%}: the data changed, not the customers."
        )
    # A part of the way is gone again a week later: of what may move at all, half.
    least_kept = (1 + bounds.min_kept) / 2 if 0 < facts["fence_step"] < 1 else bounds.min_kept
    if facts["kept_share"] < least_kept:
        yield f"Only {facts['kept_share']:.1%} of the customers would keep their segment, not {least_kept:.1%}."
    if facts["agreement"] < bounds.min_agreement:
        yield f"The Rand index with the standing model is {facts['agreement']:.3f}, below {bounds.min_agreement:g}."
    floor = least["silhouette"] - bounds.max_quality_drop * abs(least["silhouette"])
    if facts["silhouette"] < floor:
        yield f"The silhouette fell from {least['silhouette']:.3f} to {facts['silhouette']:.3f}, below {floor:.3f}."
    # A number of clusters that a person asks for may have a small one from the start.
    floor = min(settings.model.min_share, (1 - bounds.max_quality_drop) * least["smallest_share"])
    if facts["smallest_share"] < floor:
        share = f"{facts['smallest_share']:.1%} of the normal customers"
        yield f"The smallest cluster holds {share}, less than {floor:.1%}."
    for key in _misnamed(candidate):
        yield f"The name of {key} no longer fits where its cluster lies."


def _misnamed(candidate: Candidate) -> list[str]:
    """The keys whose cluster lies nearer to another name's place, and that would have another name today."""
    from segmentation_pipeline.model.naming import misplaced, name_clusters

    places, keys = candidate.fit.standardised_, candidate.model.keys
    today = dict(zip(keys, name_clusters(places), strict=True))
    return [key for key in misplaced(places, keys) if today[key] != key]
