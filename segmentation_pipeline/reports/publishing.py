"""Write the report beside its release.

Contains which release it is compared with, and when the page of the last release can be used again. What the page says
is in `report`, which is imported only where it is drawn.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from segmentation_pipeline.releases.files import Release, add_report
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.reports.frames import COMPARED, digest_of

if TYPE_CHECKING:
    from segmentation_pipeline.reports.figures import Drawing

# Entries of the manifest that differ between releases of the same content.
_OF_ONE_RELEASE = ("release", "run_id", "published_at", "files", "made_from", "copied", "digest")
_DIGEST = re.compile(r'<meta name="digest" content="(\w+)">')
# The digest is in the first lines of a page.
_HEAD = 2_000


@dataclass(frozen=True)
class Written:
    """How a report was written.

    Attributes:
        drawings: Its charts, without SVG where that of the last page was used again; none where the whole page was.
        same_as: The release whose page shows the same; empty where this one was drawn.
    """

    drawings: Sequence["Drawing"]
    same_as: str = ""


def previous_of(release: Release, releases: Sequence[Release]) -> Release | None:
    """Return the newest of the releases with an earlier as-of date; a repeated run of a day is no comparison."""
    earlier = [other for other in releases if other.name < release.name and other.as_of < release.as_of]
    return earlier[-1] if earlier else None


def write_report(
    releases: Releases, release: Release, title: str, group: str | None, *, redraw: bool = False
) -> Written:
    """Write the report of a release; a night without news uses the page of the last release again.

    Args:
        releases: All releases, of which an earlier one is compared.
        release: The release.
        title: The name of the retailer for readers.
        group: The group that may read the release.
        redraw: Draw it, and each of its charts, even where the last release shows the same.
    """
    everyone = releases.all()
    previous = previous_of(release, everyone)
    digest = _digest(release, title, previous)
    last = next((other for other in reversed(everyone) if other.name < release.name), None)
    if not redraw and last is not None and _digest_in(last) == digest:
        add_report(release, last.report.read_text("utf-8").replace(last.name, release.name), group)
        return Written((), last.name)
    # Drawing takes half a second to import.
    from segmentation_pipeline.reports.report import report_of

    page = "" if redraw or last is None else _page_of(last)
    report = report_of(release, title, previous, digest=digest, code=_code(), last=page)
    add_report(release, report.html, group)
    return Written(report.drawings)


def _digest(release: Release, title: str, previous: Release | None) -> str:
    """Return a digest of all that the page of a release shows, except for the release's name."""
    manifest = {name: value for name, value in release.manifest.items() if name not in _OF_ONE_RELEASE}
    parts = [title, json.dumps(manifest, sort_keys=True), _code(), digest_of(release, previous)]
    parts += [previous.name, digest_of(previous, names=COMPARED)] if previous is not None else []
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@cache
def _code() -> str:
    """Return a digest of this package: another version may draw the same rows otherwise."""
    digest = hashlib.sha256()
    for file in sorted(path for path in Path(__file__).parent.rglob("*") if path.suffix in (".py", ".sql", ".jinja")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _page_of(release: Release) -> str:
    """Return the report of a release; empty where there is none."""
    try:
        return release.report.read_text("utf-8")
    except OSError:
        return ""


def _digest_in(release: Release) -> str:
    """Return the digest in the report of a release; empty where there is no report."""
    try:
        with release.report.open(encoding="utf-8") as file:
            found = _DIGEST.search(file.read(_HEAD))
    except OSError:
        return ""
    return found[1] if found else ""
