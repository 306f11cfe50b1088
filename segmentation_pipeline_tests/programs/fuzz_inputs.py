"""Inputs of the fuzzing: valid files, mutated in their bytes and in their structure.

Contains the inputs, each of which depends on its number only. What must be true of the result is in `fuzz`.
"""

import csv
import gzip
import io
import json
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Literal

import duckdb
import tomli_w
import zstandard

from segmentation_pipeline.config.loading import SHIPPED
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline_tests.other_workbooks import write_ods, write_xls, write_xlsb
from segmentation_pipeline_tests.scenarios import HEADER, Line, line, retailer_settings
from segmentation_pipeline_tests.workbooks import mixed, write_workbook

SEED = 20_240_301
# The files of one input, because many files in a folder take little longer than one.
_FORMATS = ("csv", "csv", "csv", "csv", "jsonl", "jsonl", "xlsx", "workbook", "parquet")
# In the description of each line, so that a lost line shows.
MARK = "Q{:04d}Z"
_TIMES = (1, 1, 1, 2, 2, 3, 5, 8)


@dataclass(frozen=True)
class Input:
    """Files of a source with the settings to read them, or a retailer file."""

    number: int
    files: dict[str, bytes]
    source: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def is_retailer_file(self) -> bool:
        """Whether the input is a retailer file."""
        return "m.toml" in self.files


def input_of(number: int) -> Input:
    """Return the input of a number."""
    random = Random(f"{SEED}:{number}")  # noqa: S311 - not for cryptography
    if number % 3 == 2:
        return Input(number, {"m.toml": _toml(random)})
    source: dict[str, Any] = {
        "delimiter": random.choice(",,,;\t|"),
        "encoding": random.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-16-le", "cp1252", "latin-1")),
        "max_quarantined": len(_FORMATS),
    }
    if random.random() < 0.2:
        source["date_format"] = "%d/%m/%Y %H:%M"
    source |= random.choice(_LAYOUTS)
    made = [_MAKERS[kind](random, source) for kind in _FORMATS]
    columns: dict[str, Any] = {"extra": {"land": "Country", "code": "StockCode"}} if random.random() < 0.3 else {}
    if source.get("header") is False:
        columns = _positions(columns)
    if random.random() < 0.3:
        source["fill_down"] = ["customer_id", "transaction_at", *columns.get("extra", ())]
    return Input(number, {f"m{place}.{ending}": data for place, (ending, data) in enumerate(made)}, source, columns)


# `delimiter: None` is that of the line `sep=;`, or a comma.
_LAYOUTS: list[dict[str, Any]] = [
    *[{}] * 6,
    {"delimiter": None},
    {"skip_lines": 3},
    {"header": False},
    {"delimiter": None, "skip_lines": 3, "header": False},
    {"delimiter": "whitespace"},
    {"delimiter": "whitespace", "skip_lines": 3, "header": False},
]
REPORT = ['Report "by line"', "Generated, 2024-04-01", ""]


def _positions(columns: dict[str, Any]) -> dict[str, Any]:
    """Return all columns by their positions instead of their names."""
    named = retailer_settings(Path("source"))["columns"] | columns
    extra = {name: HEADER.index(theirs) + 1 for name, theirs in named.pop("extra", {}).items()}
    return {name: HEADER.index(theirs) + 1 for name, theirs in named.items()} | ({"extra": extra} if extra else {})


def lines_above(source: dict[str, Any]) -> list[str]:
    """Return the lines above the header that the settings leave out."""
    return REPORT[: source.get("skip_lines", 0)]


def write_text(
    source: dict[str, Any],
    delimiter: str,
    lines: Iterable[Line],
    end: str = "\n",
    quoting: Literal[0, 1] = csv.QUOTE_MINIMAL,
) -> str:
    """Return lines as a CSV of the layout that the settings describe."""
    text = io.StringIO()
    if delimiter == "whitespace":
        delimiter, quoting = " ", csv.QUOTE_ALL
    text.writelines(line + end for line in lines_above(source))
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([*([HEADER] if source.get("header", True) else []), *lines])
    return text.getvalue()


