"""Generate sample data: two years of transactions of a fictional retailer as monthly CSV files.

Contains how customers buy, and the flaws that real exports have. Reading and cleaning are in `ingestion`.

The same arguments write the same bytes: one seeded generator, money in whole pence, no clock. Between versions of
numpy the bytes may differ, because its Generator promises the same numbers within one version only.
"""

import csv
from itertools import pairwise
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Lines: TypeAlias = npt.NDArray[np.void]  # of the type LINE

HEADER: Final = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"

# Flaws as shares of the lines, similar to the public Online Retail data (541,909 lines).
RATES: Final = {
    "guest": 0.25,  # on whole invoices, without a customer number
    "cancellation": 0.017,  # on C invoices, each of an earlier line of the same customer
    "duplicate": 0.01,  # repeated in the same invoice
    "odd_code": 0.005,  # postage, fees and manual entries
    "write_off": 0.0032,  # no customer, price zero, negative quantity; every other without a description
    "gift": 0.0014,  # price zero on an invoice of products; with the write-offs 0.46 %
}
RETURNED_LINES: Final = 0.3  # of an invoice with cancellations
BLANK_NAMES: Final = 0.05  # of the products have a description that ends with a blank
TWO_COUNTRIES: Final = 0.004  # of the customers may have invoices in two countries
ORPHANS: Final = 3  # cancellations of purchases before the data begin
BOOKED_PENCE: Final = (1_106_206, -1_106_206, -1_106_206, -1_250, -480)  # three bad debts, two corrections

# Parameters of the purchases, chosen for features as skewed as those of a real shop.
R, ALPHA, A, B = 0.75, 80.0, 0.22, 2.8  # BG/NBD, per trading day: see _purchases
FIRST_A, FIRST_B = 0.9, 2.5  # beta distribution of the first purchases over the two years
P, Q, GAMMA = 12.0, 8.0, 17_500.0  # Gamma-Gamma, in pence: see _spends
LINES_SHAPE, LINES_CHANCE = 1.2, 0.11  # negative binomial, lines of an invoice after the first

KINDS: Final = ["SMALL", "LARGE", "VINTAGE", "STRIPED", "SPOTTED", "PAINTED", "FOLDING", "WOVEN", "CRÈME"]
STUFFS: Final = ["OAK", "TIN", "COTTON", "ENAMEL", "LINEN", "GLASS", "WICKER", "CORK", "SLATE", "FELT"]
THINGS: Final = ["BOWL", "BASKET", "TRAY,ROUND", "CANDLE DISH", "PEG BAG", "EGG CUP", "DOOR STOP", 'SIGN 4"']
PRODUCTS: Final = 600  # items 0 to 599; those of other codes follow
ODD: Final = {
    "POST": "POSTAGE",
    "DOT": "DOTCOM POSTAGE",
    "BANK CHARGES": "Bank charges",
    "AMAZONFEE": "Fee",
    "gift_0001_20": "Gift voucher",
    "PADS": "Pads for cushions",
    "M": "Manual",
    "CRUK": "Charity",
    "D": "Discount",
    "B": "Adjust bad debt",
}
MANUAL, CHARITY, _, DEBT, NO_TEXT = range(PRODUCTS + 6, PRODUCTS + 11)  # items, and an empty description
COUNTRIES: Final = ["United Kingdom", "Germany", "France", "EIRE", "Spain", "Netherlands", "Belgium"]
COUNTRY_SHARES: Final = (0.91, 0.025, 0.02, 0.015, 0.01, 0.01, 0.01)

START: Final = np.datetime64("2024-01-01", "D")
MONTHS: Final = np.arange("2024-01", "2026-02", dtype="datetime64[M]").astype("datetime64[D]")  # and the end
DAYS: Final = np.arange(START, MONTHS[-1])
HOLIDAYS: Final = [day for day in DAYS if str(day)[5:] == "01-01" or str(day)[5:] >= "12-24"]
OPEN_DAYS: Final[Ints] = (DAYS[np.is_busday(DAYS, "1111101", HOLIDAYS)] - START).astype(np.int64)
FIRST_CUSTOMER, FIRST_INVOICE = 12_346, 200_000
# A line: `minute` counts from START, `customer` is 0 where it is missing, `document` is the invoice.
COLUMNS = ["minute", "document", "prefix", "item", "text", "quantity", "pence", "customer", "country"]
LINE: Final = np.dtype([(column, np.int64) for column in COLUMNS])
MARK: Final = ".made-up"  # file with the arguments that the files were written with


