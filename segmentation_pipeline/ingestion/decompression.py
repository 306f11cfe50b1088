"""A file as UTF-8 text that is not compressed, and how much it may unpack to.

Belongs here: compression and encodings. Does not: what the text says (`sources`), what is in a workbook (`workbooks`).
"""

import glob
import gzip
import hashlib
import shutil
import zlib
from codecs import lookup
from collections.abc import Iterator
from pathlib import Path
from typing import IO
from uuid import uuid4

import duckdb

from segmentation_pipeline.config.retailer import Retailer

COMPRESSED = (".gz", ".zst")
_CHUNK = 1 << 20


def content_hash(path: Path, max_gb: float) -> str:
    """The hash of a file's content; of a gzip file, of what it holds: whoever packs a loaded file adds nothing.

    Raises:
        OSError: It unpacks to more than the bound, which is told here, before anything is written.
    """
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            return _digest(file, max_gb if isinstance(file, gzip.GzipFile) else None)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        with path.open("rb") as file:
            return _digest(file)


def _digest(file: IO[bytes] | gzip.GzipFile, max_gb: float | None = None) -> str:
    digest = hashlib.sha256()
    for some in chunks(file, max_gb):
        digest.update(some)
    return digest.hexdigest()


def chunks(file: IO[bytes] | gzip.GzipFile, max_gb: float | None, before: int = 0) -> Iterator[bytes]:
    """What is in a file, piece by piece.

    Raises:
        OSError: With the bytes that came before, it is more than the bound.
    """
    while some := file.read(_CHUNK):
        before += len(some)
        refuse_more_than(max_gb, before)
        yield some


def refuse_more_than(max_gb: float | None, size: int) -> None:
    """Stop where a file unpacks to more bytes than the bound.

    Raises:
        OSError: It does.
    """
    if max_gb is not None and size > max_gb * 1e9:
        raise OSError(f"it unpacks to more than {max_gb:g} GB, the bound of source.max_unpacked_gb")


def unpacked(connection: duckdb.DuckDBPyConnection, retailer: Retailer, path: Path, folder: Path) -> Path:
    """The file, or a copy of it, as UTF-8 text that is not compressed.

    DuckDB has few encodings built in, Python all. Bytes that the encoding lacks stay bytes, so that they break their
    line and no other. DuckDB 1.5 reads a gzip file that was cut off without a word; Python does not.
    """
    plain, encoding = path, lookup(retailer.source.encoding).name
    if path.suffix.lower() == ".gz":
        plain = folder / f"{uuid4()}.txt"
        with gzip.open(path) as packed, plain.open("wb") as copy:
            copy.writelines(chunks(packed, retailer.source.max_unpacked_gb))
    elif path.suffix.lower() == ".zst":
        # Python below 3.14 has no zst, so this is DuckDB's to unpack, as lines of text. Reading in parallel, it would
        # lose a last line that is longer than its buffer without a word.
        if encoding != "utf-8":
            raise OSError(f"zst is read as UTF-8 only, and source.encoding is {encoding}; unpack it")
        plain = folder / f"{uuid4()}.txt"
        try:
            _unpack_zst(connection, path, plain, retailer.source.max_unpacked_gb)
        except duckdb.OutOfMemoryException:
            # Some megabytes do, but for such a line, which DuckDB refuses only when it has all of it.
            raise OSError("a line of it does not fit into memory") from None
    if encoding == "utf-8":
        return plain
    copied = folder / f"{uuid4()}.txt"
    with (
        plain.open(encoding=encoding, errors="surrogateescape", newline="") as source,
        copied.open("w", encoding="utf-8", errors="surrogateescape", newline="") as target,
    ):
        shutil.copyfileobj(source, target)
    return copied


def _unpack_zst(connection: duckdb.DuckDBPyConnection, path: Path, plain: Path, max_gb: float) -> None:
    with connection.cursor() as cursor, plain.open("w", encoding="utf-8", newline="") as text:
        rows = cursor.execute(
            "select line from read_csv($path, columns = {'line': 'VARCHAR'}, auto_detect = false, header = false,"
            " delim = chr(31), quote = '', escape = '', parallel = false, buffer_size = 4000000)",
            {"path": glob.escape(str(path))},
        )
        size = 0
        while some := rows.fetchmany(10_000):
            size += text.write("".join(f"{line or ''}\n" for (line,) in some))
            refuse_more_than(max_gb, size)