def sold() -> list[Line]:
    """Return usual and unusual lines, each with its mark in the description."""
    odd = {
        1: {"quantity": "-1", "invoice": "C536366"},
        2: {"customer": ""},
        3: {"price": "0"},
        4: {"description": 'A "BIG",\nLANTERN '},
        5: {"country": "Côte d'Ivoire"},
        6: {"quantity": "two"},
        8: {"description": "", "country": MARK.format(8)},
    }
    lines = []
    for number in range(12):
        cells = odd.get(number, {})
        text = cells.get("description", "LANTERN ") + ("" if number == 8 else MARK.format(number))
        lines.append(line(**{"invoice": f"{536365 + number}", **cells, "description": text}))
    return lines


# -- text

TOKENS = [
    b'"',
    b'""',
    b'","',
    b',"',
    b'"\n',
    b'"\r',
    b"\r",
    b"\n",
    b"\r\n",
    b"\n\n",
    b"\n\r",
    b",",
    b";",
    b"\t",
    b"|",
    b"\0",
    b"\0\0",
    b"\xff",
    b"\xfe\xff",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"\xc3",
    b"\x0b",
    b"\x0c",
    b"\x1a",
    b"\x1c",
    b"\x1f",
    b"\x7f",
    b"\\",
    b'\\"',
    b"'",
    b"#",
    b" ",
    b"\xc2\xa0",
    b"=1+1",
    b"@SUM(A1)",
    b"{}",
    b"null",
    b"NaN",
    b"-inf",
    b"1e999",
    b"1e-999",
    b"9" * 400,
    b"0x1F",
    b"-0",
    b"+5",
    b"1,5",
    b"1.5.5",
    b"99999-01-01",
    b"0000-00-00",
    b"2024-02-30",
    b"-290308-12-22",
    b"infinity",
    b"epoch",
    b"294247-01-10 04:00:54.775806",
    b"2024-03-01 10:00:00+25:00",
    b"2024-03-01T10:00:00Z",
    b"290000-01-01 00:00:00+00",
    b"0001-01-01 00:00:00+14:00",
    b"$path",
    b"' or 1=1 --",
    b"x" * 70_000,
    b'"' + b"y\n" * 1_200 + b'"',
    b"\n" * 1_500,
    b"%s%n",
    b"\x00\x00\xfe\xff",
    "İ".encode(),
    "ß".encode(),
    "e\u0301".encode(),
]
# Rare, because they are slow.
_LONG = [b"z" * 150_000, b"z" * 2_500_000, b"," * 5_000, b"\n" * 20_000, b'"' * 30_000]


def mutated(random: Random, data: bytes, tokens: list[bytes]) -> bytes:
    """Change bytes in a few places."""
    for _ in range(random.choice(_TIMES)):
        at = random.randrange(len(data) + 1)
        end = min(len(data), at + random.choice((1, 1, 2, 8, 40, 200)))
        match random.randrange(9):
            case 0:
                data = data[:at] + bytes([random.randrange(256)]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[end:]
            case 2:
                data = data[:end] + data[at:end] * random.choice((1, 2, 30)) + data[end:]
            case 3:
                data = data[:at]
            case 4:
                to = random.randrange(len(data) + 1)
                data = data[:to] + data[at:end] + data[to:]
            case 5:
                old, new = random.choice(((b"\n", b"\r"), (b"\n", b"\r\n"), (b",", b";"), (b'"', b"'"), (b"\n", b"")))
                data = data.replace(old, new, random.choice((1, 3, -1)))
            case _:
                some = _LONG if random.random() < 0.01 else tokens
                data = data[:at] + random.choice(some) + data[at:]
    return data


def _packed(random: Random, ending: str, data: bytes) -> tuple[str, bytes]:
    """Compress some of the inputs, and damage half of those."""
    if random.random() > 0.15:
        return ending, data
    compression = random.choice(("gz", "zst"))
    packed = gzip.compress(data, mtime=0) if compression == "gz" else zstandard.compress(data)
    return f"{ending}.{compression}", mutated(random, packed, TOKENS[:20]) if random.random() < 0.5 else packed


def _csv(random: Random, source: dict[str, Any]) -> tuple[str, bytes]:
    encoding = source["encoding"]
    if encoding == "utf-8":
        # A byte order mark needs no setting.
        encoding = random.choice(("utf-8",) * 9 + ("utf-8-sig", "utf-16", "utf-32"))
    end = random.choice(("\n", "\n", "\r\n", "\r"))
    lines = sold()[: random.choice((1, 4, 12, 12))]
    delimiter = source["delimiter"] or random.choice(",;\t|")
    text = write_text(source, delimiter, lines, end, random.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)))
    if source["delimiter"] is None:
        # In place of the first of the lines above, if there are any.
        text = f"sep={delimiter}{end}{text.split(end, 1)[1] if lines_above(source) else text}"
    data = text.encode(encoding)
    # Mostly leave the header alone: without its columns a file is quarantined, and nothing else is tested.
    above = len(lines_above(source)) or (source["delimiter"] is None)
    head_lines = text.split(end)[: above + source.get("header", True)]
    head = len(end.join(head_lines).encode(encoding)) if random.random() < 0.7 else 0
    return _packed(random, "csv", data[:head] + mutated(random, data[head:], TOKENS))


