"""Write large XLSX workbooks with cells of mixed types, for tests and benchmarks.

openpyxl takes minutes for half a million lines.
"""

import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from html import escape
from pathlib import Path

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_CONTENT = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>\n'
# Cell format 1 is the built-in number format 22, a date with a time. A reader knows a date by its format only.
_STYLES = (
    f'{_HEAD}<styleSheet xmlns="{_MAIN}"><fonts count="1"><font><sz val="11"/><name val="Calibri"/></font></fonts>'
    '<fills count="2"><fill><patternFill patternType="none"/></fill>'
    '<fill><patternFill patternType="gray125"/></fill></fills>'
    '<borders count="1"><border><left/><right/><top/><bottom/><diagonal/></border></borders>'
    '<cellStyleXfs count="1"><xf numFmtId="0" fontId="0" fillId="0" borderId="0"/></cellStyleXfs>'
    '<cellXfs count="2"><xf numFmtId="0" fontId="0" fillId="0" borderId="0" xfId="0"/>'
    '<xf numFmtId="22" fontId="0" fillId="0" borderId="0" xfId="0" applyNumberFormat="1"/></cellXfs>'
    '<cellStyles count="1"><cellStyle name="Normal" xfId="0" builtinId="0"/></cellStyles></styleSheet>'
)
# Day 0 of the 1900 date system for dates after February 1900.
_DAY_ZERO = datetime(1899, 12, 30)  # noqa: DTZ001 - timestamps of a workbook have no time zone
_DAY = timedelta(days=1)
_NOT_IN_XML = re.compile(r"[\x00-\x08\x0b-\x1f]")
_ROWS_A_WRITE = 5_000


def write_workbook(path: Path, sheets: dict[str, Iterable[Sequence[object]]]) -> Path:
    """Write an XLSX file with shared strings, as spreadsheet programs do.

    Args:
        path: The file.
        sheets: The rows of each sheet by its name, with the header. Text stays text even if it is all digits, a
            timestamp is a date, and None and NaN leave the cell out.

    Raises:
        TypeError: A value has another type.
        ValueError: A text has a character that XML cannot hold.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    strings: dict[str, int] = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for number, rows in enumerate(sheets.values(), 1):
            with file.open(f"xl/worksheets/sheet{number}.xml", "w", force_zip64=True) as sheet:
                for text in _sheet(rows, strings):
                    sheet.write(text.encode())
        file.writestr("xl/sharedStrings.xml", _shared(strings))
        file.writestr("xl/styles.xml", _STYLES)
        for name, text in _parts(list(sheets)):
            file.writestr(name, text)
    return path


def mixed(text: str | None) -> int | str | None:
    """Return a code as it is in a typical workbook: a number if it is all digits, else text; None for no cell."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and str(int(text)) == text else text


def _sheet(rows: Iterable[Sequence[object]], strings: dict[str, int]) -> Iterator[str]:
    yield f'{_HEAD}<worksheet xmlns="{_MAIN}"><sheetData>'
    letters: list[str] = []
    dates: dict[datetime, str] = {}
    written: list[str] = []
    for number, row in enumerate(rows, 1):
        while len(letters) < len(row):
            letters.append(_letters(len(letters)))
        cells = []
        for letter, value in zip(letters, row, strict=False):
            if value is None or value != value:
                continue
            if isinstance(value, str):
                cells.append(f'<c r="{letter}{number}" t="s"><v>{strings.setdefault(value, len(strings))}</v></c>')
            elif isinstance(value, bool):
                cells.append(f'<c r="{letter}{number}" t="b"><v>{value:d}</v></c>')
            elif isinstance(value, (int, float)):
                cells.append(f'<c r="{letter}{number}"><v>{value!r}</v></c>')
            elif isinstance(value, datetime):
                serial = dates.get(value) or dates.setdefault(value, repr((value - _DAY_ZERO) / _DAY))
                cells.append(f'<c r="{letter}{number}" s="1"><v>{serial}</v></c>')
            else:
                raise TypeError(f"a workbook's cell cannot be {value!r}: text, number, datetime or None")
        written.append(f'<row r="{number}">{"".join(cells)}</row>')
        if len(written) == _ROWS_A_WRITE:
            yield "".join(written)
            written.clear()
    yield f"{''.join(written)}</sheetData></worksheet>"


def _letters(place: int) -> str:
    """Return the letters of a column: A for 0, Z for 25, AA for 26."""
    before, last = divmod(place, 26)
    return (_letters(before - 1) if before else "") + chr(ord("A") + last)


def _shared(strings: dict[str, int]) -> str:
    for text in strings:
        if _NOT_IN_XML.search(text):
            raise ValueError(f"XML cannot hold {text!r}")
    items = "".join(f'<si><t xml:space="preserve">{escape(text, quote=False)}</t></si>' for text in strings)
    return f'{_HEAD}<sst xmlns="{_MAIN}" uniqueCount="{len(strings)}">{items}</sst>'


def _parts(names: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the names and texts of the files around the sheets."""
    numbered = list(enumerate(names, 1))
    sheets = "".join(f'<sheet name="{escape(name)}" sheetId="{at}" r:id="rId{at}"/>' for at, name in numbered)
    yield (
        "xl/workbook.xml",
        f'{_HEAD}<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>{sheets}</sheets></workbook>',
    )
    targets = [("worksheet", f"worksheets/sheet{at}.xml") for at, _ in numbered]
    targets += [("styles", "styles.xml"), ("sharedStrings", "sharedStrings.xml")]
    yield "xl/_rels/workbook.xml.rels", _relations(targets)
    yield "_rels/.rels", _relations([("officeDocument", "xl/workbook.xml")])
    kinds = {
        "workbook": "sheet.main",
        **{f"worksheets/sheet{at}": "worksheet" for at, _ in numbered},
        "styles": "styles",
        "sharedStrings": "sharedStrings",
    }
    overrides = "".join(
        f'<Override PartName="/xl/{name}.xml" ContentType="{_CONTENT}.{kind}+xml"/>' for name, kind in kinds.items()
    )
    yield (
        "[Content_Types].xml",
        f'{_HEAD}<Types xmlns="{_PACKAGE}/content-types">'
        '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
        f'<Default Extension="xml" ContentType="application/xml"/>{overrides}</Types>',
    )


def _relations(targets: list[tuple[str, str]]) -> str:
    items = "".join(
        f'<Relationship Id="rId{at}" Type="{_OFFICE}/{kind}" Target="{target}"/>'
        for at, (kind, target) in enumerate(targets, 1)
    )
    return f'{_HEAD}<Relationships xmlns="{_PACKAGE}/relationships">{items}</Relationships>'
