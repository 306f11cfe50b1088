"""Lines above the header, files without a header, blanks as delimiter, encodings that files name, repeated columns."""

import codecs
import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import openpyxl
import pytest
import zstandard

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import SourceError
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.config.minimal import MINIMAL, only_error, with_source
from segmentation_pipeline_tests.ingestion.reading import read_source
from segmentation_pipeline_tests.scenarios import retailer_settings, write_csv

NAMES = {"transaction_at": "at", "customer_id": "who", "amount": "money"}
POSITIONS = {"transaction_at": 1, "customer_id": 2, "amount": 3}
HEADER = "at,who,money"
LINES = ["2024-03-01,ann,1.5", "2024-03-02,bob,2.5", "2024-03-03,cem,4"]
_COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "zst": zstandard.compress}
Lines = dict[int, tuple[str | None, str | None]]
# The customer and money of each line by its number below a header in line 1.
SOLD: Lines = {2: ("ann", "1.5"), 3: ("bob", "2.5"), 4: ("cem", "4")}
# A record that DuckDB cannot read, so that Python reads the file.
MALFORMED = '2024-03-04,"dan'
REPORT = ["Report: sales, by line", "Generated 2024-04-01", ""]


@pytest.fixture(scope="module")
def warehouse() -> Iterator[Warehouse]:
    connection = duckdb.connect(config={"threads": 2})
    yield Warehouse(connection)
    connection.close()


def retailer(columns: Mapping[str, Any] = NAMES, path: str = "in", **source: Any) -> Retailer:
    settings = retailer_settings(Path("anywhere"))
    settings |= {"columns": columns, "cleaning": {}, "source": {"path": path, **source}}
    return Retailer.model_validate(settings)


def write(folder: Path, lines: Sequence[str], name: str = "a.csv", end: str = "\n", encoding: str = "utf-8") -> None:
    data = "".join(f"{line}{end}" for line in lines).encode(encoding)
    compress = _COMPRESS.get(name.rpartition(".")[2], bytes)
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / name).write_bytes(compress(data))


def lines_of(warehouse: Warehouse, settings: Retailer, folder: Path) -> dict[str, Lines]:
    """Return the customer and money of each line, or its text where it is malformed, by file and number."""
    rows = read_source(warehouse, settings, folder).rows("select * from raw_transactions order by all")
    found: dict[str, Lines] = {}
    for row in rows:
        text = str(row["unparsed"]) if row["unparsed"] else f"{row['amount']:f}".rstrip("0").rstrip(".")
        found.setdefault(row["source_file"], {})[row["source_line"]] = (row["customer_id"], text)
    return found


def message(warehouse: Warehouse, settings: Retailer, folder: Path) -> str:
    with pytest.raises(SourceError) as error:
        read_source(warehouse, settings, folder)
    return str(error.value)


def moved(lines: Lines, by: int) -> Lines:
    return {number + by: line for number, line in lines.items()}


def unparsed(line: str) -> tuple[None, str]:
    return None, '{"line":"' + line.replace('"', '\\"') + '"}'


# -- sep=;


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("readers", ["duckdb", "python"])
def test_sep_line_is_skipped_and_names_the_delimiter(
    warehouse: Warehouse, tmp_path: Path, end: str, readers: str
) -> None:
    malformed = [MALFORMED] if readers == "python" else []
    forms = ["sep={}", '"sep={}"', "SEP={}", "sep={}{}{}"]
    expected: dict[str, Lines] = {}
    for number, (form, delimiter) in enumerate(product(forms, ",;\t|")):
        lines = [line.replace(",", delimiter) for line in [HEADER, *LINES, *malformed]]
        write(tmp_path, [form.format(*[delimiter] * 3), *lines], f"{number}.csv", end)
        expected[f"{number}.csv"] = moved(SOLD, 1) | dict(enumerate(map(unparsed, lines[4:]), 6))
        if delimiter == "\t" and malformed:
            expected[f"{number}.csv"][6] = unparsed(lines[4].replace("\t", "\\t"))
    assert lines_of(warehouse, retailer(), tmp_path) == expected


