"""No published column changes without a new version of the contract and a line in the changelog.

What each version promised stands in `contracts/<version>.txt`, a column a line. A version that was once released is
never written again; the file of a new one is made by `python -m segmentation_pipeline_tests.tables.test_contract_version`.
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


def promised() -> Iterator[str]:
    """Each published column as a consumer depends on it: type, unit, whether it is null, whether it is in the key."""
    for contract in published():
        for column in contract.columns:
            null = "may be null" if column.nullable else ""
            key = "key" if column.name in contract.key else ""
            told = filter(None, (column.type, key, null, column.unit and f"[{column.unit}]"))
            yield f"{contract.table}.{column.name}: {', '.join(told)}"


def frozen(version: Version) -> Path:
    return CONTRACTS / f"{'.'.join(map(str, version))}.txt"


def columns(lines: list[str]) -> Columns:
    return dict(line.split(": ", 1) for line in lines)


def number(text: str) -> Version:
    major, minor, patch = map(int, text.split("."))
    return major, minor, patch


def differing(old: Columns, new: Columns) -> tuple[set[str], set[str]]:
    """The columns that went or changed, and those that came."""
    broken = {name for name, told in old.items() if new.get(name) != told}
    return broken, new.keys() - old.keys()


def is_bumped(old: Version, new: Version, broken: set[str], came: set[str]) -> bool:
    """Whether the number went up by as much as the difference asks."""
    if broken:
        return new[0] > old[0]
    return new[:2] > old[:2] if came else new > old


def unmentioned(section: str, old: Columns, broken: set[str], came: set[str]) -> list[str]:
    """What differs and is not named in the changelog: a table that is new as a whole, else the column."""
    tables_before = {name.split(".")[0] for name in old}
    wanted = {name.split(".")[0] if name.split(".")[0] not in tables_before else name for name in broken | came}
    return sorted(name for name in wanted if f"`{name.split('.')[-1]}`" not in section and f"`{name}`" not in section)


def section_of(version: Version) -> str:
    """All that the changelog says under the headings of one version of the contract."""
    parts = re.split(r"^(?=## )", CHANGELOG.read_text("utf-8"), flags=re.MULTILINE)
    heading = re.compile(rf"## .* - contract {re.escape('.'.join(map(str, version)))}\n")
    return "".join(part for part in parts if heading.match(part))


VERSIONS = sorted(number(path.stem) for path in CONTRACTS.glob("*.txt"))


def test_the_published_columns_are_those_of_the_version_that_they_are_published_as() -> None:
    file = frozen(number(CONTRACT_VERSION))
    assert VERSIONS[-1] == number(CONTRACT_VERSION), f"{file.name} is not there: see this module's first lines"
    assert list(promised()) == file.read_text("utf-8").splitlines(), (
        f"published columns differ from contract {CONTRACT_VERSION}: raise CONTRACT_VERSION in tables.py, tell it in"
        " CHANGELOG.md, and make the file of the new version (see this module's first lines)"
    )


@pytest.mark.parametrize(("old", "new"), [*pairwise(VERSIONS)])
def test_each_version_is_raised_by_as_much_as_it_changes_and_the_changelog_names_it(old: Version, new: Version) -> None:
    before, after = (columns(frozen(version).read_text("utf-8").splitlines()) for version in (old, new))
    broken, came = differing(before, after)
    assert is_bumped(old, new, broken, came), f"{sorted(broken)} went or changed, {sorted(came)} came"
    assert section_of(new), f"CHANGELOG.md has no heading that ends in `- contract {'.'.join(map(str, new))}`"
    assert unmentioned(section_of(new), before, broken, came) == []


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
def test_a_change_that_is_not_told_is_seen(after: Columns, raised: Version, not_enough: Version) -> None:
    broken, came = differing(BEFORE, after)
    assert is_bumped((1, 2, 3), raised, broken, came)
    assert not is_bumped((1, 2, 3), not_enough, broken, came)
    assert unmentioned("- Nothing of note about units.", BEFORE, broken, came) != []
    assert unmentioned("- `shelf.units`, `colour` and `till` are others.", BEFORE, broken, came) == []


if __name__ == "__main__":
    made = frozen(number(CONTRACT_VERSION))
    if made.exists():
        raise SystemExit(f"{made} stands: raise CONTRACT_VERSION, or delete the file if no release was ever published")
    made.parent.mkdir(exist_ok=True)
    made.write_text("\n".join(promised()) + "\n", "utf-8")
