"""Objects of S3 and of a web server are source files: only new ones are downloaded, and errors show no credentials."""

import builtins
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.ingestion.file_watcher import current_files
from segmentation_pipeline.ingestion.incremental import LoadRequest, SourceLoad, load_source
from segmentation_pipeline.ingestion.sources import found_files
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.commands import segments
from segmentation_pipeline_tests.object_server import BUCKET, KEY, SECRET, Store, running_store
from segmentation_pipeline_tests.scenarios import HEADER, line, regular_customers
from segmentation_pipeline_tests.shops import Shop


def csv(*lines: Any) -> bytes:
    return "\n".join([",".join(HEADER), *(",".join(one) for one in lines), ""]).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with running_store() as store:
        yield store


@pytest.fixture
def store(server: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.objects = {
        "daily/2024/01.csv": csv(line(invoice="500001")),
        "daily/2024/02.csv": csv(line(invoice="500002")),
        "daily/notes.md": b"x",
        "daily/2024/": b"",
        "other.csv": csv(line(invoice="500009")),
    }
    server.has_versions, server.on_download = True, lambda key: None
    server.taken()
    return server


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """A shop in a folder whose name is a pattern."""
    built = Shop(tmp_path / "a [1]")
    built.enter(monkeypatch)
    return built


def load(shop: Shop, warehouse: Warehouse, path: Any, *, reload: bool = False) -> SourceLoad:
    shop.configure(source={"path": path})
    settings, spill = load_settings(str(shop.retailer)), shop.folders.spill
    with found_files(settings.source, shop.folder, shop.folders.pipeline_paths, spill) as found:
        request = LoadRequest("run", settings.reading_digest, "a store", reload, roots=found.roots, fetch=found.fetch)
        with load_source(warehouse, settings, found.files, spill, request) as loaded:
            results = warehouse.write(loaded.writes, settings.sql_values, loaded.inputs)
    assert [result.violations for result in results] == [()] * 3
    assert [*spill.iterdir()] == [], "nothing of the objects stays on disk"
    return loaded


@pytest.fixture
def warehouse() -> Iterator[Warehouse]:
    with duckdb.connect() as connection:
        yield Warehouse(connection)


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("s3://exports/daily/*/*.csv", ["2024/01.csv", "2024/02.csv"]),
        ("s3://exports/daily", ["2024/01.csv", "2024/02.csv"]),
        (
            ["s3://exports/daily/2024", "s3://exports/other.csv"],
            ["daily/2024/01.csv", "daily/2024/02.csv", "other.csv"],
        ),
    ],
)
def test_objects_have_their_names_below_the_path(
    shop: Shop, store: Store, warehouse: Warehouse, path: Any, names: list[str]
) -> None:
    assert load(shop, warehouse, path).read == names


def test_only_new_and_changed_objects_are_downloaded(shop: Shop, store: Store, warehouse: Warehouse) -> None:
    path = "s3://exports/daily/2024/*.csv"
    load(shop, warehouse, path)
    assert store.taken() == ["daily/2024/01.csv", "daily/2024/02.csv"]
    assert load(shop, warehouse, path).metrics["files_kept"] == 2
    assert store.taken() == []
    # The same size and time; only the ETag differs.
    store.objects["daily/2024/01.csv"] = csv(line(invoice="500008"))
    del store.objects["daily/2024/02.csv"]
    loaded = load(shop, warehouse, path)
    assert (store.taken(), loaded.read) == (["daily/2024/01.csv"], ["01.csv"])
    assert warehouse.rows("select invoice from raw_transactions order by 1") == [
        {"invoice": "500002"},
        {"invoice": "500008"},
    ]
    assert loaded.metrics["files_missing"] == 1


@pytest.mark.parametrize("has_versions", [True, False])
def test_file_of_a_web_server_is_read_when_it_changes(
    shop: Shop, store: Store, warehouse: Warehouse, has_versions: bool
) -> None:
    store.has_versions = has_versions
    path = f"http://127.0.0.1:{store.port}/{BUCKET}/other.csv"
    assert load(shop, warehouse, path).read == ["other.csv"]
    assert load(shop, warehouse, path).read == []
    assert len(store.taken()) == (1 if has_versions else 2), "without an ETag, its content says whether it is new"
    store.objects["other.csv"] = csv(line(invoice="500007"))
    assert load(shop, warehouse, path).read == ["other.csv"]