def _jsonl(random: Random, source: dict[str, Any]) -> tuple[str, bytes]:
    objects = [dict(zip(HEADER, cells, strict=True)) for cells in sold()]
    for item in objects:
        if random.random() < 0.3:
            item |= random.choice(_ODD_CELLS)
    text = "".join(json.dumps(item, ensure_ascii=random.random() < 0.5) + "\n" for item in objects)
    extra = [b"{", b"}", b"[" * 3_000, b'{"a":' * 2_000, b"\\u0000", b"\\ud800", b'"":', b"{}\n", b"[]\n", b"1\n"]
    data = text.encode(source["encoding"], "replace")
    return _packed(random, "jsonl", mutated(random, data, [*TOKENS, *extra]))


_ODD_CELLS: list[dict[str, Any]] = [
    {"Quantity": 2},
    {"Quantity": 1e300},
    {"Quantity": None},
    {"UnitPrice": 2.5},
    {"UnitPrice": float("nan")},
    {"UnitPrice": 10**40},
    {"CustomerID": 17850.0},
    {"CustomerID": {"id": 1}},
    {"InvoiceDate": ["2024-03-01"]},
    {"InvoiceDate": 45352.5},
    {"": "x"},
    {"Invoice~/No": "x"},
    {"invoiceno": "7"},
    {"Description": True},
    {"Country": "\ud800"},
    {"a\0b": 1},
    {"StockCode": "\0"},
]


# -- workbooks and Parquet


@cache
def _workbook(kind: str, titles: int, has_header: bool) -> bytes:
    cells = [
        (mixed(a), b, c, _number(q), at, _number(p), mixed(who or None), d) for a, b, c, q, at, p, who, d in sold()
    ]
    above: list[Sequence[object]] = [[title or None] for title in REPORT[:titles]]
    above += [HEADER] * has_header
    sheets: dict[str, Sequence[Sequence[object]]] = {"2010": [*above, *cells[:6]], "2011": [*above, *cells[6:]]}
    writers: dict[str, Callable[[Path, Any], Path]] = {
        "xlsx": write_workbook,
        "xls": write_xls,
        "xlsb": write_xlsb,
        "ods": write_ods,
    }
    with TemporaryDirectory() as folder:
        written = writers[kind](Path(folder) / f"a.{kind}", sheets).read_bytes()
    return _zipped(_entries(written), zipfile.ZIP_DEFLATED) if kind == "xlsx" else written


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


_LAUGHS = b"".join(b'<!ENTITY l%d "%s">' % (n + 1, b"&l%d;" % n * 10) for n in range(9))
_IN_XML = [
    b"<",
    b">",
    b"&",
    b"</row>",
    b"<row>",
    b"<c>",
    b"</c>",
    b"<v>",
    b"</v>",
    b"<v>99999999</v>",
    b"<v>-1</v>",
    b"<v>1e999</v>",
    b' t="s"',
    b' t="d"',
    b' t="e"',
    b' t="b"',
    b' t="inlineStr"',
    b' s="1"',
    b' s="99"',
    b' r="XFD1048576"',
    b' r="ZZZZZZ9"',
    b' r="A0"',
    b' r=""',
    b"&lol;",
    b"&#0;",
    b"&#xD800;",
    b"&#x110000;",
    b"<!--",
    b"<![CDATA[",
    b"]]>",
    b'<?xml version="1.0"?>',
    b'<!DOCTYPE a [<!ENTITY l0 "ha">' + _LAUGHS + b"]>",
    b"&l9;",
    b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
    b"&x;",
    b"<is><t>x</t></is>",
    b"<v>2958466</v>",
    b"<v>-693594</v>",
    b"<v>1e300</v>",
    b"<v>NaN</v>",
    b'<row r="1048577">',
    b"<a>" * 5_000,
]


