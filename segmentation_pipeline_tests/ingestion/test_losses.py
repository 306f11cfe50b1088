"""Lines that do not count are reported in a first run: how many, how much money, how written, what would read them."""

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pytest

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.ingestion.cleaning import query_inputs
from segmentation_pipeline.ingestion.losses import Losses, explain_loss
from segmentation_pipeline.ingestion.reading_advice import reading_advice
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline_tests.ingestion.reading import read_source
from segmentation_pipeline_tests.scenarios import Line, line, retailer_settings, write_csv

EXPORTS = Path(__file__).parents[1] / "exports"


@cache
def working_database() -> Warehouse:
    return Warehouse(duckdb.connect(config={"threads": 1}))


@pytest.fixture(scope="module", autouse=True)
def closed() -> Iterator[None]:
    yield
    working_database().connection.close()
    working_database.cache_clear()


def losses_of(retailer: Retailer, base: Path) -> Losses:
    return Losses.of(read_source(working_database(), retailer, base), query_inputs(retailer))


def export(name: str, **source: Any) -> Retailer:
    """Return the settings of an export with other settings of its source."""
    settings = load_settings(str(EXPORTS / name / "retailer.toml"))
    return settings.model_copy(update={"source": settings.source.model_copy(update=source)})


def shop(**sections: Any) -> Retailer:
    """Return a retailer with files in the folder `in`, and without rules unless they are passed."""
    return Retailer.model_validate(retailer_settings(Path("in"), **{"cleaning": {"rules": []}, **sections}))


def lost(tmp_path: Path, lines: Sequence[Line], retailer: Retailer | None = None) -> Losses:
    write_csv(tmp_path / "in" / "a.csv", lines)
    return losses_of(retailer or shop(), tmp_path)


def rejecting(rule: dict[str, Any], share: float | None = None) -> Retailer:
    expected = {} if share is None else {"expected_share": share}
    return shop(cleaning={"rules": [{"name": "own", "reason": "not ours", **rule, **expected}]})


# -- exports without the setting that reads them


def test_dates_of_a_second_format_are_reported_with_money(tmp_path: Path) -> None:
    """The numbers are those of the orders that the export was made of."""
    retailer = export("twoformats", date_format="%d/%m/%Y %H:%M")
    losses = losses_of(retailer, EXPORTS / "twoformats")
    loss = losses.unreadable
    assert (loss.lines, loss.amount, loss.lines_without_amount) == (360, Decimal("53420.80"), 0)
    message = losses.unreadable_message(retailer)
    assert message.startswith("360 of 1,080 lines (33.3%) could not be read; their money is 53,420.80 EUR. ")
    assert "transaction_at in 360 lines: '9999-99-99 99:99:99' in 360, first in a.csv, line 4." in message
    assert 'source.date_format = ["%d/%m/%Y %H:%M", "iso_8601"]' in message
    listed = retailer.source.model_copy(update={"date_format": ["%d/%m/%Y %H:%M", "iso_8601"]})
    read = losses_of(retailer.model_copy(update={"source": listed}), EXPORTS / "twoformats")
    assert read.unreadable.lines == 0


def test_refunds_that_cannot_be_read_are_reported_with_unknown_money(tmp_path: Path) -> None:
    """The 54 returns of the export as another system writes them: `3-` as `3 CR`."""
    text = (EXPORTS / "sapminus" / "in" / "a.csv").read_text("utf-8")
    changed, returns = re.subn(r";(\d+)-;", r";\1 CR;", text)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text(changed, "utf-8")
    retailer = export("sapminus")
    losses = losses_of(retailer, tmp_path)
    loss = losses.unreadable
    assert returns == 54
    assert (loss.lines, loss.amount, loss.lines_without_amount, loss.share) == (54, None, 54, 0.05)
    message = losses.unreadable_message(retailer)
    assert message.startswith("54 of 1,080 lines (5.0%) could not be read; their money is unknown. quantity in 54 ")
    assert "'9 aa' in 54" in message


def test_lines_without_their_order_customer_are_reported(tmp_path: Path) -> None:
    retailer = export("shopify", fill_down=[])
    losses = losses_of(retailer, EXPORTS / "shopify")
    [loss] = losses.unexpected(retailer)
    assert (loss.rule, loss.lines, loss.amount) == ("missing_customer", 536, Decimal("75208.57"))
    message = losses.unexpected_message(working_database(), retailer)
    assert "rejected 536 of 1,080 lines (49.6%) and 50.0% of the money; their money is 75,208.57 EUR." in message
    assert "536 lines without a customer belong to an invoice that has one on another line" in message
    assert 'source.fill_down = ["customer_id"]' in message
    assert "missing_customer = 0.51 in [cleaning.expected_share]" in message


