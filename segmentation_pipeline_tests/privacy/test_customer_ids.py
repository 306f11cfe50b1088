"""One customer has one id, however the source writes it, and two customers have two."""

import gc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.defs.features.checks import customer_ids_are_distinct
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.orchestration.resources import RetailerConfig
from segmentation_pipeline.privacy.customer_ids import (
    NORMALISATIONS,
    CustomerIds,
    SimilarIds,
    normalised,
    similar_ids_select,
)
from segmentation_pipeline.privacy.erasure import NamedCustomers, erase
from segmentation_pipeline.privacy.line_privacy import LinePrivacy
from segmentation_pipeline.privacy.pseudonyms import ERASURE, Key
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import bound_values
from segmentation_pipeline_tests.ingestion.reading import read_source
from segmentation_pipeline_tests.scenarios import OpenDatabase, decorated, examples, line, retailer_settings, write_csv
from segmentation_pipeline_tests.shops import Shop

KEY = "5f" * 32
EXPORT = Path(__file__).parents[1] / "exports" / "ids"
NO_BREAK, MARK, ZERO_WIDTH = "\u00a0", "\ufeff", "\u200b"


@pytest.fixture(scope="module", autouse=True)
def callbacks() -> Iterator[None]:
    """Remove the callback that Hypothesis adds to the garbage collector, which keeps DuckDB open at exit."""
    before = gc.callbacks.copy()
    yield
    gc.callbacks[:] = before


@pytest.fixture(scope="module")
def warehouse() -> Iterator[Warehouse]:
    with duckdb.connect(config={"threads": 2}) as connection:
        yield Warehouse(connection)


def retailer_of(**sections: Any) -> Retailer:
    return Retailer.model_validate(retailer_settings(Path("in"), **sections))


def stored_ids(warehouse: Warehouse, folder: Path, ids: Sequence[str], **sections: Any) -> list[str | None]:
    """Return the customer that is stored for each id of a source."""
    write_csv(folder / "in" / "a.csv", [line(customer=one) for one in ids])
    read_source(warehouse, retailer_of(**sections), folder)
    return [
        row["customer_id"] for row in warehouse.rows("select customer_id from raw_transactions order by source_line")
    ]


# -- normalisations


SPELLINGS = {
    ("trim",): {
        f"{NO_BREAK}7\t": "7",
        f"{MARK}7{ZERO_WIDTH}": "7",
        f"7.0{NO_BREAK}": "7",
        "A\u00a0B": "A\u00a0B",
        "007": "007",
    },
    ("strip_decimal",): {"7,0": "7", "7.00": "7", "7,50": "7,50", "A,0": "A,0", "007,0": "007"},
    ("strip_leading_zeros",): {"007": "7", "007.0": "7", "000": "0", "70": "70", "00A7": "00A7", "0-7": "0-7"},
    ("lower",): {"User@Example.COM": "user@example.com", "É7": "é7", "007": "007"},
    ("strip_leading_zeros", "strip_decimal", "trim"): {f" 007,0{NO_BREAK}": "7", "0,0": "0"},
}


@pytest.mark.parametrize("names", SPELLINGS, ids="+".join)
def test_a_normalisation_removes_its_own_difference_alone(
    warehouse: Warehouse, tmp_path: Path, names: tuple[str, ...]
) -> None:
    written = SPELLINGS[names]
    found = stored_ids(warehouse, tmp_path, [*written], customers={"normalise": [*names]})
    assert dict(zip(written, found, strict=True)) == written


def test_ids_without_a_setting_are_read_as_before(warehouse: Warehouse, tmp_path: Path) -> None:
    ids = [" 7 ", "7.0", "007", "A", "a", "7\t", "7,0", ""]
    found = stored_ids(warehouse, tmp_path, ids)
    assert found == ["7", "7", "007", "A", "a", "7\t", "7,0", None]


def test_an_id_of_which_nothing_is_left_is_missing(warehouse: Warehouse, tmp_path: Path) -> None:
    assert stored_ids(warehouse, tmp_path, [f"{NO_BREAK} \t", "7"], customers={"normalise": ["trim"]}) == [None, "7"]


# -- the check


IDS = st.lists(
    st.builds(
        "".join,
        st.tuples(*map(st.sampled_from, (["", "0", "00", MARK], ["7", "8", "a", "A7"], ["", ".0", ",0", "\t"]))),
    ),
    min_size=1,
    max_size=12,
)