_IN_ODS = [
    b' table:number-columns-repeated="16384"',
    b' table:number-rows-repeated="1048576"',
    b' table:number-rows-repeated="-1"',
    b' office:value="1e999"',
    b' office:value-type="date" office:date-value="x"',
    b"<text:p>x</text:p>",
    b"<text:s text:c='99999999'/>",
    b"</table:table>",
    b"<table:table-row>",
]


def _xlsx(random: Random, source: dict[str, Any]) -> tuple[str, bytes]:
    data = _workbook("xlsx", source.get("skip_lines", 0), source.get("header", True))
    if random.random() < 0.25:
        return "xlsx", mutated(random, data, [*TOKENS, b"PK\x03\x04", b"PK\x05\x06", b"PK\x01\x02"])
    entries = _entries(data)
    for _ in range(random.choice((1, 1, 2))):
        at = random.randrange(len(entries))
        name, text = entries[at]
        match random.randrange(8):
            case 0:
                del entries[at]
            case 1:
                entries.append(
                    (random.choice((name, name.upper(), f"../{name}", f"/{name}", "xl/vbaProject.bin")), text)
                )
            case 2:
                entries[at] = (name, random.choice(entries)[1])
            case _:
                entries[at] = (name, mutated(random, text, [*_IN_XML, *_IN_XML, *TOKENS]))
        if not entries:
            break
    return "xlsx", _zipped(entries, random.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED)))


def _other_workbook(random: Random, source: dict[str, Any]) -> tuple[str, bytes]:
    """Return a workbook of another format, damaged in its bytes, or of a member where it is an archive."""
    kind = random.choice(("xls", "xlsb", "ods"))
    data = _workbook(kind, source.get("skip_lines", 0), source.get("header", True))
    ending = random.choice((kind, kind, kind, "xls"))
    if kind == "xls" or random.random() < 0.2:
        return ending, mutated(random, data, TOKENS)
    entries = _entries(data)
    # Mostly a sheet, which is the last.
    at = random.choice((random.randrange(len(entries)), -1, -1))
    name, text = entries[at]
    entries[at] = (name, mutated(random, text, [*(_IN_XML if kind == "ods" else []), *_IN_ODS, *TOKENS]))
    return ending, _zipped(entries, zipfile.ZIP_DEFLATED)