def write_once(folder: Path, *, customers: int, seed: int) -> None:
    """Write the files if the folder is empty, or has incomplete files or those of another size or seed.

    Existing files with the same arguments are left alone, also if a person edited them, and so is a folder of other
    files.
    """
    mark, arguments = folder / MARK, f"{customers} customers, seed {seed}\n"
    written_with = mark.read_text("utf-8") if mark.exists() else arguments
    if folder.is_file() or (written_with == arguments and any(folder.glob("[!.]*"))):
        return
    folder.mkdir(parents=True, exist_ok=True)
    mark.write_text("", "utf-8")
    write_sample(folder, customers=customers, seed=seed)
    mark.write_text(arguments, "utf-8")


def write_sample(folder: Path, *, customers: int = 5_000, seed: int = 20_240_101) -> list[Path]:
    """Write 24 monthly files; each repeats the last trading day of the previous month.

    Args:
        folder: The folder of the files, created if absent. Files of the same names are replaced.
        customers: Number of customers with a customer number, from 1 to 100,000.
        seed: Seed of the random generator.

    Returns:
        The files in the order of their months.

    Raises:
        ValueError: The number of customers is out of range.
    """
    if not 1 <= customers <= 100_000:
        raise ValueError(f"customers must be from 1 to 100,000, not {customers}")
    rng = np.random.Generator(np.random.PCG64(seed))
    codes, texts, prices = _catalogue(rng)
    goods = _goods(rng, customers, prices)
    doubled = np.repeat(goods, 1 + (rng.random(len(goods)) < RATES["duplicate"]))
    flaws = [_cancellations(rng, goods), _extra_lines(rng, goods)]
    lines = np.concatenate([doubled, *flaws, _single_lines(rng, len(goods), customers, prices)])
    _, number = np.unique(lines["minute"] * 2**32 + lines["document"], return_inverse=True)
    order = np.argsort(number, kind="stable")
    lines, number = lines[order], FIRST_INVOICE + number[order]
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"transactions-{str(month)[:7]}.csv" for month in MONTHS[:-1]]
    for path, part in zip(paths, _file_parts(lines["minute"]), strict=True):
        _write(path, _as_text(lines[part], number[part], codes, texts))
    return paths


def _catalogue(rng: np.random.Generator) -> tuple[list[str], list[str], Ints]:
    """Return the stock codes and descriptions of all items, and the prices of the products."""
    names = [f"{kind} {stuff} {thing}" for kind in KINDS for stuff in STUFFS for thing in THINGS]
    picks, blanks = rng.choice(len(names), PRODUCTS, replace=False), rng.random(PRODUCTS) < BLANK_NAMES
    texts = [names[pick] + " " * int(blank) for pick, blank in zip(picks, blanks, strict=True)]
    digits = 20_000 + rng.choice(70_000, PRODUCTS, replace=False)
    letters = rng.choice(["", "A", "B", "C"], PRODUCTS, p=[0.85, 0.06, 0.05, 0.04])
    codes = [f"{digit}{letter}" for digit, letter in zip(digits, letters, strict=True)]
    prices = np.maximum(19, np.rint(rng.lognormal(5.4, 0.7, PRODUCTS))).astype(np.int64)
    return [*codes, *ODD], [*texts, *ODD.values(), ""], prices


def _purchases(rng: np.random.Generator, customers: int) -> tuple[Ints, Floats]:
    """Return the customer and time, in trading days, of each purchase by BG/NBD.

    Fader, Hardie & Lee (2005), "Counting Your Customers the Easy Way", Marketing Science 24(2): a customer
    buys at a rate from Gamma(R, ALPHA), at exponential intervals, and after each repeat purchase drops out
    with a probability from Beta(A, B). Time counts trading days only, so that every purchase is on one. The first
    purchase, the model's time zero, is at any time, but more often early.
    """
    rate, dropout = rng.gamma(R, 1 / ALPHA, customers), rng.beta(A, B, customers)
    who, now = np.arange(customers), len(OPEN_DAYS) * rng.beta(FIRST_A, FIRST_B, customers)
    buyers, times = [who], [now]
    while len(who):
        now = now + rng.exponential(1.0, len(who)) / np.maximum(rate[who], 1e-9)
        who, now = who[now < len(OPEN_DAYS)], now[now < len(OPEN_DAYS)]
        buyers, times = [*buyers, who], [*times, now]
        stays = rng.random(len(who)) >= dropout[who]
        who, now = who[stays], now[stays]
    return np.concatenate(buyers), np.concatenate(times)