def test_setting_of_the_delimiter_counts_before_a_sep_line(warehouse: Warehouse, tmp_path: Path) -> None:
    write(tmp_path, ["sep=;", HEADER, *LINES])
    write(tmp_path, ["sep=", HEADER, *LINES], "b.csv")
    expected = moved(SOLD, 1)
    assert lines_of(warehouse, retailer(delimiter=","), tmp_path) == {"a.csv": expected, "b.csv": expected}


def test_header_that_begins_like_a_sep_line_is_kept(warehouse: Warehouse, tmp_path: Path) -> None:
    write(tmp_path, ["sep=a,who,at,money", *[f"x,{line.split(',')[1]},2024-03-01,1" for line in LINES]])
    assert {number: who for number, (who, _) in lines_of(warehouse, retailer(), tmp_path)["a.csv"].items()} == {
        2: "ann",
        3: "bob",
        4: "cem",
    }


# -- lines above the header


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("malformed", [[], [MALFORMED]], ids=["duckdb", "python"])
def test_skipped_lines_count_as_an_editor_numbers_them(
    warehouse: Warehouse, tmp_path: Path, end: str, malformed: list[str]
) -> None:
    reports = {
        "plain": REPORT,
        "quoted line break": ['"Report', 'of ""sales"""', "April"],
        "unclosed quote": ['"Report', 'of 5" pipes', "April"],
        "blank": ["", "", ""],
        "as wide as the lines": ["a,b,c", "1,2,3", "at,who,money"],
        "sep line first": ["sep=;", "Report", ""],
    }
    expected: dict[str, Lines] = {}
    for name, report in reports.items():
        lines = [HEADER, *LINES, *malformed]
        if name == "sep line first":
            lines = [line.replace(",", ";") for line in lines]
        write(tmp_path, [*report, *lines], f"{name}.csv", end)
        expected[f"{name}.csv"] = moved(SOLD, 3) | dict(enumerate(map(unparsed, lines[4:]), 8))
    assert lines_of(warehouse, retailer(skip_lines=3), tmp_path) == expected


def test_sep_line_below_skipped_lines_is_skipped_too(warehouse: Warehouse, tmp_path: Path) -> None:
    write(tmp_path, [*REPORT, "sep=|", *(line.replace(",", "|") for line in [HEADER, *LINES])])
    assert lines_of(warehouse, retailer(skip_lines=3), tmp_path) == {"a.csv": moved(SOLD, 4)}


def test_file_that_ends_within_the_skipped_lines_has_no_lines(warehouse: Warehouse, tmp_path: Path) -> None:
    write(tmp_path, [*REPORT, HEADER, *LINES])
    write(tmp_path, REPORT[:2], "b.csv")
    write(tmp_path, [*REPORT, HEADER], "c.csv")
    assert lines_of(warehouse, retailer(skip_lines=3), tmp_path) == {"a.csv": moved(SOLD, 3)}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_message_names_the_line_and_delimiter_of_the_header(
    warehouse: Warehouse, tmp_path: Path, delimiter: str
) -> None:
    lines = [line.replace(",", delimiter) for line in [HEADER, *LINES]]
    write(tmp_path, [*REPORT, *lines])
    shown = "\\t" if delimiter == "\t" else delimiter
    other = "" if delimiter == "," else f' and source.delimiter = "{shown}"'
    said = message(warehouse, retailer(), tmp_path)
    assert said.endswith(f" Line 4 has these names: set source.skip_lines = 3{other}.")
    # What the message says is what reads the file.
    settings: dict[str, Any] = {} if delimiter == "," else {"delimiter": delimiter}
    assert lines_of(warehouse, retailer(skip_lines=3, **settings), tmp_path) == {"a.csv": moved(SOLD, 3)}


def test_message_names_a_wrong_delimiter(warehouse: Warehouse, tmp_path: Path) -> None:
    write(tmp_path, [line.replace(",", ";") for line in [HEADER, *LINES]])
    assert message(warehouse, retailer(), tmp_path).endswith('Line 1 has these names: set source.delimiter = ";".')


# -- no header


