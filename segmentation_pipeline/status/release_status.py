"""The current release: its age, its model, its drift and its loss.

Reads files of the release only, so that a run which holds the working database stops nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.status.problems import Problem, error, warning


@dataclass(frozen=True)
class ReleaseStatus:
    """The release that consumers see."""

    name: str
    path: str
    as_of: datetime
    published_at: datetime
    age_hours: float
    customers: int
    revenue: str
    currency: str
    newest: str
    paused_at: str | None


@dataclass(frozen=True)
class ModelStatus:
    """The active model, and the models that wait for a person."""

    model_id: str
    fitted_as_of: datetime
    n_clusters: int
    silhouette: float
    pending: list[str]


@dataclass(frozen=True)
class DriftMetric:
    """One measure of how far today's customers differ from those of the fit."""

    metric: str
    value: float
    bound: float


@dataclass(frozen=True)
class RejectedLines:
    """What one cleaning rule rejected; money is text, null where nobody knows it."""

    rule: str
    lines: int
    share: float
    amount: str | None
    amount_share: float | None


@dataclass(frozen=True)
class LossStatus:
    """What the release leaves out of the lines that were read."""

    lines_read: int
    lines_kept: int
    rejected: list[RejectedLines]


@dataclass(frozen=True)
class ReleaseContents:
    """What a release says of its model, its drift and its loss."""

    model: ModelStatus
    drift: list[DriftMetric]
    loss: LossStatus


def release_status(releases: Releases, release: Release, now: datetime) -> ReleaseStatus:
    """Return the facts of the current release from its manifest."""
    published_at = datetime.fromisoformat(release.manifest["published_at"])
    return ReleaseStatus(
        name=release.name,
        path=str(release.folder),
        as_of=release.as_of,
        published_at=published_at,
        age_hours=round((now - published_at).total_seconds() / 3600, 2),
        customers=release.metrics["customers"],
        revenue=str(release.metrics["revenue"]),
        currency=release.manifest.get("currency", ""),
        newest=releases.all()[-1].name,
        paused_at=releases.paused_at,
    )


def release_contents(release: Release) -> ReleaseContents:
    """Read the model, the drift and the loss of a release.

    Raises:
        duckdb.Error: The database of the release is damaged, or of another contract.
    """
    with release.connect() as connection:

        def rows(select: str) -> list[tuple[Any, ...]]:
            return connection.execute(select).fetchall()

        [(model_id, fitted_as_of, n_clusters, silhouette)] = rows(
            "select model_id, fitted_as_of, n_clusters, silhouette from segmentation_models where status = 'active'"
        )
        pending = rows(
            "select model_id from segmentation_models where status = 'pending' and fitted_as_of >="
            " (select active_from from segmentation_models where status = 'active') order by number"
        )
        drift = rows("select metric, value, bound from model_drift order by metric")
        steps = rows("select rule, lines, share, amount, amount_share, lines_left from cleaning_report order by step")
    rejected = [
        RejectedLines(rule, lines, share, None if amount is None else str(amount), amount_share)
        for rule, lines, share, amount, amount_share, _ in steps[1:]
        if lines
    ]
    return ReleaseContents(
        ModelStatus(model_id, fitted_as_of, n_clusters, silhouette, [name for (name,) in pending]),
        [DriftMetric(*row) for row in drift],
        LossStatus(steps[0][1], steps[-1][5], rejected),
    )


def release_problems(
    releases: Releases, status: ReleaseStatus | None, max_age_hours: float | None
) -> Iterator[Problem]:
    """Yield what is wrong with the releases.

    Args:
        releases: The releases of the retailer.
        status: The current release; None without one.
        max_age_hours: The age from which the release is stale; None where nothing says when the next is due.
    """
    if broken := releases.current_error:
        yield error("release", f"{broken}.", "`segments releases resume`, or a run that publishes, repairs it.")
    elif status is None:
        yield warning(
            "release", f"There is no release in {releases.folder} yet.", "`segments run` publishes the first."
        )
    for name, damage in releases.damaged.items():
        yield warning("release", f"{name} is damaged: {damage}.", "`segments releases verify` says what to do.")
    if status is None:
        return
    if status.paused_at:
        yield warning(
            "release",
            f"Publishing is paused at {status.paused_at}; the newest release is {status.newest}.",
            "`segments releases resume` makes the newest current.",
        )
    elif max_age_hours is not None and status.age_hours >= max_age_hours:
        yield error(
            "release",
            f"{status.name} is {status.age_hours:,.0f} hours old; it is stale from {max_age_hours:g} hours on.",
            "Look at the last runs and the schedules; `segments run` publishes a new release.",
        )


def contents_problems(contents: ReleaseContents) -> Iterator[Problem]:
    """Yield what a person should look at in the release: drift beyond its bounds, and models that wait."""
    drifted = [one for one in contents.drift if one.value > one.bound]
    if drifted:
        listed = ", ".join(f"{one.metric} {one.value:.3f} (bound {one.bound:g})" for one in drifted)
        yield warning(
            "drift", f"Today's customers differ from those of the fit: {listed}.", "Fit again: `segments run --refit`."
        )
    if pending := contents.model.pending:
        yield warning(
            "model",
            f"Pending approval: {', '.join(pending)}.",
            "`segments model list` shows the reasons; `segments model promote NAME` activates one.",
        )
