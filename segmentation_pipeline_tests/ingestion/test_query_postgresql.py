"""The lines of a PostgreSQL database give the segments that the same lines in a file give, night after night."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.ingestion import query_connection
from segmentation_pipeline.ingestion.incremental import LoadRequest, SourceLoad
from segmentation_pipeline.ingestion.query_connection import Address, opened_source
from segmentation_pipeline.ingestion.query_load import load_query
from segmentation_pipeline.tables.catalog import FOLDER
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.commands import Ended, segments
from segmentation_pipeline_tests.postgresql import BINARIES, PASSWORD, READER, Server, running_server
from segmentation_pipeline_tests.scenarios import Line, assets_up_to, line, regular_customers
from segmentation_pipeline_tests.shops import Shop

pytestmark = pytest.mark.skipif(
    not (BINARIES / "initdb").exists(), reason="PostgreSQL is not installed (Debian: apt-get install postgresql)"
)

LINES = [
    *regular_customers(),
    line(invoice="600001", at="2024-09-02 11:00:00", customer="10001", quantity="5000", price="9.95"),
    line(invoice="C60002", at="2024-09-03 11:00:00", customer="10002", quantity="-1", price="0.95"),
    line(invoice="600003", at="2024-09-03 11:00:00", customer=""),
]
QUERY = "select * from order_lines -- all of them"
SOURCE = {"path": None, "query": QUERY, "connection": "env:TILL", "key": "id", "cursor": "updated_at"}
LOADED = assets_up_to("rfm_features")
LINES_OF_EACH_FILE = (FOLDER / "ingestion" / "checks" / "lines_of_each_file.sql").read_text("utf-8")
KEY = "7e" * 32
PLACE = "source_file, source_sheet, source_line"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as running:
        yield running


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_connection, "WAIT_SECONDS", 0.0)


def create(server: Server, lines: Sequence[Line], *, updated_at: str = "2024-11-01 00:00:00+00") -> None:
    server.execute(
        "drop table if exists order_lines",
        'create table order_lines (id bigint, "InvoiceNo" text, "StockCode" text, "Description" text,'
        ' "Quantity" integer, "InvoiceDate" timestamp, "UnitPrice" numeric(12,4), "CustomerID" integer,'
        ' "Country" varchar(60), updated_at timestamptz)',
        "create sequence if not exists lines_seq",
        f"grant select on order_lines to {READER}",
        f"grant all on sequence lines_seq to {READER}",
    )
    add(server, lines, first=1, updated_at=updated_at)


def add(server: Server, lines: Sequence[Line], *, first: int, updated_at: str) -> None:
    rows = [
        f"({number}, '{invoice}', '{code}', '{description}', {quantity}, '{at}', {price},"
        f" {customer.removesuffix('.0') or 'null'}, '{country}', '{updated_at}')"
        for number, (invoice, code, description, quantity, at, price, customer, country) in enumerate(lines, first)
    ]
    server.execute(f"insert into order_lines values {', '.join(rows)}")


def load(shop: Shop, server: Server, *, reload: bool = False) -> SourceLoad:
    """Load the source and write its tables, without Dagster, which takes a second more."""
    settings = load_settings(str(shop.retailer))
    request = LoadRequest("a run", settings.reading_digest, f"source.query in {SOURCE['connection']}", reload=reload)
    shop.work.parent.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as environment, duckdb.connect(str(shop.work)) as connection:
        environment.setenv("TILL", server.address())
        environment.setenv("SEGMENTATION_PRIVACY_KEY", KEY)
        warehouse = Warehouse(connection)
        with load_query(warehouse, settings, shop.folders.spill, request) as loaded:
            results = warehouse.write(loaded.writes, settings.sql_values, loaded.inputs)
    assert [result.violations for result in results] == [()] * 3
    assert shop.rows(LINES_OF_EACH_FILE) == []
    return loaded


def command(shop: Shop, server: Server, *arguments: str, address: str = "", event_log: bool = False) -> Ended:
    environment = {"TILL": address or server.address(), "SEGMENTATION_PRIVACY_KEY": KEY}
    return segments(shop, *arguments, event_log=event_log, **environment)


def values(shop: Shop, table: str) -> list[tuple[Any, ...]]:
    return shop.rows(f"select * exclude ({PLACE}) from {table} order by all")


def keys(shop: Shop) -> dict[str, str]:
    return dict(shop.rows("select source_sheet, source_file from raw_transactions"))


@pytest.fixture(scope="module")
def shop(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop whose source is a query, after its first run."""
    create(server, LINES)
    built = Shop.build(tmp_path_factory.mktemp("query"), source=SOURCE)
    (built.source / "a.csv").unlink()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(query_connection, "WAIT_SECONDS", 0.0)
        ended = command(built, server, "run", "--as-of", "2024-10-28", event_log=True)
    assert ended.code == 0, ended.errors
    return built


