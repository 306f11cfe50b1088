"""A file as UTF-8 text that is not compressed.

Belongs here: compression and encodings. Does not: what the text says (`sources`).
"""

import glob
import gzip
import shutil
from codecs import lookup
from pathlib import Path
from uuid import uuid4

import duckdb

from segmentation_pipeline.settings import Retailer

COMPRESSED = (".gz", ".zst")


def unpacked(connection: duckdb.DuckDBPyConnection, retailer: Retailer, path: Path, folder: Path) -> Path:
    """The file, or a copy of it, as UTF-8 text that is not compressed.

    DuckDB has few encodings built in, Python all. Bytes that the encoding lacks stay bytes, so that they break their
    line and no other. DuckDB 1.5 reads a gzip file that was cut off without a word; Python does not.
    """
    plain, encoding = path, lookup(retailer.source.encoding).name
    if path.suffix.lower() == ".gz":
        plain = folder / f"{uuid4()}.txt"
        with gzip.open(path) as packed, plain.open("wb") as copy:
            shutil.copyfileobj(packed, copy)
    elif path.suffix.lower() == ".zst":
        # Python below 3.14 has no zst, so this is DuckDB's to unpack, as lines of text.
        if encoding != "utf-8":
            raise OSError(f"zst is read as UTF-8 only, and source.encoding is {encoding}; unpack it")
        plain = folder / f"{uuid4()}.txt"
        rows = connection.cursor().execute(
            "select line from read_csv($path, columns = {'line': 'VARCHAR'}, auto_detect = false, header = false,"
            " delim = chr(31), quote = '', escape = '')",
            {"path": glob.escape(str(path))},
        )
        with plain.open("w", encoding="utf-8", newline="") as text:
            while some := rows.fetchmany(10_000):
                text.writelines(f"{line or ''}\n" for (line,) in some)
    if encoding == "utf-8":
        return plain
    copied = folder / f"{uuid4()}.txt"
    with (
        plain.open(encoding=encoding, errors="surrogateescape", newline="") as source,
        copied.open("w", encoding="utf-8", errors="surrogateescape", newline="") as target,
    ):
        shutil.copyfileobj(source, target)
    return copied
