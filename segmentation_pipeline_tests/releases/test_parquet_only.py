"""A release whose large tables are Parquet files only is used like any other: by SQL, and by every command."""

import io
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest

from segmentation_pipeline.releases.export import export
from segmentation_pipeline.releases.files import Release
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.reports.frames import digest_of
from segmentation_pipeline.status.release_status import release_contents
from segmentation_pipeline.tables.catalog import published
from segmentation_pipeline.tables.contract import literal, quoted
from segmentation_pipeline_tests.commands import segments
from segmentation_pipeline_tests.programs.readers import CLIENTS, Reader
from segmentation_pipeline_tests.shops import REFIT_NIGHT, SECOND_NIGHT, Shop

# Less than the 60 customers, and more than the rows of most other tables.
LIMIT = 20
TABLES = tuple(contract.table for contract in published())
SCORED = "select score_customer(monetary, frequency, recency), count(*) from rfm_features group by all order by all"


@pytest.fixture(scope="module")
def shop(refitted_template: Shop, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop with a release of the same tables in both forms, below a folder that SQL and patterns need quoted."""
    shop = refitted_template.copy(tmp_path_factory.mktemp("large") / "shop's [1] {folder}")
    shop.configure(rfm={"look_back_days": 200}, release={"max_database_rows": LIMIT})
    assert shop.run(assets=["release"], as_of=REFIT_NIGHT).success
    return shop


@pytest.fixture(scope="module")
def forms(shop: Shop) -> tuple[Release, Release]:
    """The release of DuckDB form, and that of Parquet form."""
    stored, viewed = shop.releases.all()[-2:]
    assert stored.parquet_only == []
    assert viewed.name == shop.release.name
    return stored, viewed


def rows_of(release: Release) -> Mapping[str, list[tuple[Any, ...]]]:
    with release.connect() as connection:
        return {table: connection.execute(f"from {quoted(table)} order by all").fetchall() for table in TABLES}


def consumers_rows(database: Path, select: str, *statements: str) -> list[tuple[Any, ...]]:
    """Return the rows that a consumer gets, after other statements."""
    with duckdb.connect(str(database), read_only=True) as connection:
        for statement in statements:
            connection.execute(statement)
        return connection.execute(select).fetchall()


def test_the_tables_above_the_limit_are_views(forms: tuple[Release, Release]) -> None:
    stored, viewed = forms
    large = [table for table, rows in viewed.manifest["tables"].items() if rows > LIMIT]
    assert {"customer_segments", "rfm_features", "segment_membership", "customer_value"} <= set(large)
    assert viewed.parquet_only == large
    with viewed.connect() as connection:
        kinds = dict(connection.execute("select table_name, table_type from information_schema.tables").fetchall())
    assert kinds == {table: "VIEW" if table in large else "BASE TABLE" for table in TABLES}
    assert viewed.database.stat().st_size < stored.database.stat().st_size


def test_both_forms_have_equal_rows_counts_and_digests(forms: tuple[Release, Release]) -> None:
    stored, viewed = forms
    assert rows_of(stored) == rows_of(viewed)
    for entry in ("tables", "state"):
        assert stored.manifest[entry] == viewed.manifest[entry]
    for entry in ("files", "made_from"):
        differ = {name for name, of in stored.manifest[entry].items() if viewed.manifest[entry][name] != of}
        assert differ == {"segments.duckdb"}
    assert digest_of(stored) == digest_of(viewed)
    assert release_contents(stored) == release_contents(viewed)


def test_comments_and_types_are_those_of_the_tables(forms: tuple[Release, Release]) -> None:
    select = "select table_name, column_name, data_type, comment from duckdb_columns() where not internal order by all"
    named = "select table_name, comment from duckdb_tables() union all select view_name, comment from duckdb_views()"
    stored, viewed = (
        [release.connect().execute(query).fetchall() for query in (select, f"{named} where not internal order by all")]
        for release in forms
    )
    assert stored == viewed
    assert len(viewed[1]) == len(TABLES)


def test_files_of_the_same_rows_are_copied_in_both_directions(shop: Shop, tmp_path: Path) -> None:
    releases, written = Releases(tmp_path / "releases"), []
    with duckdb.connect(str(shutil.copy(shop.work, tmp_path / "work.duckdb"))) as work:
        for number, limit in enumerate((10**9, 0, 10**9, 0)):
            written.append(
                releases.publish(
                    work,
                    {},
                    macros=[],
                    as_of=shop.release.as_of,
                    run_id=f"{number:08d}",
                    keep=9,
                    max_database_rows=limit,
                )
            )
    everything = set(written[0].manifest["files"])
    assert [set(release.manifest["copied"]) for release in written[1:]] == [everything - {"segments.duckdb"}] * 3
    assert [bool(release.parquet_only) for release in written] == [False, True, False, True]
    first, *others = (rows_of(release) for release in written)
    assert others == [first] * 3
    assert not any(releases.verify().values())


@pytest.mark.parametrize("client", CLIENTS)
def test_consumers_with_any_client_type_the_same(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    """In any folder, also where a file of the same name is; each answer is compared with the manifest."""
    (tmp_path / "stop").touch()
    (tmp_path / "customer_segments.parquet").write_bytes(b"not the release's")
    monkeypatch.chdir(tmp_path)
    result = Reader.started(client, shop.releases.folder / "current", tmp_path / "stop").result()
    assert result.get("error") is None
    assert result["seen"] == [shop.release.name]
    assert result["queries"] > 2 * len(TABLES)


def test_two_attached_releases_keep_their_own_rows(shop: Shop, tmp_path: Path) -> None:
    copy = shop.copy(tmp_path / "shop")
    copy.execute("update customer_segments set action = 'changed'")
    assert copy.run(assets=["release"], as_of=REFIT_NIGHT).success
    before, now = copy.releases.all()[-2:]
    assert before.parquet_only == now.parquet_only != []
    select = "select count(*) filter (where b.action = 'changed'), count(*) filter (where n.action = 'changed')"
    joined = "before.customer_segments b join now.customer_segments n using (customer_id)"
    with duckdb.connect() as connection:
        before.attach(connection, "before")
        now.attach(connection, "now")
        assert connection.execute(f"{select} from {joined}").fetchall() == [(0, 60)]


def test_a_consumer_of_a_moved_release_says_where_it_is(shop: Shop, tmp_path: Path) -> None:
    """Without that, the error names the file that is missing."""
    moved = shop.copy(tmp_path / "before")
    assert moved.run(assets=["release"], as_of=REFIT_NIGHT).success
    name = moved.release.name
    shutil.move(moved.folder, tmp_path / "after")
    moved = Shop(tmp_path / "after")
    count, expected = "select count(*) from customer_segments", [(60,)]
    missing = tmp_path / "before" / "data" / "corner_shop" / "releases" / name / "customer_segments.parquet"
    with pytest.raises(duckdb.IOException, match=re.escape(f'No files found that match the pattern "{missing}"')):
        consumers_rows(moved.release.database, count)
    folder = literal(str(moved.releases.folder))
    assert consumers_rows(moved.release.database, count, f"set variable segmentation_releases = {folder}") == expected
    assert moved.released(count) == expected
    assert moved.released(SCORED) == shop.released(SCORED)


def test_every_command_works_on_a_moved_release(shop: Shop, tmp_path: Path) -> None:
    moved = shop.copy(tmp_path / "before")
    assert moved.run(assets=["release"], as_of=REFIT_NIGHT).success
    shutil.move(moved.folder, tmp_path / "after")
    moved = Shop(tmp_path / "after")
    name = moved.release.name
    assert f"{name} is intact" in segments(moved, "releases", "verify").stdout
    for arguments in (
        ("report", "--write"),
        ("show",),
        ("export", "customer_segments"),
        ("restore", name, "--replace"),
    ):
        ended = segments(moved, *arguments)
        assert (ended.code, ended.errors) == (0, ""), arguments
    status = segments(moved, "status")
    assert "cannot be read" not in status.stdout + status.errors
    assert segments(moved, "releases", "rollback", name).code == 0


def test_a_night_prints_changes_and_parquet_only_tables(finished_shop: Shop, instance: dg.DagsterInstance) -> None:
    """From one form to the other, with the customers who moved between them."""
    finished_shop.configure(rfm={"look_back_days": 200}, release={"max_database_rows": LIMIT})
    ended = segments(finished_shop, "run", "--as-of", SECOND_NIGHT)
    assert (ended.code, ended.errors) == (0, "")
    listed = ", ".join(finished_shop.release.parquet_only)
    assert (
        f"in Parquet files alone, with views in segments.duckdb, for release.max_database_rows: {listed}"
        in ended.stdout
    )
    assert re.search(r"^moved +\d+ customers|^moved +nobody", ended.stdout, re.MULTILINE)
    finished_shop.configure(rfm={"look_back_days": 200}, release={"max_database_rows": 1000})
    ended = segments(finished_shop, "run", "--as-of", REFIT_NIGHT)
    assert "Parquet files alone" not in ended.stdout
    assert re.search(r"^moved +\d+ customers|^moved +nobody", ended.stdout, re.MULTILINE)
    assert [bool(release.parquet_only) for release in finished_shop.releases.all()] == [False, True, False]


def test_the_asset_says_which_tables_are_parquet_only_and_why(shop: Shop, tmp_path: Path) -> None:
    copy = shop.copy(tmp_path)
    result = copy.run(assets=["release"], as_of=REFIT_NIGHT)
    [materialization] = result.asset_materializations_for_node("release")
    assert materialization.metadata["parquet_only"].value == (
        f"{', '.join(copy.release.parquet_only)}: more than 20 rows (release.max_database_rows)"
    )


def test_exported_tables_are_the_same(forms: tuple[Release, Release]) -> None:
    for table in TABLES:
        contents = []
        for release in forms:
            file = io.BytesIO()
            export(release, table, file)
            contents.append(file.getvalue())
        assert contents[0] == contents[1], table


def test_a_changed_parquet_file_is_damage_of_the_release(shop: Shop, tmp_path: Path) -> None:
    copy = shop.copy(tmp_path)
    file = copy.release.folder / "customer_segments.parquet"
    file.unlink()
    errors = copy.release.verify()
    assert errors[0] == "customer_segments.parquet is missing"
    assert errors[1].startswith("segments.duckdb cannot be read: IO Error: No files found that match the pattern")
    assert str(tmp_path) in errors[1], "the file of the copy, although the shop has one"