def _spends(rng: np.random.Generator, buyers: Ints) -> Ints:
    """Return the pence that each customer spends on an invoice by Gamma-Gamma.

    Fader, Hardie & Lee (2005), "RFM and CLV: Using Iso-Value Curves for Customer Base Analysis", Journal of
    Marketing Research 42(4): Gamma(P, nu), with a customer's nu from Gamma(Q, GAMMA); the mean
    P * GAMMA / (Q - 1) is 300 pounds.
    """
    nu = rng.gamma(Q, 1 / GAMMA, int(buyers.max()) + 1)
    return np.rint(rng.gamma(P, 1.0, len(buyers)) / nu[buyers]).astype(np.int64)


def _minutes(times: Floats) -> Ints:
    """Return times in trading days as minutes since START, from 8 to 18 h."""
    days = np.minimum(times.astype(np.int64), len(OPEN_DAYS) - 1)
    return OPEN_DAYS[days] * 1440 + 480 + np.minimum((times - days) * 600, 599).astype(np.int64)


def _goods(rng: np.random.Generator, customers: int, prices: Ints) -> Lines:
    """Return the lines of all purchases, with and without a customer number."""
    buyers, times = _purchases(rng, customers)
    guests = round(len(buyers) * RATES["guest"] / (1 - RATES["guest"]))
    buyers = np.concatenate([buyers, customers + np.arange(guests)])
    times = np.concatenate([times, len(OPEN_DAYS) * rng.random(guests)])
    numbers = np.concatenate([FIRST_CUSTOMER + rng.permutation(customers), np.zeros(guests, np.int64)])
    home = rng.choice(len(COUNTRIES), customers + guests, p=COUNTRY_SHARES)
    travels = rng.random(customers + guests) < TWO_COUNTRIES
    away = travels[buyers] & (rng.random(len(buyers)) < 0.5)
    lines = _baskets(rng, _spends(rng, buyers), prices)
    lines["minute"] = _minutes(times)[lines["document"]]
    lines["customer"] = numbers[buyers][lines["document"]]
    lines["country"] = ((home[buyers] + away) % len(COUNTRIES))[lines["document"]]
    return lines