def test_object_that_changes_during_the_download_is_read_again(shop: Shop, store: Store, warehouse: Warehouse) -> None:
    def change_once(key: str) -> None:
        store.objects[key], store.on_download = csv(line(invoice="500006")), lambda key: None

    store.on_download = change_once
    load(shop, warehouse, "s3://exports/other.csv")
    assert warehouse.rows("select invoice from raw_transactions") == [{"invoice": "500006"}]
    numbers = iter(range(700_000, 700_009))
    store.on_download = lambda key: store.objects.update({key: csv(line(invoice=str(next(numbers))))})
    store.objects["other.csv"] = csv()
    with pytest.raises(SourceError, match=r"s3://exports/other.csv changed 3 times while it was downloaded"):
        load(shop, warehouse, "s3://exports/other.csv")


@pytest.mark.parametrize(
    ("path", "environment", "message"),
    {
        "no bucket": ("s3://nowhere/a/*.csv", {}, "nothing to read at s3://nowhere/a"),
        "no object": ("s3://exports/none.csv", {}, "nothing to read at s3://exports/none.csv"),
        "no match": ("s3://exports/daily/*.xlsx", {}, "nothing to read at"),
        "ending": ("s3://exports/daily/*.md", {}, "s3://exports/daily/notes.md: unknown ending"),
        "key": ("s3://exports/a.csv", {"AWS_ACCESS_KEY_ID": "WRONG"}, "access was denied. Correct AWS_ACCESS_KEY_ID"),
        "server down": ("s3://exports/a.csv", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "cannot be reached"),
        "web server down": ("http://127.0.0.1:1/a.csv", {}, "the server cannot be reached"),
    }.values(),
    ids=str,
)
def test_error_of_a_store_says_what_to_do(
    shop: Shop,
    store: Store,
    warehouse: Warehouse,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    environment: dict[str, str],
    message: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SourceError) as raised:
        load(shop, warehouse, path)
    assert message in str(raised.value)
    assert raised.value.__context__ is None
    assert [text for text in (KEY, SECRET, "127.0.0.1:1/?", "objects-") if text in str(raised.value)] == []


def test_missing_driver_names_the_extra(
    shop: Shop, store: Store, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = builtins.__import__

    def without_aiohttp(name: str, *arguments: Any) -> Any:
        if name == "aiohttp":
            raise ImportError(name)
        return imported(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_aiohttp)
    with pytest.raises(SourceError, match=r"pip install 'segmentation-pipeline\[http\]'"):
        load(shop, warehouse, "https://shop.example/a.csv")


def test_sensor_sees_new_objects(shop: Shop, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.configure(source={"path": "s3://exports/daily/2024"})
    before = current_files()
    assert (before, store.taken()) == (current_files(), [])
    store.objects["daily/2024/03.csv"] = csv(line())
    after = current_files()
    assert before is not None
    assert after is not None
    assert len({*after} - {*before}) == 1


def test_run_reads_a_bucket_and_stores_no_credentials(shop: Shop, store: Store, tmp_path: Path) -> None:
    lines = regular_customers()
    store.objects = {f"shop/{number}.csv": csv(*lines[number::2]) for number in (0, 1)}
    shop.configure(source={"path": "s3://exports/shop/*.csv"})
    checked = segments(shop, "retailer", "check", str(shop.retailer), "--sample")
    assert "Source: 2 files." in checked.stdout, checked.errors
    ended = segments(shop, "run", event_log=True, DAGSTER_HOME=str(tmp_path / "dagster"))
    assert ended.code == 0, ended.errors
    assert shop.rows("select source_file, lines from ingested_files order by 1") == [
        ("0.csv", len(lines[0::2])),
        ("1.csv", len(lines[1::2])),
    ]
    text = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    text += (ended.stdout + ended.errors).encode()
    assert [secret for secret in (KEY, SECRET) if secret.encode() in text] == []
