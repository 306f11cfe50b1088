"""No published column changes without a new version of the contract and a line in the changelog.

`published/<version>.txt` lists the columns of each version, one per line. The file of a released version never changes.
`python -m segmentation_pipeline_tests.tables.test_contract_version` writes the file of a new version.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from segmentation_pipeline.tables.catalog import CONTRACT_VERSION, published

CONTRACTS = Path(__file__).with_name("published")
CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"
Version = tuple[int, int, int]
Columns = dict[str, str]


def published_columns() -> Iterator[str]:
    """Yield each published column with what consumers depend on: type, key, null, unit."""
    for contract in published():
        for column in contract.columns:
            null = "may be null" if column.nullable else ""
            key = "key" if column.name in contract.key else ""
            facts = filter(None, (column.type, key, null, column.unit and f"[{column.unit}]"))
            yield f"{contract.table}.{column.name}: {', '.join(facts)}"


def frozen(version: Version) -> Path:
    return CONTRACTS / f"{'.'.join(map(str, version))}.txt"


def columns(lines: list[str]) -> Columns:
    return dict(line.split(": ", 1) for line in lines)


def number(text: str) -> Version:
    major, minor, patch = map(int, text.split("."))
    return major, minor, patch


def differing(old: Columns, new: Columns) -> tuple[set[str], set[str]]:
    """Return the columns that were removed or changed, and those that were added."""
    broken = {name for name, facts in old.items() if new.get(name) != facts}
    return broken, new.keys() - old.keys()


def is_raised_enough(old: Version, new: Version, broken: set[str], added: set[str]) -> bool:
    """Return whether the version was raised by as much as the difference requires."""
    if broken:
        return new[0] > old[0]
    return new[:2] > old[:2] if added else new > old


def unmentioned(section: str, old: Columns, new: Columns) -> list[str]:
    """Return the differences that the changelog does not name: whole tables by their names, other columns."""
    tables = [{name.split(".")[0] for name in columns} for columns in (old, new)]
    broken, added = differing(old, new)
    in_both = tables[0] & tables[1]
    wanted = {name if name.split(".")[0] in in_both else name.split(".")[0] for name in broken | added}
    return sorted(name for name in wanted if f"`{name.split('.')[-1]}`" not in section and f"`{name}`" not in section)


def section_of(version: Version) -> str:
    """Return the text of the changelog under the headings of a contract version."""
    parts = re.split(r"^(?=## )", CHANGELOG.read_text("utf-8"), flags=re.MULTILINE)
    heading = re.compile(rf"## .* - contract {re.escape('.'.join(map(str, version)))}\n")
    return "".join(part for part in parts if heading.match(part))


VERSIONS = sorted(number(path.stem) for path in CONTRACTS.glob("*.txt"))


def test_published_columns_are_those_of_their_contract_version() -> None:
    file = frozen(number(CONTRACT_VERSION))
    assert VERSIONS[-1] == number(CONTRACT_VERSION), (
        f"{file.name} is missing; this module's docstring says how to write it"
    )
    assert list(published_columns()) == file.read_text("utf-8").splitlines(), (
        f"published columns differ from contract {CONTRACT_VERSION}: raise CONTRACT_VERSION in tables/catalog.py,"
        " describe the change in CHANGELOG.md, and write the file of the new version (see this module's docstring)"
    )


@pytest.mark.parametrize(("old", "new"), [*pairwise(VERSIONS)])
def test_each_version_is_raised_enough_and_described_in_the_changelog(old: Version, new: Version) -> None:
    before, after = (columns(frozen(version).read_text("utf-8").splitlines()) for version in (old, new))
    broken, added = differing(before, after)
    assert is_raised_enough(old, new, broken, added), f"{sorted(broken)} removed or changed, {sorted(added)} added"
    assert section_of(new), f"CHANGELOG.md has no heading that ends in `- contract {'.'.join(map(str, new))}`"
    assert unmentioned(section_of(new), before, after) == []


BEFORE = {"shelf.product": "VARCHAR, key", "shelf.units": "INTEGER"}


@pytest.mark.parametrize(
    ("after", "raised", "not_enough"),
    [
        ({"shelf.product": "VARCHAR, key"}, (2, 0, 0), (1, 3, 0)),
        ({**BEFORE, "shelf.units": "BIGINT"}, (2, 0, 0), (1, 3, 0)),
        ({**BEFORE, "shelf.units": "INTEGER, may be null"}, (2, 0, 0), (1, 2, 4)),
        ({**BEFORE, "shelf.colour": "VARCHAR"}, (1, 3, 0), (1, 2, 4)),
        ({**BEFORE, "till.coins": "INTEGER"}, (2, 0, 0), (1, 2, 3)),
    ],
)
def test_an_undescribed_change_is_detected(after: Columns, raised: Version, not_enough: Version) -> None:
    broken, added = differing(BEFORE, after)
    assert is_raised_enough((1, 2, 3), raised, broken, added)
    assert not is_raised_enough((1, 2, 3), not_enough, broken, added)
    assert unmentioned("- Nothing of note about units.", BEFORE, after) != []
    assert unmentioned("- `shelf.units`, `colour` and `till` are others.", BEFORE, after) == []


if __name__ == "__main__":
    made = frozen(number(CONTRACT_VERSION))
    if made.exists():
        raise SystemExit(f"{made} exists: raise CONTRACT_VERSION, or delete the file if no release was ever published")
    made.parent.mkdir(exist_ok=True)
    made.write_text("\n".join(published_columns()) + "\n", "utf-8")
