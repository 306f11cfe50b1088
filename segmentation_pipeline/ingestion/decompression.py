"""Decompress files, decode them to UTF-8, and limit the size that they decompress to.

Contains compression and encodings. Parsing the text is in `file_formats`, workbooks are in `excel`.
"""

import codecs
import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO
from uuid import uuid4

from zstandard import ZstdDecompressor, ZstdError

from segmentation_pipeline.config.source_settings import Source

COMPRESSED = (".gz", ".zst")
# Raised by a compressed file that is damaged or cut off.
DECOMPRESSION_ERRORS = (gzip.BadGzipFile, EOFError, zlib.error, ZstdError)
# The longest first: that of UTF-32 begins with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CHUNK = 1 << 20
_LINE_END = re.compile(rb"\r\n?|\n")
# A record of several lines is not cut, unless a quote is never closed.
_MAX_RECORD_LINES = 1_000
# Four bytes of zstd decompress to as much as 128 KB, so this is 32 MB of memory at most.
_ZSTD_CHUNK = 1 << 10


def content_hash(path: Path, max_gb: float) -> str:
    """Return the SHA-256 of a file's decompressed content, so that compressing a loaded file adds nothing.

    Of a damaged file it is the hash of its bytes.

    Raises:
        OSError: It decompresses to more than the limit. This is checked here, before anything is written.
    """
    try:
        return _sha256(decompressed(path, max_gb))
    except DECOMPRESSION_ERRORS:
        with path.open("rb") as file:
            return _sha256(chunks(file))


def utf8_copy(path: Path, source: Source, folder: Path, max_lines: int | None = None) -> Path:
    """Return the file itself if it is uncompressed UTF-8, and otherwise such a copy of it in a folder.

    With `max_lines` it is always a copy, of about so many lines at the beginning of the file.

    DuckDB has few encodings, Python has all. Bytes that are invalid in the encoding stay bytes, so that they spoil
    their line and no other. DuckDB 1.5 reads a gzip file that was cut off without an error; Python does not.
    """
    content = decompressed(path, source.max_unpacked_gb)
    start = b""
    while len(start) < len(codecs.BOM_UTF32) and (chunk := next(content, b"")):
        start += chunk
    encoding = byte_order_encoding(start) or codecs.lookup(source.encoding).name
    if encoding == "utf-8" and path.suffix.lower() not in COMPRESSED and max_lines is None:
        return path
    content, copy = chain([start], content), folder / f"{uuid4()}.txt"
    if encoding != "utf-8":
        texts = codecs.iterdecode(content, encoding, errors="surrogateescape")
        content = (text.encode(errors="surrogateescape") for text in texts)
    with copy.open("wb") as file:
        file.writelines(content if max_lines is None else _beginning(content, max_lines))
    return copy


def _beginning(content: Iterator[bytes], max_lines: int) -> Iterator[bytes]:
    """Yield UTF-8 up to the first end of a line after so many lines at which every quote is closed."""
    lines = quotes = 0
    for chunk in content:
        start = 0
        for end in _LINE_END.finditer(chunk):
            lines += 1
            quotes += chunk.count(b'"', start, end.start())
            start = end.end()
            if lines >= max_lines + _MAX_RECORD_LINES or (lines >= max_lines and quotes % 2 == 0):
                yield chunk[:start]
                return
        quotes += chunk.count(b'"', start)
        yield chunk


def byte_order_encoding(start: bytes) -> str | None:
    """Return the encoding that a byte order mark at the start of a file proves."""
    return next((encoding for mark, encoding in _BYTE_ORDER_MARKS if start.startswith(mark)), None)


def decompressed(path: Path, max_gb: float) -> Iterator[bytes]:
    """Yield a file's decompressed content in pieces.

    Raises:
        OSError: It decompresses to more than the limit.
    """
    ending = path.suffix.lower()
    with gzip.open(path) if ending == ".gz" else path.open("rb") as file:
        if ending == ".zst":
            yield from limited(_decompressed_zstd(file), max_gb)
        else:
            yield from limited(chunks(file), max_gb if ending == ".gz" else None)


def chunks(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    """Yield the content of an open file in pieces."""
    while chunk := file.read(_CHUNK):
        yield chunk


def limited(content: Iterator[bytes], max_gb: float | None, size: int = 0) -> Iterator[bytes]:
    """Yield pieces of content until they exceed the limit together with the bytes before them.

    Raises:
        OSError: They exceed it.
    """
    for chunk in content:
        size += len(chunk)
        if max_gb is not None and size > max_gb * 1e9:
            raise OSError(f"it unpacks to more than {max_gb:g} GB, the limit of source.max_unpacked_gb")
        yield chunk


def _decompressed_zstd(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    """Yield the content of every frame; `stream_reader` would end without an error where a frame is cut off."""
    frame = ZstdDecompressor().decompressobj()
    while packed := file.read(_ZSTD_CHUNK):
        while packed:
            if frame.eof:
                frame = ZstdDecompressor().decompressobj()
            yield frame.decompress(packed)
            packed = frame.unused_data
    if not frame.eof:
        raise EOFError("Compressed file ended before the end of its last frame")


def _sha256(content: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in content:
        digest.update(chunk)
    return digest.hexdigest()