def similar(ids: Sequence[str | None], names: Sequence[str] = ()) -> SimilarIds:
    """Return the similar ids of a table of ids after some normalisations."""
    select = similar_ids_select(f"select {normalised('id', names)} as customer_id from (select unnest($ids) as id)")
    row = duckdb.cursor().execute(select, {"ids": list(ids)})
    columns = [column[0] for column in row.description]
    return SimilarIds.of(dict(zip(columns, row.fetchall()[0], strict=True)))


@settings(max_examples=examples(60), derandomize=True, deadline=None, database=None)
@given(ids=IDS)
def test_the_named_setting_leaves_no_similar_ids(ids: list[str]) -> None:
    """As many customers are left as the message says."""
    found = similar(ids)
    message = found.message(retailer_of())
    named = [name for name in NORMALISATIONS if f'"{name}"' in message]
    assert found.ids == len(set(ids))
    if found.number:
        after = similar(ids, named)
        assert (after.number, after.ids) == (0, found.customers)


def checked(database: Warehouse, retailer: Retailer) -> dg.AssetCheckResult:
    """Return the result of the check of the customers of `raw_transactions`."""
    database.connection.execute(
        "create or replace table rfm_features as select distinct customer_id from raw_transactions"
    )
    config = RetailerConfig()
    config._settings = retailer
    result: dg.AssetCheckResult = decorated(customer_ids_are_distinct)(config, OpenDatabase(database))
    return result


def test_mixed_ids_warn_with_figures_until_normalised(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(EXPORT / "retailer.toml"))
    with_setting = load_settings()
    without = with_setting.model_copy(update={"customers": retailer_of().customers})
    result = checked(read_source(warehouse, without, EXPORT), without)
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert result.description == (
        "Customer ids that differ from another one only in form: 163 of 403 (163 by leading zeros), so there may be"
        ' only 240 customers. If such ids name the same customer, set customers.normalise = ["strip_leading_zeros"];'
        " otherwise raise checks.max_similar_ids, now 0."
    )
    tolerant = without.model_copy(update={"checks": without.checks.model_copy(update={"max_similar_ids": 163})})
    assert checked(warehouse, tolerant).passed
    assert checked(read_source(warehouse, with_setting, EXPORT), with_setting).passed
    (EXPORT / "spill").rmdir()


def test_the_check_names_the_settings_in_use_too() -> None:
    found = similar(["a", "A", "7", "07"])
    assert found.by_normalisation == {"strip_leading_zeros": 1, "lower": 1}
    message = similar(["7", "07"]).message(retailer_of(customers={"normalise": ["lower"]}))
    assert 'customers.normalise = ["strip_leading_zeros", "lower"]' in message


# -- merged customers


def mapping(folder: Path, text: str, *names: str) -> CustomerIds:
    (folder / "merged.csv").write_text(text, encoding="utf-8")
    return CustomerIds.of(retailer_of(customers={"merged": "merged.csv", "normalise": [*names]}), folder)


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_the_last_id_of_a_chain_replaces_all_before_it(tmp_path: Path, mark: str) -> None:
    text = "\ufeffold_id,new_id\na,b\n\nb,c\n 7.0 ,c\n".replace(",", mark)
    assert mapping(tmp_path, text).merged == {"a": "c", "b": "c", "7": "c"}


def test_a_header_without_ids_merges_nobody(tmp_path: Path) -> None:
    assert mapping(tmp_path, "old_id,new_id\n").merged == {}


INVALID = {
    "": "line 1: expected the header old_id,new_id",
    "vera1,vera2\n": "line 1: expected the header old_id,new_id",
    "old_id,new_id\nvera1\n": "line 2: 1 columns; expected old_id and new_id",
    "old_id,new_id\nvera1,vera2,vera3\n": "line 2: 3 columns; expected old_id and new_id",
    "old_id,new_id\nvera1, \n": "line 2: an id is empty",
    "old_id,new_id\nvera1,vera2\n vera1 ,vera3\n": "line 3: the same old_id as in line 2",
    "old_id,new_id\nvera1,vera1\n": "replace each other in a circle: 2",
    "old_id,new_id\nvera1,vera2\nvera2,vera3\nvera3,vera2\n": "replace each other in a circle: 3, 4",
}


@pytest.mark.parametrize("text", INVALID)
def test_an_invalid_mapping_names_the_line_and_no_customer(tmp_path: Path, text: str) -> None:
    with pytest.raises(SourceError) as raised:
        mapping(tmp_path, text)
    assert INVALID[text] in str(raised.value)
    assert str(tmp_path / "merged.csv") in str(raised.value)
    assert "vera" not in str(raised.value)