def _entries(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        return [(name, packed.read(name)) for name in packed.namelist()]


def _zipped(entries: list[tuple[str, bytes]], compression: int) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", compression) as file:
        for name, text in entries:
            # Without a time, so that the bytes depend on the number only.
            file.writestr(zipfile.ZipInfo(name), text, compression)
    return packed.getvalue()


@cache
def _parquet_file() -> bytes:
    with TemporaryDirectory() as folder, duckdb.connect(config={"threads": 1}) as connection:
        columns = ", ".join(f"unnest($c{at}) as {name}" for at, name in enumerate(HEADER))
        values = {f"c{at}": list(column) for at, column in enumerate(zip(*sold(), strict=True))}
        typed = "* replace (try_cast(Quantity as bigint) as Quantity, cast(InvoiceDate as timestamp) as InvoiceDate)"
        path = Path(folder) / "a.parquet"
        connection.execute(f"create table lines as select {columns}", values)
        connection.execute(f"copy (select {typed} from lines) to '{path}' (format parquet)")
        return path.read_bytes()


def _parquet(random: Random, source: dict[str, Any]) -> tuple[str, bytes]:
    del source
    return "parquet", mutated(random, _parquet_file(), TOKENS[:30])


# -- retailer files

_IN_TOML = [
    b"[",
    b"]",
    b"[[",
    b"]]",
    b"{",
    b"}",
    b"=",
    b'"""',
    b"'''",
    b"\n[source]\n",
    b"\n[[cleaning.rules]]\n",
    b"\nsource = 1\n",
    b"\\u0000",
    b"\\UDEADBEEF",
    b"\\x",
    b"nan",
    b"inf",
    b"1e400",
    b"9" * 30,
    b"9" * 5_000,
    b"0b",
    b"9999-12-31",
    b"0001-01-01",
    b"25:61:61",
    b"2024-03-01T10:00:00+99:99",
    b"\nx = " + b"[" * 5_000 + b"]" * 5_000,
    b"\n" + b"a." * 3_000 + b"b = 1\n",
    b"{a=" * 2_000,
    b"(",
    b"(?P<",
    b"a{1000}{1000}",
    b"\\\\C",
    b"[[:x:]]",
    b"\xef\xbb\xbf",
    b"\0",
    b"\r",
    b"\xff",
    b"true",
    b"#",
    b".",
    b'\n"" = 1\n',
]
_ODD: list[Any] = [
    True,
    False,
    0,
    -1,
    1,
    2,
    3,
    10**9,
    10**30,
    -(10**30),
    0.0,
    -0.5,
    1e308,
    5e-324,
    float("nan"),
    float("inf"),
    "",
    " ",
    "\0",
    "a",
    "a" * 20_000,
    "../../etc",
    "'; drop table x; --",
    '"',
    "%",
    "%Y",
    "%Y-%m-%d",
    "%d%d%d",
    "%Y-%m-%d %H:%M:%S.%f",
    "%s",
    "%Z",
    "(",
    "^$",
    "(a+)+$",
    "a{999}",
    "\\pN",
    "utf-7",
    "idna",
    "punycode",
    "rot13",
    "hex",
    "base64",
    "unicode_escape",
    "raw_unicode_escape",
    "undefined",
    "mbcs",
    "utf-32",
    "utf_16_be",
    "cp037",
    "shift_jis",
    "utf-8-sig",
    "UTC",
    "Etc/GMT+14",
    "posixrules",
    "localtime",
    "Factory",
    "XXX",
    "last_transaction",
    "2024-02-30",
    "0001-01-01",
    "9998-12-31",
    "9998-12-31 23:59:59.999999",
    "2024-03-01T10:00",
    "20240301",
    "2024-W01-1",
    "quantity",
    "amount",
    "con",
    "nul",
    "İ",
    "\u2028",
    "{",
    "$x",
    "Description",
    "net",
    "ignore",
    "auto",
    "warn",
    "fail",
    ["monetary"],
    ["monetary", "recency", "frequency"],
    ["monetary", "monetary"],
    [],
    {},
    [[]],
    [{}],
    [1, "a"],
    ["a"],
    {"a": {"b": 1}},
]


@cache
def _retailers() -> list[str]:
    extra = {"status": "Country", "channel": "StockCode"}
    rules = [
        {"name": "own", "reason": "why", "column": "status", "not_in": ["", "France"]},
        {"name": "other", "reason": "why", "column": "channel", "below": 10**6},
    ]
    whole = retailer_settings(
        Path("source"),
        source={"fill_down": ["customer_id", "transaction_at", "status"]},
        columns={"amount": "Amount", "extra": extra},
        cleaning={"rules": [*retailer_settings(Path("source"))["cleaning"]["rules"], *rules]},
    )
    default = Retailer.model_validate(whole).model_dump(mode="json", by_alias=True, exclude_none=True)
    small = retailer_settings(Path("source"))
    return [tomli_w.dumps(some) for some in (default, default, small)] + [
        path.read_text("utf-8") for path in sorted(SHIPPED.glob("*.toml"))
    ]


def _toml(random: Random) -> bytes:
    text = random.choice(_retailers())
    if random.random() < 0.5:
        return mutated(random, text.encode(), [*_IN_TOML, *_IN_TOML, *TOKENS])
    settings = tomllib.loads(text)
    for _ in range(random.choice(_TIMES)):
        table: Any = settings
        while (below := [value for value in _below(table) if isinstance(value, (dict, list)) and value]) and (
            table is settings or random.random() < 0.5
        ):
            table = random.choice(below)
        key = random.choice(list(table)) if isinstance(table, dict) else random.randrange(len(table))
        match random.randrange(6):
            case 0:
                del table[key]
            case 1 if isinstance(table, dict):
                table[random.choice(("x", "", "İ", "a.b", str(key).upper()))] = deepcopy(table[key])
            case 1:
                table.append(deepcopy(table[key]))
            case _:
                table[key] = deepcopy(random.choice(_ODD))
        if not settings:
            break
    return tomli_w.dumps(settings).encode()


def _below(table: Any) -> list[Any]:
    return list(table.values()) if isinstance(table, dict) else list(table)


_MAKERS: dict[str, Callable[[Random, dict[str, Any]], tuple[str, bytes]]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "xlsx": _xlsx,
    "workbook": _other_workbook,
    "parquet": _parquet,
}
