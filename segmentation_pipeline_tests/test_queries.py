"""The questions of `docs/queries.md` have answers on a release with every client, and the page has their SQL.

That the page's answers are those of the sample is checked by `.ci/run`, because a run of the sample takes 20 seconds.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import pytest

from segmentation_pipeline_tests.programs import readers
from segmentation_pipeline_tests.shops import REFIT_NIGHT, Shop

ROOT = Path(__file__).parents[1]
# What the queries name of the sample, and the same of the shop, which has no REWARD.
CAMPAIGN = "2024-10-20 00:00:00"
OF_THE_SHOP = {
    "'reward'": "'retain'",
    "2025-12-01 00:00:00": CAMPAIGN,
    "data/sample/source/transactions-*.csv": "source/*.csv",
}
# Runs the queries with the client of PYTHONPATH.
CLIENT = """
import duckdb, json, sys
connection = duckdb.connect(sys.argv[1], read_only=True)
# Printed among the answers on a busy machine.
connection.execute("set enable_progress_bar = false")
answers = [connection.execute(sql).fetchall() for sql in json.load(sys.stdin)]
print(json.dumps([duckdb.__version__, [[[str(value) for value in row] for row in rows] for rows in answers]]))
"""


@cache
def queries_page() -> ModuleType:
    """Import `tools/queries_page.py`, which is not part of a package."""
    spec = importlib.util.spec_from_file_location("queries_page", ROOT / "tools" / "queries_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks for its module there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def shop(refitted_template: Shop) -> Shop:
    return refitted_template


@pytest.fixture(scope="module")
def queries() -> Mapping[str, str]:
    """The SELECT of each file, for the shop."""
    found = {}
    for query in queries_page().queries(ROOT / "docs"):
        sql = query.sql
        for sample, shops in OF_THE_SHOP.items():
            sql = sql.replace(sample, shops)
        found[query.file] = sql
    return found


def answers_with(client: str, shop: Shop, queries: Mapping[str, str]) -> list[list[list[str]]]:
    """Return the rows of each query as text, from a process with the client."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if (folder := readers.PYTHON_CLIENTS[client]) is not None:
        environment["PYTHONPATH"] = str(folder)
    database = shop.release.database.resolve()
    command, text = [sys.executable, "-c", CLIENT, str(database)], json.dumps([*queries.values()])
    # The queries name the source relative to the folder.
    output = subprocess.check_output(command, input=text, env=environment, cwd=shop.folder, text=True)
    version, answers = json.loads(output)
    assert folder is None or version.startswith(client.removeprefix("DuckDB "))
    found: list[list[list[str]]] = answers
    return found


@pytest.fixture(scope="module")
def answers(shop: Shop, queries: Mapping[str, str]) -> Mapping[str, list[list[str]]]:
    return dict(zip(queries, answers_with("DuckDB of the package", shop, queries), strict=True))


def test_every_question_has_an_answer(answers: Mapping[str, list[list[str]]]) -> None:
    assert len(answers) == 15
    assert [file for file, rows in answers.items() if not rows] == []


def test_the_oldest_client_gives_the_same_answers(
    shop: Shop, queries: Mapping[str, str], answers: Mapping[str, list[list[str]]]
) -> None:
    assert dict(zip(queries, answers_with("DuckDB 1.1", shop, queries), strict=True)) == answers


def test_a_release_with_parquet_files_only_gives_the_same_answers(
    shop: Shop, queries: Mapping[str, str], answers: Mapping[str, list[list[str]]], tmp_path: Path
) -> None:
    """As one of many customers is: its database has views."""
    large = shop.copy(tmp_path / "large")
    large.configure(rfm={"look_back_days": 200}, release={"max_database_rows": 0})
    assert large.run(assets=["release"], as_of=REFIT_NIGHT).success
    assert large.release.parquet_only
    for client in ("DuckDB of the package", "DuckDB 1.1"):
        assert dict(zip(queries, answers_with(client, large, queries), strict=True)) == answers


def skeleton(page: str) -> str:
    """Return the page without the rows of its tables, which are those of the sample."""
    return re.sub(r"^\|[-:|]+\|\n(\|.*\n)*", "", page, flags=re.MULTILINE)


def test_the_page_has_the_sql_and_columns_of_the_files(
    shop: Shop, queries: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = queries_page()
    monkeypatch.chdir(shop.folder)
    with duckdb.connect(str(shop.release.database.resolve()), read_only=True) as release:
        answered = [(query, tool.answer(release, queries[query.file])) for query in tool.queries(ROOT / "docs")]
    page = (ROOT / "docs" / "queries.md").read_text("utf-8")
    assert skeleton(page) == skeleton(tool.page(answered)), "run `make queries`"


def test_who_left_are_the_customers_that_python_finds(shop: Shop, answers: Mapping[str, list[list[str]]]) -> None:
    now = {row[0]: row[1:] for row in shop.released("select customer_id, segment_key, monetary from customer_segments")}
    moves = "select customer_id from segment_changes where from_segment = 'retain' and as_of > '2024-10-01'"
    gone = {customer for (customer,) in shop.released(moves) if now[customer][0] != "retain"}
    listed = answers["02_left_reward.sql"]
    assert {row[0] for row in listed} == gone
    assert [Decimal(row[4]) for row in listed] == sorted((now[customer][1] for customer in gone), reverse=True)


def members(shop: Shop, at: str) -> dict[str, str]:
    """Return the segment of each customer at a time, from the periods."""
    select = "select customer_id, segment_key, valid_from::varchar, valid_to::varchar from segment_membership"
    periods = shop.released(select)
    return {customer: key for customer, key, begin, end in periods if begin <= at < (end or "9999")}


def test_joined_minus_departed_is_how_segments_grew(shop: Shop, answers: Mapping[str, list[list[str]]]) -> None:
    """All runs of the shop are in its last month, so they grew from nothing."""
    names = dict(shop.released("select segment, segment_key from segments"))
    grown: dict[str, int] = defaultdict(int)
    for segment, _, _, _, net in answers["03_joined_and_left.sql"]:
        grown[names[segment]] += int(net)
    now: dict[str, int] = defaultdict(int)
    for (key,) in shop.released("select segment_key from customer_segments"):
        now[key] += 1
    assert {key: number for key, number in grown.items() if number} == now


def test_spend_of_both_groups_is_what_was_bought_since(shop: Shop, answers: Mapping[str, list[list[str]]]) -> None:
    then, spend = members(shop, CAMPAIGN), defaultdict[str, Decimal](Decimal)
    for row in {*(shop.source / "a.csv").read_text("utf-8").splitlines()[1:]}:
        _, _, _, quantity, at, price, customer, _ = row.split(",")
        if at >= CAMPAIGN and customer in then:
            spend[then[customer]] += int(quantity) * Decimal(price)
    rows: list[Any] = answers["07_control_group.sql"]
    assert rows
    for key, addressed, control, mean_addressed, mean_control, *_ in rows:
        total = int(addressed) * float(mean_addressed) + int(control) * float(mean_control)
        assert total == pytest.approx(float(spend[key]), abs=0.01 * (int(addressed) + int(control)))


def test_customers_of_a_date_are_those_of_its_periods(shop: Shop, answers: Mapping[str, list[list[str]]]) -> None:
    past = [customer for customer, key in members(shop, CAMPAIGN).items() if key == "re_engage"]
    assert sum(int(row[1]) for row in answers["12_as_of_a_date.sql"]) == len(past) > 0
