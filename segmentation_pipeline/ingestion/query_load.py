"""Load the rows of a source's query: all of them, or those that were written since the last run.

Contains what becomes of the rows that are stored already. Fetching is in `query_fetch`. The rows of a month are stored
as the lines of a file, so that later tables are derived month by month; the key of a row is in `source_sheet`.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segmentation_pipeline.config.paths import RetailerFolders
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.ingestion.file_ledger import EPOCH, LOADED, QUERY_FOLDER, IngestedFile, ingested_files_select
from segmentation_pipeline.ingestion.incremental import (
    LoadRequest,
    SourceLoad,
    ledger_writes,
    missing_records,
    raw_write,
    stored_records,
)
from segmentation_pipeline.ingestion.query_connection import Address, opened_source
from segmentation_pipeline.ingestion.query_fetch import CURSOR, QUERY, ROW_KEY, Query
from segmentation_pipeline.ingestion.staging import StagedLines, read_lines, reader_digest, temporary_folder
from segmentation_pipeline.privacy.customer_ids import CustomerIds
from segmentation_pipeline.privacy.line_privacy import LinePrivacy
from segmentation_pipeline.tables.catalog import contracts
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs

# The rows of these months as they are to be stored: a temporary table.
_LINES = "query_lines"
_MONTH = f"'{QUERY_FOLDER}' || coalesce(strftime(transaction_at, '%Y-%m'), 'undated')"
_IS_MONTH = f"starts_with(source_file, '{QUERY_FOLDER}')"


@dataclass(frozen=True)
class _Month:
    """The rows of a month in this run.

    Attributes:
        fetched: How many were fetched.
        newest: The newest time of the cursor among these.
        lines: How many the month has then.
        content_hash: A hash of these that does not depend on their order.
    """

    fetched: int = 0
    newest: datetime | None = None
    lines: int = 0
    content_hash: str = ""


@contextmanager
def load_query(
    warehouse: Warehouse, retailer: Retailer, spill: Path, request: LoadRequest, own_paths: Sequence[Path] = ()
) -> Iterator[SourceLoad]:
    """Fetch rows and yield the tables to write.

    A row replaces the stored one of the same key, in whichever month that is. Without a cursor, after a change of the
    settings or the database, and on `reload`, all rows are fetched; those of a month that are no longer there go.

    Raises:
        SourceError: The query cannot be answered, has no rows, or has rows without a key of their own.
    """
    address, ids = Address.of(retailer.source.connection or ""), CustomerIds.of(retailer, request.base)
    digest = _digest(request.settings_digest, ids.merged_digest, reader_digest(Path("rows.parquet"), retailer), address)
    request = replace(request, settings_digest=digest)
    privacy, previous = LinePrivacy.of(warehouse, retailer, ids), stored_records(warehouse)
    since = _fetch_since(retailer, previous, request)
    with temporary_folder(spill, "query-") as folder:
        with opened_source(address, folder, own_paths) as source:
            query = Query.of(retailer, source)
            source.write_parquet(query.select(since, (request.max_lines or {}).get(QUERY)), folder / "rows.parquet")
        if request.reload:
            warehouse.forget_versions()
        settings, files = query.settings_for_reading(), {QUERY: folder / "rows.parquet"}
        with read_lines(warehouse.connection, settings, files, spill) as lines:
            load = _Load(warehouse, retailer, privacy, request, previous, since, _fetched_lines(lines))
            yield load.result(query)
            warehouse.connection.execute(f"drop table if exists {_LINES}")


def check_query(retailer: Retailer, folders: RetailerFolders) -> int:
    """Return the number of columns of the query.

    Raises:
        SourceError: The query cannot be answered, or lacks a column that the settings name.
    """
    address = Address.of(retailer.source.connection or "")
    with TemporaryDirectory() as folder, opened_source(address, Path(folder), folders.pipeline_paths) as source:
        return len(Query.of(retailer, source).types)


def _digest(settings: str, merged: str, reader: str, address: Address) -> str:
    """Return a digest that changes when the rows that are stored would have to be fetched again."""
    text = "\0".join((settings, merged, reader, address.identity))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _fetch_since(retailer: Retailer, previous: Mapping[str, IngestedFile], request: LoadRequest) -> datetime | None:
    """Return the time of the cursor from which rows are fetched; None: all of them."""
    months = [record for name, record in previous.items() if name.startswith(QUERY_FOLDER) and record.status == LOADED]
    is_current = all(record.settings_digest == request.settings_digest for record in months)
    newest = max((record.modified_at for record in months), default=EPOCH)
    if retailer.source.cursor is None or request.reload or not is_current or newest == EPOCH:
        return None
    try:
        return newest - retailer.source.look_back_time
    except OverflowError:
        return None


def _fetched_lines(staged: StagedLines) -> StagedLines:
    """Return the staged rows as lines of their months, named by their keys, with their cursor in `CURSOR`.

    Raises:
        SourceError: They could not be read.
    """
    if error := staged.files[QUERY].error:
        raise SourceError(error)
    lines = (
        f"select * exclude ({ROW_KEY})"  # noqa: S608 - own SQL
        f" replace ({_MONTH} as source_file, {ROW_KEY} as source_sheet, cast(1 as bigint) as source_line)"
        f" from ({staged.relations['staged_lines']})"
    )
    return replace(staged, relations={"staged_lines": lines})


@dataclass
class _Load:
    """The fetched rows, and what is stored."""

    warehouse: Warehouse
    retailer: Retailer
    privacy: LinePrivacy
    request: LoadRequest
    previous: dict[str, IngestedFile]
    since: datetime | None
    fetched: StagedLines

    def result(self, query: Query) -> SourceLoad:
        """Return the tables to write."""
        self._check_keys()
        months = self._months()
        rows = sum(month.fetched for month in months.values())
        if not rows and self.since is None:
            raise SourceError(
                f"{QUERY}: it returned no rows. Correct the query or the source; what was loaded before is kept."
            )
        erased = self._erased()
        present = [
            self._record(name, month, erased.get(name, 0), query.types)
            for name, month in months.items()
            if self._is_present(name, month)
        ]
        if self.since is not None:
            kept = self.previous.keys() - months.keys()
            present += [self.previous[name] for name in kept if self._is_present(name, _Month())]
        records = [record for record in present if record.lines or record.erased]
        if not self.request.reload:
            missing = missing_records(self.previous, present, self.request)
            records += [record for record in map(self._with_lines(months), missing) if record.lines]
        records.sort(key=lambda record: record.source_file)
        read = [
            record.source_file
            for record in records
            if record.lines and record.source_file in months and self._has_changed(record)
        ]
        select, ledger = ingested_files_select(records)
        lines = f"select * from {_LINES}"  # noqa: S608 - own SQL
        raw = raw_write(self.warehouse, lines, records, read, self.request, self.retailer.columns.extra)
        inputs = QueryInputs(self.fetched.relations, self.privacy.values | ledger | {"read": read})
        similar = self.privacy.similar_ids(self.warehouse, inputs) if self.retailer.privacy.pseudonymise else None
        return SourceLoad(
            [raw, *ledger_writes(select)],
            inputs,
            list(self.previous.values()),
            records,
            read,
            {},
            [],
            [],
            similar,
            rows_fetched=rows,
            fetched_since=self.since,
        )

    def _check_keys(self) -> None:
        """Check that each row has a key, and no two the same: one of them would replace the other."""
        select = "count(*) filter (where source_sheet is null), count(source_sheet) - count(distinct source_sheet)"
        [(missing, repeated)] = self._rows(f"select {select} from staged_lines")  # noqa: S608 - own SQL
        name = " and ".join(self.retailer.source.key_columns)
        advice = "Set columns that identify a row, such as the id of an order line."
        if missing:
            raise SourceError(f"source.key: {missing:,} rows have no {name}. {advice}")
        if repeated:
            raise SourceError(f"source.key: {repeated:,} rows repeat the {name} of another row. {advice}")

    def _months(self) -> dict[str, _Month]:
        """Return the months with fetched rows, or with stored rows that these replace; write `query_lines` of them."""
        # A clock that is ahead must not hide the rows of the days until then.
        now = max(datetime.now(zone).replace(tzinfo=None) for zone in (UTC, self.retailer.zone))
        time = rf"try_cast(regexp_replace({CURSOR}, '[+]00(:00)?$', '') as timestamp)"
        newest = f"max({time}) filter (where isfinite({time}) and {time} <= $now)"
        months = {
            name: _Month(fetched, at)
            for name, fetched, at in self._rows(
                f"select source_file, count(*), {newest} from staged_lines group by source_file",  # noqa: S608 - own SQL
                {"now": now},
            )
        }
        months |= dict.fromkeys(self._replaced_months() - months.keys(), _Month())
        self._write_lines(sorted(months))
        content = ", ".join(map(quoted, self._columns()))
        select = f"source_file, count(*), cast(sum(hash({content})) as varchar) from {_LINES} group by source_file"
        for name, lines, content_hash in self.warehouse.connection.execute(f"select {select}").fetchall():
            months[name] = replace(months[name], lines=lines, content_hash=content_hash)
        return months

    def _replaced_months(self) -> set[str]:
        """Return the stored months of rows that were fetched again; these may have another month now."""
        if not self.warehouse.has("raw_transactions"):
            return set()
        keys = "source_sheet in (select source_sheet from staged_lines)"
        select = f"select distinct source_file from main.raw_transactions where {_IS_MONTH} and {keys}"  # noqa: S608 - own SQL
        return {name for (name,) in self._rows(select)}

    def _write_lines(self, months: Sequence[str]) -> None:
        """Write `query_lines`: the fetched rows, and those stored rows of these months that they do not replace.

        If all rows were fetched, their months have no others; a month without any is missing, and keeps its rows.
        """
        columns = self._columns()
        lines = self.privacy.stored(f"select * exclude ({CURSOR}) from staged_lines")  # noqa: S608 - own SQL
        select = f"select {', '.join(map(quoted, columns))} from ({lines})"  # noqa: S608 - own SQL
        values = {"months": list(months)}
        if self.warehouse.has("raw_transactions") and not self.request.reload:
            stored = set(self.warehouse.connection.table("main.raw_transactions").columns)
            cells = [quoted(name) if name in stored else f"null as {quoted(name)}" for name in columns]
            gone = " and source_file not in (select source_file from staged_lines)" if self.since is None else ""
            kept = (
                f"select {', '.join(cells)} from main.raw_transactions"  # noqa: S608 - own SQL
                " where source_file in (select unnest(cast($months as varchar[])))"
                f" and source_sheet not in (select source_sheet from staged_lines){gone}"
            )
            select = f"{select} union all {kept}"
        else:
            values = {}
        self._rows(select, values | self.privacy.values, into=f"create or replace temp table {_LINES} as ")

    def _columns(self) -> list[str]:
        contract = contracts()["raw_transactions"].with_extra_columns(self.retailer.columns.extra)
        return [column.name for column in contract.columns]

    def _erased(self) -> dict[str, int]:
        """Return how many rows of each month were left out because their customers were erased.

        Of the rows that were fetched again, those that the last run has seen are counted already.
        """
        lines = self.fetched.relations["staged_lines"]
        if self.since is None:
            return self.privacy.count_erased(self.warehouse, self.fetched)
        newest = self.since + self.retailer.source.look_back_time
        time = rf"try_cast(regexp_replace({CURSOR}, '[+]00(:00)?$', '') as timestamp)"
        new = f"select * from ({lines}) where {time} > cast('{newest.isoformat(' ')}' as timestamp)"  # noqa: S608 - own SQL
        return self.privacy.count_erased(self.warehouse, replace(self.fetched, relations={"staged_lines": new}))

    def _is_present(self, name: str, month: _Month) -> bool:
        """Return whether a month is in the source: a row was fetched, or it was there and not all rows were fetched."""
        before = self.previous.get(name)
        is_month = name.startswith(QUERY_FOLDER)
        return bool(month.fetched) or (
            is_month and self.since is not None and before is not None and before.status == LOADED
        )

    def _record(self, name: str, month: _Month, erased: int, types: Mapping[str, str]) -> IngestedFile:
        before = self.previous.get(name)
        if before is not None and self.since is not None:
            erased += before.erased
        times = [month.newest, before.modified_at if before and self.since is not None else None]
        record = IngestedFile(
            name,
            self.request.settings_digest,
            self.request.source_path,
            self.request.run_id,
            status=LOADED,
            lines=month.lines,
            erased=erased,
            columns=list(types),
            types=list(types.values()),
            modified_at=max((at for at in times if at is not None), default=EPOCH),
            content_hash=f"{month.lines}-{month.content_hash}" if month.lines else "0",
        )
        is_same = before is not None and before.status == LOADED and before.content_hash == record.content_hash
        return replace(record, run_id=before.run_id) if before and is_same else record

    @staticmethod
    def _with_lines(months: Mapping[str, _Month]) -> Any:
        """Return a function that gives the record of a missing month its lines, of which some may be elsewhere now."""

        def changed(record: IngestedFile) -> IngestedFile:
            if (month := months.get(record.source_file)) is None:
                return record
            return replace(record, lines=month.lines, content_hash=f"{month.lines}-{month.content_hash}")

        return changed

    def _has_changed(self, record: IngestedFile) -> bool:
        before = self.previous.get(record.source_file)
        return before is None or before.content_hash != record.content_hash

    def _rows(self, select: str, values: Mapping[str, Any] | None = None, *, into: str = "") -> list[tuple[Any, ...]]:
        """Execute a SELECT on the fetched rows, which it reads as `staged_lines`."""
        text = f"{into}with staged_lines as ({self.fetched.relations['staged_lines']}) {select}"
        return self.warehouse.execute(text, {**self.fetched.values, **(values or {})}).fetchall()