def test_guests_get_no_advice_that_would_not_help(tmp_path: Path) -> None:
    lines = [line("500001"), line("500002", customer="")]
    retailer = shop()
    message = lost(tmp_path, lines, retailer).unexpected_message(working_database(), retailer)
    assert "missing_customer" in message
    assert "fill_down" not in message


# -- other losses


def test_every_format_of_a_column_of_dates_is_shown(tmp_path: Path) -> None:
    written = ["2024-03-01 10:00:00", "01/03/2024", "01/03/2024", "1.3.24 10:00", "45352", "1709287200"]
    lines = [line(str(500001 + number), at=text) for number, text in enumerate(written)]
    losses = lost(tmp_path, lines)
    message = losses.unreadable_message(shop())
    assert "transaction_at in 5 lines: '99/99/9999' in 2, '9.9.99 99:99' in 1, '99999' in 1, first in a.csv" in message
    assert 'source.date_format = ["iso_8601", "%d/%m/%Y", "%d.%m.%y %H:%M", "excel_1900"]' in message
    assert losses.unreadable.lines == 5


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("2,50", 'source.decimal = "."'),
        ("Rs. 2.50", "source.currency_marks"),
        ("", "[columns]"),
        ("free", "correct the source"),
        ("2.123456", "more decimals"),
    ],
)
def test_half_of_the_prices_unreadable_name_their_setting(tmp_path: Path, text: str, setting: str) -> None:
    losses = lost(tmp_path, [line("500001"), line("500002", price=text)])
    loss = losses.unreadable
    assert (loss.lines, loss.share, loss.amount, loss.amount_share) == (1, 0.5, None, 0.0)
    message = losses.unreadable_message(shop())
    assert "price in 1 line: " in message
    assert setting in message


def test_money_that_is_known_of_some_lines_is_told_apart(tmp_path: Path) -> None:
    lines = [line("500001"), line("500002", at="soon", quantity="2", price="1.50"), line("500003", price="ten")]
    message = lost(tmp_path, lines).unreadable_message(shop())
    assert "the money of 1 is unknown, that of the others is 3.00 GBP" in message


def test_a_source_with_every_line_rejected_is_explained(tmp_path: Path) -> None:
    retailer = rejecting({"column": "country", "in": ["France"]})
    lost(tmp_path, [line("500001", price="ten"), line("500002", country="Spain")], retailer)
    message = explain_loss(working_database(), retailer)
    assert message.startswith("2 of 2 lines were rejected: own 1, unparseable_value 1. 1 of 2 lines (50.0%) could not")
    assert "own (not ours) rejected 1 of 2 lines (50.0%) and 100.0% of the money" in message


def test_unread_values_are_shown_by_their_form_only(tmp_path: Path) -> None:
    message = lost(tmp_path, [line("500001"), line("500002", at="Vera Smith, 7 Elm St")]).unreadable_message(shop())
    assert "'aaaa aaaaa, 9 aaa aa'" in message
    assert "Vera" not in message


# -- what a rule is expected to reject


STATUS: dict[str, Any] = {"column": "country", "not_in": ["Spain"]}


@pytest.mark.parametrize(("share", "reported"), [(None, True), (0.0, True), (0.49, True), (0.5, False), (1.0, False)])
def test_a_rule_that_rejects_much_money_is_reported(tmp_path: Path, share: float | None, reported: bool) -> None:
    retailer = rejecting(STATUS, share)
    losses = lost(tmp_path, [line("500001"), line("500002", country="Spain")], retailer)
    assert [loss.rule for loss in losses.unexpected(retailer)] == (["own"] if reported else [])
    message = losses.unexpected_message(working_database(), retailer)
    assert ("set expected_share = 0.5 in this rule of [[cleaning.rules]]" in message) == reported


@pytest.mark.parametrize(("price", "reported"), [("0.99", False), ("1.00", True)])
def test_a_tenth_of_the_money_is_reported(tmp_path: Path, price: str, reported: bool) -> None:
    kept = [line(str(500001 + number), quantity="1", price=text) for number, text in enumerate(("4.00", "5.00"))]
    rejected = line("500009", quantity="1", price=price, country="Spain")
    retailer = rejecting(STATUS)
    assert bool(lost(tmp_path, [*kept, rejected], retailer).unexpected(retailer)) == reported


def test_refunds_do_not_hide_the_sales_that_a_rule_rejects(tmp_path: Path) -> None:
    lines = [line("500001"), line("500002", country="Spain"), line("C50000", country="Spain", quantity="-1")]
    retailer = rejecting(STATUS)
    assert [loss.rule for loss in lost(tmp_path, lines, retailer).unexpected(retailer)] == ["own"]