@pytest.mark.parametrize("malformed", [[], [MALFORMED]], ids=["duckdb", "python"])
def test_columns_without_a_header_are_found_by_position(
    warehouse: Warehouse, tmp_path: Path, malformed: list[str]
) -> None:
    below: Lines = {len(LINES) + 1: unparsed(MALFORMED)} if malformed else {}
    write(tmp_path, [*LINES, *malformed])
    write(tmp_path, [*LINES, *malformed], "b.csv.gz")
    write(tmp_path, [*LINES, *malformed], "c.csv.zst")
    write(tmp_path, ["", *LINES, *malformed], "d.csv")
    expected = moved(SOLD, -1) | below
    found = lines_of(warehouse, retailer(POSITIONS, header=False), tmp_path)
    assert found == dict.fromkeys(("a.csv", "b.csv.gz", "c.csv.zst", "d.csv"), expected)
    # A position is also understood as text.
    as_text = {name: str(position) for name, position in POSITIONS.items()}
    assert lines_of(warehouse, retailer(as_text, header=False), tmp_path) == found


def test_file_without_header_below_lines_of_a_report(warehouse: Warehouse, tmp_path: Path) -> None:
    write(tmp_path, [*REPORT, *LINES])
    write(tmp_path, ["sep=;", *REPORT[:2], *(line.replace(",", ";") for line in LINES)], "b.csv")
    found = lines_of(warehouse, retailer(POSITIONS, header=False, skip_lines=3), tmp_path)
    assert found == dict.fromkeys(("a.csv", "b.csv"), moved(SOLD, 2))


@pytest.mark.parametrize("first", ["2024-03-09,zoe", "2024-03-09,zoe,1,2,3", "2024-03-09"])
def test_damaged_first_line_does_not_decide_the_number_of_columns(
    warehouse: Warehouse, tmp_path: Path, first: str
) -> None:
    write(tmp_path, [first, *LINES])
    found = lines_of(warehouse, retailer(POSITIONS, header=False), tmp_path)
    assert found == {"a.csv": {1: unparsed(first)} | SOLD}


def test_records_of_several_lines_decide_how_many_columns_there_are(warehouse: Warehouse, tmp_path: Path) -> None:
    write(tmp_path, ['2024-03-02,"two', 'lines",2', '2024-03-03,"three', "", 'lines",3'])
    found = lines_of(warehouse, retailer(POSITIONS, header=False), tmp_path)
    assert found == {"a.csv": {1: ("two\nlines", "2"), 2: ("three\n\nlines", "3")}}


@pytest.mark.parametrize("delimiter", [",", "whitespace"])
def test_file_without_header_and_without_a_record_is_not_empty(
    warehouse: Warehouse, tmp_path: Path, delimiter: str
) -> None:
    write(
        tmp_path, ['2024-03-02 "zoe 2', '2024-03-03 "zoe"" 3'] if delimiter == "whitespace" else ['"2024-03-02,zoe,2']
    )
    said = message(warehouse, retailer(POSITIONS, header=False, delimiter=delimiter), tmp_path)
    assert said.startswith("a.csv: cannot be read as csv: none of its first ")
    assert said.endswith(" lines is a record; check the quotes, and source.delimiter")


def test_position_beyond_the_columns_is_reported(warehouse: Warehouse, tmp_path: Path) -> None:
    write(tmp_path, LINES)
    said = message(warehouse, retailer(POSITIONS | {"amount": 9}, header=False), tmp_path)
    assert said.startswith("a.csv: no column for amount = 9; it has 3 columns. Correct [columns] of the retailer file")
    said = message(warehouse, retailer(POSITIONS, header=False, delimiter=";"), tmp_path)
    assert "no column for customer_id = 2, amount = 3; it has 1 column. " in said.replace("transaction_at = 1, ", "")
    assert said.endswith("Check source.delimiter too.")


def test_message_about_a_missing_header_names_no_customer(warehouse: Warehouse, tmp_path: Path) -> None:
    write(tmp_path, ["2024-03-01,4711,1.5", *LINES])
    said = message(warehouse, retailer(), tmp_path)
    assert said.endswith("if it has none, set source.header = false.")
    assert "4711" not in said


def test_name_of_a_column_without_a_header_is_an_error(tmp_path: Path) -> None:
    text = with_source("header = false").replace('"When"', "1").replace('"Who"', "2")
    problem = "source.header is false, so columns have no names; allowed: a position, 1 for the first column"
    assert only_error(tmp_path, text).endswith(f'columns.amount: {problem}; found "Money"')