@pytest.fixture
def next_shop(shop: Shop, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A copy of it, and the same lines in the database."""
    create(server, LINES)
    copied = shop.copy(tmp_path)
    copied.enter(monkeypatch)
    return copied


def test_query_gives_the_tables_of_the_same_csv(shop: Shop, tmp_path: Path) -> None:
    csv = Shop.build(tmp_path, LINES)
    assert csv.run(assets=LOADED, as_of="2024-10-28").success
    for table in ("clean_transactions", "rejected_transactions"):
        assert values(shop, table) == values(csv, table)
    assert shop.rows("select * from rfm_features order by 1") == csv.rows("select * from rfm_features order by 1")
    money = sum((Decimal(one[3]) * Decimal(one[5]) for one in LINES), Decimal())
    assert shop.rows("select sum(amount) from raw_transactions") == [(money,)]


def test_row_keeps_its_key_and_month(shop: Shop) -> None:
    expected = {str(number): f"query/{one[4][:7]}" for number, one in enumerate(LINES, 1)}
    assert keys(shop) == expected
    assert shop.released("select found_in_file from file_overlaps") == []


def test_address_is_in_no_file_and_no_output(shop: Shop, server: Server, next_shop: Shop) -> None:
    files = [path for path in shop.data.rglob("*") if path.is_file()]
    assert any(path.name.endswith(".db") and path.stat().st_size for path in files), "Dagster's event log"
    text = b"".join(path.read_bytes() for path in files)
    assert [secret for secret in server.secrets if secret.encode() in text] == []


def test_night_fetches_changed_and_late_rows_only(next_shop: Shop, server: Server) -> None:
    before = keys(next_shop)
    late = line(invoice="700001", at="2024-02-03 09:00:00", customer="10003")
    moved = """set "InvoiceDate" = '2023-12-05 08:00:00', updated_at = '2024-11-02'"""
    server.execute(
        f"update order_lines {moved} where id = 1",
        """update order_lines set "Quantity" = 77, updated_at = '2024-11-02' where id = 2""",
        "delete from order_lines where id = 3",
        "update order_lines set updated_at = '2024-10-01' where id > 3",
        "update order_lines set updated_at = null where id = 4",
    )
    add(server, [late], first=9001, updated_at="2024-10-31")
    ended = command(next_shop, server, "run", "--as-of", "2024-10-28")
    assert ended.code == 0, ended.errors
    assert keys(next_shop) == before | {"1": "query/2023-12", "9001": "query/2024-02"}
    assert next_shop.released("select count(*) from customer_segments") == [(60,)]
    assert next_shop.rows("select quantity from raw_transactions where source_sheet = '2'") == [(77,)]
    again = load(next_shop, server)
    assert (again.rows_fetched, str(again.fetched_since), again.read) == (4, "2024-10-30 00:00:00", [])
    load(next_shop, server, reload=True)
    assert keys(next_shop).keys() == before.keys() - {"3"} | {"9001"}, "all rows were fetched"


def test_only_the_months_of_changed_rows_are_written(next_shop: Shop, server: Server) -> None:
    months = keys(next_shop)
    server.execute("""update order_lines set "Quantity" = 7, updated_at = '2024-11-02' where id in (5, 9)""")
    assert load(next_shop, server).read == sorted({months["5"], months["9"]})


def test_without_cursor_all_rows_are_fetched_and_compared(next_shop: Shop, server: Server) -> None:
    before = keys(next_shop)
    next_shop.configure(source={**SOURCE, "cursor": None})
    assert load(next_shop, server).read == [], "the rows are as before"
    server.execute("delete from order_lines where id = 3")
    loaded = load(next_shop, server)
    assert (loaded.rows_fetched, loaded.read) == (len(LINES) - 1, [before["3"]])
    assert keys(next_shop).keys() == before.keys() - {"3"}


def test_month_that_the_query_no_longer_has_is_missing(next_shop: Shop, server: Server) -> None:
    before = keys(next_shop)
    lines_of_january = {key for key, month in before.items() if month == "query/2024-01"}
    next_shop.configure(source={**SOURCE, "query": """select * from order_lines where "InvoiceDate" >= '2024-02-01'"""})
    load(next_shop, server)
    missing = "select source_file, status, lines from ingested_files where status <> 'loaded'"
    assert next_shop.rows(missing) == [("query/2024-01", "missing", len(lines_of_january))]
    assert keys(next_shop) == before
    moved = min(lines_of_january)
    server.execute(
        f"""update order_lines set "InvoiceDate" = '2024-02-02', updated_at = '2024-11-02' where id = {moved}"""
    )
    load(next_shop, server)
    assert next_shop.rows(missing) == [("query/2024-01", "missing", len(lines_of_january) - 1)]
    assert keys(next_shop) == before | {moved: "query/2024-02"}
    load(next_shop, server, reload=True)
    assert keys(next_shop).keys() == before.keys() - lines_of_january | {moved}


def test_time_in_the_future_hides_no_later_rows(next_shop: Shop, server: Server) -> None:
    server.execute("update order_lines set updated_at = '2199-01-01' where id = 1")
    load(next_shop, server)
    add(server, [line(invoice="700003", at="2024-10-02 09:00:00")], first=9003, updated_at="2024-11-03")
    load(next_shop, server)
    assert "9003" in keys(next_shop)


def test_rows_of_erased_customers_stay_away(next_shop: Shop, server: Server) -> None:
    own = {key for (key,) in next_shop.rows("select source_sheet from raw_transactions where customer_id = '10003'")}
    ended = command(next_shop, server, "erase", "10003")
    assert ended.code == 0, ended.errors
    bought = line(invoice="700002", at="2024-10-20 09:00:00", customer="10003")
    add(server, [bought], first=9002, updated_at="2024-11-02")
    for reload in (False, False, True):
        load(next_shop, server, reload=reload)
        assert keys(next_shop).keys() == {str(number) for number in range(1, len(LINES) + 1)} - own
        assert next_shop.rows("select sum(erased) from ingested_files") == [(len(own) + 1,)]


@pytest.mark.parametrize(
    ("changes", "message"),
    {
        "wrong password": ({"password": "wrong"}, "the server rejected the user or the password"),
        "no such database": ({"database": "nowhere"}, "the server does not have the database"),
        "no such user": ({"user": "nobody"}, "the server rejected the user or the password"),
    }.values(),
    ids=str,
)
def test_rejected_connection_says_why(server: Server, tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with (
        pytest.raises(SourceError, match=message) as raised,
        opened_source(Address("env:TILL", server.address(**changes)), tmp_path),
    ):
        pass
    assert raised.value.__context__ is None
    assert [part for part in [*changes.values(), *server.secrets] if part in str(raised.value)] == []


def test_server_that_is_down_fails_the_run_without_its_address(next_shop: Shop, server: Server) -> None:
    before = next_shop.tables
    address = server.address().replace(str(server.port), "1")
    ended = command(next_shop, server, "run", "--traceback", address=address, event_log=True)
    assert ended.code == 1
    assert "source.connection (env:TILL): no server answers at its host and port" in ended.errors
    assert next_shop.tables == before
    files = b"".join(path.read_bytes() for path in next_shop.data.rglob("*") if path.is_file())
    found = files + (ended.stdout + ended.errors).encode()
    assert [secret for secret in (*server.secrets, address) if secret.encode() in found] == []


@pytest.mark.parametrize(
    ("address", "source", "message"),
    {
        "wrong password": ("wrong", {}, "source.connection (env:TILL): the server rejected the user or the password"),
        "missing table": (PASSWORD, {"query": "select * from orders"}, 'answer it: relation "orders" does not exist.'),
    }.values(),
    ids=["wrong password", "missing table"],
)
def test_failed_run_says_what_to_correct(
    next_shop: Shop, server: Server, address: str, source: dict[str, Any], message: str
) -> None:
    next_shop.configure(source={**SOURCE, **source})
    before = next_shop.rows("from raw_transactions")
    ended = command(next_shop, server, "run", address=server.address(password=address))
    assert ended.code == 1
    assert message in ended.errors
    assert next_shop.rows("from raw_transactions") == before
    assert [secret for secret in server.secrets if secret in ended.errors + ended.stdout] == []


@pytest.mark.parametrize(
    ("source", "message"),
    {
        "syntax": ({"query": "selec"}, "syntax error at or near"),
        "two statements": ({"query": "select 1; drop table order_lines"}, "syntax error"),
        "two hidden": ({"query": "select 1) as q; drop table order_lines; select (1"}, "multiple commands"),
        "writes": ({"query": "select *, nextval('lines_seq') as n from order_lines"}, "cannot execute nextval"),
        "value": ({"query": "select 'Vera'::int as id"}, 'invalid input syntax for type integer: "aaaa"'),
        "late value": ({"query": f"{QUERY}\nwhere 1 / (id - 200) < 9"}, "division by zero"),
        "column": ({"query": "select id, updated_at from order_lines"}, "no column for"),
        "key": ({"key": "idd"}, "source.key: the query has no column 'idd'; it has id, InvoiceNo"),
        "cursor": ({"cursor": "id"}, "source.cursor: id is of type bigint"),
        "repeated key": ({"key": "Country"}, "source.key: .* rows repeat the Country of another row"),
        "no key": ({"key": ["id", "CustomerID"]}, "source.key: 1 rows have no id and CustomerID"),
        "no rows": ({"query": "select * from order_lines where id < 0"}, "it returned no rows"),
    }.values(),
    ids=lambda value: str(value)[:40],
)
def test_query_that_fails_changes_nothing(
    next_shop: Shop, server: Server, source: dict[str, Any], message: str
) -> None:
    next_shop.configure(source={**SOURCE, **source})
    before = next_shop.rows("from raw_transactions")
    with pytest.raises(SourceError, match=message) as raised:
        load(next_shop, server)
    assert raised.value.__context__ is None
    assert next_shop.rows("from raw_transactions") == before
    assert [secret for secret in server.secrets if secret in str(raised.value)] == []


def test_types_of_the_server_are_read_exactly(server: Server, tmp_path: Path) -> None:
    """Arrow has no numbers of any size, no infinite times and no types of the user."""
    server.execute(
        "drop table if exists odd",
        "drop type if exists colour",
        "create type colour as enum ('red', 'blue')",
        """create table odd as select 12345678901234567890.123456789::numeric as n, 12.5::money as m,
        'red'::colour as e, 'infinity'::timestamp as i, '2024-03-01 10:00:00.123456+02'::timestamptz as t,
        0.1::float8 as f,
        '2024-03-01'::date as d, true as b, '6f2b7a8e-1c1d-4a55-9d0e-3f7b2a1c9e77'::uuid as u, 'Zoë £'::text as x""",
        f"grant select on odd to {READER}",
    )
    with opened_source(Address("env:TILL", server.address()), tmp_path) as source:
        types = source.columns("select * from odd")
        assert [types[name] for name in "nmed"] == ["numeric", "money", "colour", "date"]
        texts = ", ".join(f"cast({'m::numeric' if name == 'm' else name} as text) as {name}" for name in types)
        assert source.rows(f"select {texts} from odd") == [
            (
                "12345678901234567890.123456789",
                "12.50",
                "red",
                "infinity",
                "2024-03-01 08:00:00.123456+00",
                "0.1",
                "2024-03-01",
                "true",
                "6f2b7a8e-1c1d-4a55-9d0e-3f7b2a1c9e77",
                "Zoë £",
            )
        ]