def test_ids_that_become_equal_are_one_old_id(tmp_path: Path) -> None:
    text = "old_id,new_id\n007,1\n7,2\n"
    assert mapping(tmp_path, text).merged == {"007": "1", "7": "2"}
    with pytest.raises(SourceError, match="line 3: the same old_id as in line 2"):
        mapping(tmp_path, text, "strip_leading_zeros")


def test_a_missing_mapping_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=rf"customers\.merged: there is no file {tmp_path}/merged\.csv"):
        CustomerIds.of(retailer_of(customers={"merged": "merged.csv"}), tmp_path)


def test_lines_of_merged_customers_have_the_new_id(warehouse: Warehouse, tmp_path: Path) -> None:
    (tmp_path / "merged.csv").write_text("old_id,new_id\n0009,user@example.com\n")
    customers = {"merged": "merged.csv", "normalise": ["lower", "strip_leading_zeros"]}
    found = stored_ids(warehouse, tmp_path, ["9", "09", "User@Example.com", "8"], customers=customers)
    assert found == [*["user@example.com"] * 3, "8"]


# -- pseudonyms and erasure


def stored(erased: Sequence[str], ids: CustomerIds, lines: Sequence[str], *, pseudonymise: bool = False) -> list[Any]:
    """Return which lines are stored, and their customers, after customers were erased."""
    key = Key(KEY.encode())
    with duckdb.connect() as connection:
        database = Warehouse(connection)
        for customer in erased:
            hashed = key.hashed(ERASURE, customer)
            connection.execute("insert into erased_customers values (?, ?, now())", [hashed, key.fingerprint])
        privacy = LinePrivacy.of(database, retailer_of(privacy={"pseudonymise": pseudonymise}), ids)
        select = " union all ".join(
            f"select {number} as n, '{one}' as customer_id, cast(null as varchar) as unparsed"
            for number, one in enumerate(lines)
        )
        text = f"select n, customer_id from ({privacy.stored(select)}) order by n"
        return connection.execute(text, bound_values(text, privacy.values)).fetchall()


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> Key:
    monkeypatch.setenv("SEGMENTATION_PRIVACY_KEY", KEY)
    return Key(KEY.encode())


def test_a_pseudonym_is_that_of_the_normalised_and_merged_id(key: Key) -> None:
    ids = CustomerIds(("strip_leading_zeros",), {"9": "8"})
    found = stored([], ids, ["007", "7", "09"], pseudonymise=True)
    assert found == [(0, key.pseudonym("7")), (1, key.pseudonym("7")), (2, key.pseudonym("8"))]


@pytest.mark.parametrize("pseudonymise", [False, True])
@pytest.mark.parametrize(
    ("erased", "ids"),
    [
        (["7"], CustomerIds(("strip_leading_zeros",))),
        # Erased before the setting.
        (["007"], CustomerIds(("strip_leading_zeros",))),
        (["007"], CustomerIds((), {"007": "8"})),
        (["7"], CustomerIds(("strip_leading_zeros",), {"7": "8"})),
    ],
    ids=["spelling", "spelling of the source", "merged later", "normalised and merged later"],
)
def test_an_erased_customer_stays_erased_whatever_the_settings_become(
    key: Key, erased: list[str], ids: CustomerIds, pseudonymise: bool
) -> None:
    assert [n for n, _ in stored(erased, ids, ["007", "70"], pseudonymise=pseudonymise)] == [1]


def test_erasing_one_merged_id_erases_all_of_them(key: Key) -> None:
    ids = CustomerIds(("strip_leading_zeros",), {"7": "9", "8": "9"})
    for given_id in ("07", "8.0", "9"):
        named = NamedCustomers.of(retailer_of(), key, [given_id], ids)
        assert {"7", "8", "9"} <= {*named.names}
    # The mapping was removed.
    assert stored(named.names, CustomerIds(), ["7", "8", "9", "10"]) == [(3, "10")]


def test_a_customer_is_erased_in_any_spelling(finished_shop: Shop, key: Key) -> None:
    finished_shop.configure(customers={"normalise": ["strip_leading_zeros"]})
    settings = load_settings()
    assert finished_shop.rows("select count(*) > 0 from raw_transactions where customer_id = '10006'") == [(True,)]
    named = NamedCustomers.of(settings, key, ["0010006"], CustomerIds.of(settings, Path()))
    erased = erase(finished_shop.folders, settings, key, named, print)
    assert erased.sources
    for table, contract in contracts().items():
        if any(column.name == "customer_id" for column in contract.columns) and table != "segment_changes":
            assert finished_shop.rows(f"select count(*) from {table} where customer_id = '10006'") == [(0,)], table