@pytest.mark.parametrize("position", ["0", "-1", "16385", "true", "1.5", "[1]"])
def test_position_that_no_column_has_is_an_error(tmp_path: Path, position: str) -> None:
    said = only_error(tmp_path, MINIMAL.replace('"Money"', position))
    assert "columns.amount: allowed: the name of a column, or its position from 1 to 16384; found " in said


def test_json_lines_have_no_positions(warehouse: Warehouse, tmp_path: Path) -> None:
    write(tmp_path, ['{"at": "2024-03-01", "who": "ann", "money": 1}'], "a.jsonl")
    assert "no column for transaction_at = 1, " in message(warehouse, retailer(POSITIONS), tmp_path)


# -- blanks as delimiter


def test_runs_of_blanks_and_tabs_separate_columns(warehouse: Warehouse, tmp_path: Path) -> None:
    lines = [
        "  at            who       money  ",
        "  2024-03-01    ann         1.5",
        "  2024-03-02 \t bob         2.5   ",
        '  2024-03-03    "cem  c"   4.00 ',
        "",
        "   ",
        '  2024-03-03    "dan    4.00 ',
        '  2024-03-03    "d ""an""    4.00',
        "  2024-03-04    eve",
        '2024-03-05 "" 5',
        '2024-03-06 5"x 6',
        "2024-03-07\u00a0x 7 8",
    ]
    expected = SOLD | {
        4: ("cem  c", "4"),
        5: unparsed(lines[6]),
        6: unparsed(lines[7]),
        7: unparsed(lines[8]),
        8: (None, "5"),
        9: ('5"x', "6"),
    }
    write(tmp_path, lines[:-1])
    assert lines_of(warehouse, retailer(delimiter="whitespace"), tmp_path) == {"a.csv": expected}
    # Other blanks may belong to a value.
    write(tmp_path, [*lines[:2], lines[-1]])
    [_, (_, text)] = lines_of(warehouse, retailer(delimiter="whitespace"), tmp_path)["a.csv"].values()
    assert text == '{"transaction_at":"2024-03-07\u00a0x","quantity":null,"price":null,"amount":null}'


def test_quoted_text_between_blanks_ends_in_its_line(warehouse: Warehouse, tmp_path: Path) -> None:
    """A quote that is not closed makes its line malformed, and not those below it."""
    write(tmp_path, [HEADER.replace(",", " "), '2024-03-02 "a  b', '2024-03-03 "c  d" 7'])
    expected = {2: unparsed('2024-03-02 "a  b'), 3: ("c  d", "7")}
    assert lines_of(warehouse, retailer(delimiter="whitespace"), tmp_path) == {"a.csv": expected}


def test_fixed_width_file_without_header_and_with_compact_dates(warehouse: Warehouse, tmp_path: Path) -> None:
    """As in CDNOW: customer, day, units, money."""
    write(
        tmp_path, [" 00001 19970101  1   11.77", " 00002 19970112  1   12.00", " 00002 19970112  5   77.00 "], "a.txt"
    )
    columns = {"customer_id": 1, "transaction_at": 2, "amount": 4}
    settings = retailer(columns, header=False, delimiter="whitespace", date_format="%Y%m%d")
    found = lines_of(warehouse, settings, tmp_path)
    assert found == {"a.txt": {1: ("00001", "11.77"), 2: ("00002", "12"), 3: ("00002", "77")}}


def test_one_blank_as_delimiter_still_separates_at_each_blank(warehouse: Warehouse, tmp_path: Path) -> None:
    write(tmp_path, ["at who money", "2024-03-01  1"])
    assert lines_of(warehouse, retailer(delimiter=" "), tmp_path) == {"a.csv": {2: (None, "1")}}


# -- encodings that files name


MARKS = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