def _baskets(rng: np.random.Generator, spends: Ints, prices: Ints) -> Lines:
    """Return lines of distinct products, mostly popular ones, that cost about the spend of each invoice."""
    wanted = np.minimum(1 + rng.negative_binomial(LINES_SHAPE, LINES_CHANCE, len(spends)), 1 + spends // 500)
    picks = (PRODUCTS * rng.random(wanted.sum()) * rng.random(wanted.sum())).astype(np.int64)
    pairs = np.unique(np.repeat(np.arange(len(spends)), wanted) * PRODUCTS + picks)
    lines = np.zeros(len(pairs), LINE)
    document, item = lines["document"], lines["item"] = np.divmod(pairs, PRODUCTS)
    lines["text"], price = item, prices[item]
    weight = rng.gamma(2.0, 1.0, len(lines))
    share = weight / np.bincount(document, weight)[document]
    quantity = np.maximum(1, np.rint(share * spends[document] / price)).astype(np.int64)
    # The remainder that whole quantities leave goes to the cheapest line of the invoice.
    cheapest = np.lexsort((price, document))[np.searchsorted(document, np.arange(len(spends)))]
    rest = spends - np.bincount(document, quantity * price).astype(np.int64)
    quantity[cheapest] = np.maximum(1, quantity[cheapest] + rest // price[cheapest])
    lines["quantity"], lines["pence"] = quantity, price
    return lines


def _cancellations(rng: np.random.Generator, goods: Lines) -> Lines:
    """Return lines on C invoices that cancel some of the purchases, trading days later."""
    documents = int(goods["document"].max()) + 1
    day = np.searchsorted(OPEN_DAYS, goods["minute"] // 1440)
    later = day + rng.geometric(0.1, documents)[goods["document"]]
    known = (goods["customer"] > 0) & (later < len(OPEN_DAYS))
    invoice_share = RATES["cancellation"] / RETURNED_LINES * len(goods) / max(1, int(known.sum()))
    returned = (rng.random(documents) < invoice_share)[goods["document"]]
    picked = known & returned & (rng.random(len(goods)) < RETURNED_LINES)
    lines: Lines = goods[picked]
    within = rng.random(documents)[lines["document"]]
    lines["minute"] = _minutes(later[picked] + within)
    lines["document"] += documents
    lines["prefix"] = 1
    part = rng.integers(1, lines["quantity"], endpoint=True)
    lines["quantity"] = -np.where(rng.random(len(lines)) < 0.6, lines["quantity"], part)
    return lines


def _extra_lines(rng: np.random.Generator, goods: Lines) -> Lines:
    """Return gifts and lines of other stock codes on invoices of products."""
    gifts, odd = round(RATES["gift"] * len(goods)), round(RATES["odd_code"] * len(goods))
    lines: Lines = goods[rng.integers(len(goods), size=gifts + odd)]
    item = rng.integers(PRODUCTS, DEBT, size=odd)  # evenly
    lines["pence"] = np.concatenate([np.zeros(gifts), 1 + rng.gamma(2.0, 900.0, odd)]).astype(np.int64)
    lines["item"][gifts:] = lines["text"][gifts:] = item
    lines["quantity"][gifts:] = np.where(item >= CHARITY, -1, 1)
    return lines


def _single_lines(rng: np.random.Generator, goods: int, customers: int, prices: Ints) -> Lines:
    """Return invoices of one line: write-offs, orphans, bad debts (prefix A) and corrections."""
    count = ORPHANS + len(BOOKED_PENCE) + round(RATES["write_off"] * goods)
    lines = np.zeros(count, LINE)
    lines["minute"] = _minutes(len(OPEN_DAYS) * rng.random(count))
    lines["document"] = 2**31 + np.arange(count)
    lines["item"] = lines["text"] = rng.integers(PRODUCTS, size=count)
    lines["quantity"] = -rng.integers(1, 60, size=count)
    orphans, booked, write_offs = np.split(lines, [ORPHANS, ORPHANS + len(BOOKED_PENCE)])
    orphans["prefix"], orphans["pence"] = 1, prices[orphans["item"]]
    orphans["customer"] = FIRST_CUSTOMER + customers + np.arange(ORPHANS)
    booked["pence"], booked["quantity"], booked["prefix"] = BOOKED_PENCE, 1, [2, 2, 2, 0, 0]
    booked["item"] = booked["text"] = [DEBT, DEBT, DEBT, MANUAL, MANUAL]
    write_offs["text"][::2] = NO_TEXT
    return lines


def _as_text(lines: Lines, numbers: Ints, codes: list[str], texts: list[str]) -> list[tuple[str, ...]]:
    """Return the rows of the files."""
    dates = np.datetime_as_string(START.astype("datetime64[s]") + lines["minute"] * 60)
    return [
        (
            f"{('', 'C', 'A')[prefix]}{number}",
            codes[item],
            texts[text],
            str(quantity),
            date.replace("T", " "),
            f"{pence / 100:.2f}",
            f"{customer}.0" if customer else "",
            COUNTRIES[country],
        )
        for number, date, (_, _, prefix, item, text, quantity, pence, customer, country) in zip(
            numbers.tolist(), dates.tolist(), lines.tolist(), strict=True
        )
    ]


def _file_parts(minutes: Ints) -> list[slice]:
    """Return the range of ordered rows in each month's file."""
    starts = np.searchsorted(minutes, (MONTHS - START).astype(np.int64) * 1440).tolist()
    first = [0]
    for previous, start in pairwise(starts[:-1]):
        last_day = minutes[start - 1] // 1440 * 1440 if start > previous else 0
        first.append(int(np.searchsorted(minutes, last_day)) if start > previous else start)
    return [slice(begin, end) for begin, end in zip(first, starts[1:], strict=True)]


def _write(path: Path, rows: list[tuple[str, ...]]) -> None:
    """Write a file completely or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            file.write(HEADER + "\n")
            csv.writer(file, lineterminator="\n").writerows(rows)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
