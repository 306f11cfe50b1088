"""Write small workbooks in the formats other than XLSX: XLS, XLSB and ODS.

Each function writes rows of text, numbers, timestamps and None. Only what a reader needs is in the files.
"""

import struct
import zipfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import xlwt

Sheets = Mapping[str, Sequence[Sequence[Any]]]
# Day 0 of the 1900 date system for dates after February 1900.
_DAY_ZERO = datetime(1899, 12, 30)  # noqa: DTZ001 - timestamps of a workbook have no time zone
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"


def write_xls(path: Path, sheets: Sheets) -> Path:
    """Write the format of Excel 97 to 2003."""
    book = xlwt.Workbook(encoding="utf-8")
    date = xlwt.easyxf(num_format_str="yyyy-mm-dd hh:mm:ss")
    for name, rows in sheets.items():
        sheet = book.add_sheet(name)
        for at, row in enumerate(rows):
            for column, value in enumerate(row):
                if value is not None:
                    sheet.write(at, column, value, *([date] if isinstance(value, datetime) else []))
    path.parent.mkdir(parents=True, exist_ok=True)
    book.save(str(path))
    return path


def write_ods(path: Path, sheets: Sheets) -> Path:
    """Write an OpenDocument spreadsheet. LibreOffice fills each sheet up to its last row and column, as done here."""
    tables = "".join(
        f'<table:table table:name="{escape(name)}">{"".join(map(_ods_row, rows))}'
        '<table:table-row table:number-rows-repeated="1048000"><table:table-cell'
        ' table:number-columns-repeated="1024"/></table:table-row></table:table>'
        for name, rows in sheets.items()
    )
    return write_ods_content(path, tables)


def write_ods_content(path: Path, tables: str) -> Path:
    """Write an OpenDocument spreadsheet with the XML of its tables."""
    of = "urn:oasis:names:tc:opendocument:xmlns"
    content = (
        f'{_HEAD}<office:document-content xmlns:office="{of}:office:1.0" xmlns:table="{of}:table:1.0"'
        f' xmlns:text="{of}:text:1.0"><office:body><office:spreadsheet>{tables}</office:spreadsheet></office:body>'
        "</office:document-content>"
    )
    kind = "application/vnd.oasis.opendocument.spreadsheet"
    manifest = (
        f'{_HEAD}<manifest:manifest xmlns:manifest="{of}:manifest:1.0"><manifest:file-entry manifest:full-path="/"'
        f' manifest:media-type="{kind}"/><manifest:file-entry manifest:full-path="content.xml"'
        ' manifest:media-type="text/xml"/></manifest:manifest>'
    )
    _zip(path, {"mimetype": kind, "META-INF/manifest.xml": manifest, "content.xml": content})
    return path


def write_xlsb(path: Path, sheets: Sheets) -> Path:
    """Write the binary format of Excel 2007 and later."""
    numbers = range(1, len(sheets) + 1)
    relations = "".join(
        f'<Relationship Id="rId{n}" Type="{_OFFICE}/worksheet" Target="worksheets/sheet{n}.bin"/>' for n in numbers
    )
    relations += f'<Relationship Id="rId{len(sheets) + 1}" Type="{_OFFICE}/styles" Target="styles.bin"/>'
    office = f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.bin"/>'
    overrides = "".join(
        f'<Override PartName="/xl/{part}.bin" ContentType="application/vnd.ms-excel.{kind}"/>'
        for part, kind in [("workbook", "sheet.binary.macroEnabled.main"), ("styles", "styles")]
        + [(f"worksheets/sheet{n}", "worksheet") for n in numbers]
    )
    listed = b"".join(
        _record(0x9C, struct.pack("<II", 0, n) + _wide(f"rId{n}") + _wide(name)) for n, name in enumerate(sheets, 1)
    )
    # The second cell format is the built-in number format 22, a date with a time.
    formats = b"".join(_record(0x2F, struct.pack("<HH12x", 0, code)) for code in (0, 22))
    parts: dict[str, bytes | str] = {
        "[Content_Types].xml": f'{_HEAD}<Types xmlns="{_PACKAGE}/content-types"><Default Extension="rels"'
        f' ContentType="application/vnd.openxmlformats-package.relationships+xml"/>{overrides}</Types>',
        "_rels/.rels": f'{_HEAD}<Relationships xmlns="{_PACKAGE}/relationships">{office}</Relationships>',
        "xl/_rels/workbook.bin.rels": f'{_HEAD}<Relationships xmlns="{_PACKAGE}/relationships">{relations}'
        "</Relationships>",
        "xl/workbook.bin": _record(0x83) + _record(0x8F) + listed + _record(0x90) + _record(0x84),
        "xl/styles.bin": _record(0x116) + _record(0x269, struct.pack("<I", 2)) + formats + _record(0x26A),
    }
    for n, rows in zip(numbers, sheets.values(), strict=True):
        parts[f"xl/worksheets/sheet{n}.bin"] = xlsb_sheet(dict(enumerate(dict(enumerate(row)) for row in rows)))
    _zip(path, parts)
    return path


def xlsb_sheet(rows: Mapping[int, Mapping[int, Any]]) -> bytes:
    """Return a sheet of the binary format: its values by row and column."""
    width = max((max(row, default=0) for row in rows.values()), default=0)
    body = [_record(0x81), _record(0x94, struct.pack("<IIII", 0, max(rows, default=0), 0, width)), _record(0x91)]
    for number, row in rows.items():
        body.append(_record(0, struct.pack("<I13x", number)))
        body += [_xlsb_cell(column, value) for column, value in row.items() if value is not None]
    return b"".join([*body, _record(0x92), _record(0x82)])


def _xlsb_cell(column: int, value: Any) -> bytes:
    if isinstance(value, str):
        return _record(6, struct.pack("<II", column, 0) + _wide(value))
    if isinstance(value, datetime):
        days = (value - _DAY_ZERO).total_seconds() / 86_400
        return _record(5, struct.pack("<IId", column, 1, days))
    return _record(5, struct.pack("<IId", column, 0, value))


def _record(kind: int, data: bytes = b"") -> bytes:
    """Return a record: its kind in one or two bytes, and its size in groups of seven bits."""
    head = bytes([kind]) if kind < 0x80 else bytes([kind & 0x7F | 0x80, kind >> 7])
    size, groups = len(data), b""
    while True:
        size, group = size >> 7, size & 0x7F
        groups += bytes([group | 0x80 if size else group])
        if not size:
            return head + groups + data


def _wide(text: str) -> bytes:
    data = text.encode("utf-16-le")
    return struct.pack("<I", len(data) // 2) + data


def _ods_row(row: Sequence[Any]) -> str:
    return f"<table:table-row>{''.join(map(_ods_cell, row))}</table:table-row>"


def _ods_cell(value: Any) -> str:
    if value is None:
        return "<table:table-cell/>"
    if isinstance(value, datetime):
        kind = f'office:value-type="date" office:date-value="{value.isoformat()}"'
    elif isinstance(value, str):
        kind = 'office:value-type="string"'
    else:
        kind = f'office:value-type="float" office:value="{value!r}"'
    paragraphs = "".join(f"<text:p>{escape(part)}</text:p>" for part in str(value).split("\n"))
    return f"<table:table-cell {kind}>{paragraphs}</table:table-cell>"


def _zip(path: Path, parts: Mapping[str, bytes | str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            # Without a time, so that the bytes depend on the content only.
            file.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