@pytest.mark.parametrize("setting", ["utf-8", "cp1252", "utf-16-be"])
def test_byte_order_mark_counts_before_the_setting(warehouse: Warehouse, tmp_path: Path, setting: str) -> None:
    lines, expected = [HEADER, *LINES[:2], "2024-03-03,Çem,4"], {**SOLD, 4: ("Çem", "4")}
    for encoding, name in product(MARKS, ("csv", "csv.gz", "csv.zst", "tsv")):
        write(tmp_path, ["\ufeff" + lines[0], *lines[1:]], f"{encoding}.{name}", encoding=encoding)
        write(
            tmp_path,
            ["\ufeffsep=;", *(line.replace(",", ";") for line in lines)],
            f"s-{encoding}.{name}",
            encoding=encoding,
        )
    found = lines_of(warehouse, retailer(encoding=setting), tmp_path)
    assert len(found) == 40
    assert found == {name: moved(expected, 1) if name.startswith("s-") else expected for name in found}


def test_byte_order_mark_is_ignored_with_skipped_lines_without_header(warehouse: Warehouse, tmp_path: Path) -> None:
    for encoding in MARKS:
        write(tmp_path, ["\ufeffReport", "", "", *LINES], f"{encoding}.csv", encoding=encoding)
    found = lines_of(warehouse, retailer(POSITIONS, header=False, skip_lines=3), tmp_path)
    assert found == {f"{encoding}.csv": moved(SOLD, 2) for encoding in MARKS}


def test_setting_of_the_encoding_reads_files_without_a_mark(warehouse: Warehouse, tmp_path: Path) -> None:
    write(tmp_path, [HEADER, "2024-03-03,Çem,4"], encoding="cp1252")
    assert lines_of(warehouse, retailer(encoding="cp1252"), tmp_path) == {"a.csv": {2: ("Çem", "4")}}


# -- a header with a name twice


def repeated(folder: Path, others: Sequence[str], name: str = "Money") -> None:
    """Write a file whose last column has the name of the third, without regard to case, and other values."""
    write(folder, [f"{HEADER},{name}", *(f"{line},{other}" for line, other in zip(LINES, others, strict=True))])


@pytest.mark.parametrize("malformed", [[], [MALFORMED]], ids=["duckdb", "python"])
def test_repeated_column_with_equal_values_is_read(warehouse: Warehouse, tmp_path: Path, malformed: list[str]) -> None:
    write(tmp_path, [f"{HEADER}, Money", *(f"{line}, {line.split(',')[2]} " for line in LINES), *malformed])
    below: Lines = {5: unparsed(MALFORMED)} if malformed else {}
    assert lines_of(warehouse, retailer(), tmp_path) == {"a.csv": SOLD | below}


def test_repeated_column_that_is_not_mapped_does_not_matter(warehouse: Warehouse, tmp_path: Path) -> None:
    write(tmp_path, [f"{HEADER},note,note", *(f"{line},a,b" for line in LINES)])
    assert lines_of(warehouse, retailer(), tmp_path) == {"a.csv": SOLD}


@pytest.mark.parametrize("others", [["1.5", "9", "8"], ["1.5", "", ""]])
def test_repeated_column_with_other_values_is_reported(warehouse: Warehouse, tmp_path: Path, others: list[str]) -> None:
    repeated(tmp_path, others)
    assert message(warehouse, retailer(), tmp_path) == (
        "a.csv: columns 3 and 4 are both named as in amount = 'money', and differ in 2 lines, first in line 3. Set the"
        " position of the right one: amount = 3."
    )


def test_position_chooses_one_of_the_repeated_columns(warehouse: Warehouse, tmp_path: Path) -> None:
    repeated(tmp_path, ["7", "8", "9"])
    assert lines_of(warehouse, retailer(NAMES | {"amount": 3}), tmp_path) == {"a.csv": SOLD}
    expected = {2: ("ann", "7"), 3: ("bob", "8"), 4: ("cem", "9")}
    assert lines_of(warehouse, retailer(NAMES | {"amount": 4}), tmp_path) == {"a.csv": expected}