def test_rules_that_reject_most_lines_together_are_reported(tmp_path: Path) -> None:
    """Each rejects no money, as gifts have none."""
    kept = [line("500001"), line("500002")]
    gifts = [line(str(500003 + n), price="0", country=("Spain", "Malta", "Spain")[n]) for n in range(3)]
    rules = [
        {"name": name.lower(), "reason": "x", "column": "country", "not_in": [name]} for name in ("Spain", "Malta")
    ]
    retailer = shop(cleaning={"rules": rules})
    assert [loss.rule for loss in lost(tmp_path, [*kept, *gifts], retailer).unexpected(retailer)] == ["spain", "malta"]
    assert lost(tmp_path, [*kept, *gifts[:2]], retailer).unexpected(retailer) == []


def test_the_pipelines_own_rules_have_expected_shares(tmp_path: Path) -> None:
    lines = [line("500001"), line("500002", customer="")]
    for share, reported in ((0.4, True), (0.5, False)):
        retailer = shop(cleaning={"rules": [], "expected_share": {"missing_customer": share}})
        assert bool(lost(tmp_path, lines, retailer).unexpected(retailer)) == reported


def test_lines_after_as_of_count_neither_as_lost_nor_read(tmp_path: Path) -> None:
    lines = [
        line("500001", at="2024-03-01 10:00:00"),
        line("500002", at="2024-03-01 10:00:00", country="Spain"),
        *(line(str(500003 + n), at="2024-05-01 10:00:00", price="99") for n in range(8)),
    ]
    retailer = rejecting(STATUS).model_copy(update={"rfm": shop(rfm={"as_of": "2024-03-31"}).rfm})
    losses = lost(tmp_path, lines, retailer)
    [loss] = losses.unexpected(retailer)
    assert (loss.rule, loss.share, losses.lines, losses.rejected_share) == ("own", 0.5, 2, 0.5)
    assert loss.amount_share == pytest.approx(0.5)


def test_lines_of_superseded_files_are_no_loss(tmp_path: Path) -> None:
    """Of three lines of an older version, two could not be read; the newer one has all of them."""
    write_csv(tmp_path / "in" / "sales_v1.csv", [line("500001"), line("500002", at="x"), line("500003", at="y")])
    retailer = shop(source={"path": "in", "supersedes": r"_v(?P<version>\d+)"})
    losses = lost(tmp_path, [line("500009")], retailer)
    assert losses.unreadable.lines == 2
    write_csv(tmp_path / "in" / "sales_v2.csv", [line("500001"), line("500002"), line("500003")])
    losses = losses_of(retailer, tmp_path)
    assert (losses.lines, losses.rejected_share, losses.unexpected(retailer)) == (4, 0.0, [])
    assert losses.unreadable.amount_share == 0.0


# -- messages


def test_messages_name_settings_that_exist() -> None:
    patterns = ["", "9999-99-99", "99/99/9999", "99999", "aaa", "9,99", "9 aaa", "99.99 a 9.99"]
    columns = ("transaction_at", "quantity", "price", "amount", "line")
    source = shop().source
    texts = [
        text
        for column in columns
        for pattern in patterns
        for text in reading_advice([{"column_name": column, "pattern": pattern}], source)
    ]
    named = set(re.findall(r"\bsource\.(\w+)", " ".join(texts)))
    assert {"date_format", "decimal", "currency_marks", "delimiter", "fill_down"} <= named
    assert named <= type(source).model_fields.keys()


@pytest.mark.parametrize(
    ("present", "pattern", "suggested"),
    [
        (["%m/%d/%Y"], "99.99.9999 9:99", '["%m/%d/%Y", "%m.%d.%Y %H:%M"]'),
        (["%d/%m/%Y"], "9-9-99", '["%d/%m/%Y", "%d-%m-%y"]'),
        (["%d/%m/%Y"], "9999999999999", '["%d/%m/%Y", "epoch_milliseconds"]'),
        (["%d/%m/%Y"], "99 aaa 9999", '["%d/%m/%Y", ...]'),
        (["%d/%m/%Y"], "99/99/9999", '["%d/%m/%Y", ...]'),
    ],
)
def test_a_date_format_is_suggested_where_one_is_recognised(present: list[str], pattern: str, suggested: str) -> None:
    source = shop(source={"path": "in", "date_format": present}).source
    texts = reading_advice([{"column_name": "transaction_at", "pattern": pattern}], source)
    assert f"source.date_format = {suggested}." in texts[-1]
    assert ["source.date_language" in text for text in texts] == [True] * ("aaa" in pattern) + [False]