def test_repeated_column_of_other_formats_is_compared_too(warehouse: Warehouse, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    parquet = tmp_path / "in" / "a.parquet"
    select = "select date '2024-03-01' as at, 'ann' as who, 1.5 as money, {} as \"Mo ney\""
    duckdb.execute(f"copy ({select.format('1.5')}) to '{parquet}' (format parquet)")
    assert lines_of(warehouse, retailer(), tmp_path) == {"a.parquet": {1: ("ann", "1.5")}}
    duckdb.execute(f"copy ({select.format('2.5')}) to '{parquet}' (format parquet)")
    assert "columns 3 and 4 are both named as in amount = 'money', and differ in 1 line." in message(
        warehouse, retailer(), tmp_path
    )
    parquet.unlink()
    workbook(tmp_path / "in" / "a.xlsx", {"S": [["at", "who", "money", "money"], ["2024-03-01", "ann", 1, 2]]})
    assert message(warehouse, retailer(), tmp_path).startswith("a.xlsx [S]: columns 3 and 4 are both named ")
    (tmp_path / "in" / "a.xlsx").unlink()
    write(tmp_path, ['{"at": "2024-03-01", "who": "ann", "money": 1, "Money": 1}'], "a.jsonl")
    assert "a.jsonl: more than one key for amount = 'money'; " in message(warehouse, retailer(), tmp_path)


def test_repeated_customer_column_cannot_be_stored_beside_its_pseudonym(tmp_path: Path) -> None:
    text = f"{MINIMAL}\n[columns.extra]\nclear = 2\n\n[privacy]\npseudonymise = true\n"
    assert "columns.extra.clear: privacy.pseudonymise hashes the customers; allowed: a name" in only_error(
        tmp_path, text
    )


# -- sheets


def workbook(path: Path, sheets: Mapping[str, Sequence[Sequence[Any]]]) -> None:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    path.parent.mkdir(exist_ok=True)
    book.save(path)


ROWS = [["2024-03-01", "ann", 1.5], ["2024-03-02", "bob", 2.5], ["2024-03-03", "cem", 4]]


def test_title_rows_of_each_sheet_are_skipped(warehouse: Warehouse, tmp_path: Path) -> None:
    """Also where rows above the header are blank, and where the sheet begins with blank rows."""
    titles: dict[str, list[list[Any]]] = {
        "plain": [["Report"], ["Generated", "2024-04-01"], ["by us"]],
        "blank": [["Report"], [None], [None]],
        "first blank": [[None], [None], ["Report"]],
        "all blank": [[None], [None], [None]],
    }
    sheets = {name: [*title, ["at", "who", "money"], *ROWS] for name, title in titles.items()}
    workbook(tmp_path / "in" / "a.xlsx", sheets)
    read_source(warehouse, retailer(skip_lines=3), tmp_path)
    rows = warehouse.rows("select source_sheet, source_line, customer_id, amount from raw_transactions order by all")
    assert [tuple(row.values()) for row in rows] == [
        (name, number, who, Decimal(str(money)))
        for name in sorted(titles)
        for number, (who, money) in moved(SOLD, 3).items()
    ]


@pytest.mark.parametrize("skipped", [0, 2])
def test_columns_of_a_sheet_count_from_column_a(warehouse: Warehouse, tmp_path: Path, skipped: int) -> None:
    workbook(tmp_path / "in" / "a.xlsx", {"S": [[None]] * skipped + [[None, None, *row] for row in ROWS]})
    columns = {name: position + 2 for name, position in POSITIONS.items()}
    found = lines_of(warehouse, retailer(columns, header=False, skip_lines=skipped), tmp_path)
    assert found == {"a.xlsx": moved(SOLD, skipped - 1)}


def test_message_about_a_sheet_with_a_title_names_the_setting(warehouse: Warehouse, tmp_path: Path) -> None:
    workbook(tmp_path / "in" / "a.xlsx", {"S": [["Report"], ["at", "who", "money"], *ROWS]})
    assert "If its header is further down, set source.skip_lines" in message(warehouse, retailer(), tmp_path)


def test_files_of_several_layouts_are_read_together(warehouse: Warehouse, tmp_path: Path) -> None:
    write_csv(tmp_path / "in" / "a.csv", [line.split(",") for line in LINES], HEADER.split(","))
    write(tmp_path, ["sep=;", *(line.replace(",", ";") for line in [HEADER, *LINES])], "b.csv")
    write(tmp_path, ["", HEADER, *LINES], "c.csv")
    assert lines_of(warehouse, retailer(), tmp_path) == {"a.csv": SOLD, "b.csv": moved(SOLD, 1), "c.csv": SOLD}
