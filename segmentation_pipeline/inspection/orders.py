"""What belongs to an order and not to a line: values on its first line only, and its status.

Contains what the sampled lines show of them.
"""

import re
from collections.abc import Mapping

from segmentation_pipeline.inspection.columns import Mapped
from segmentation_pipeline.inspection.contents import Contents
from segmentation_pipeline.inspection.guesses import Draft, RuleGuess
from segmentation_pipeline.inspection.names import normalised_name

_FIRST_FILLED, _LATER_EMPTY = 0.5, 0.9
_FILLED_ROLES = ("customer_id", "transaction_at", "country")
# Parts of words for orders that are no sales, in the five languages of `names`.
_NO_SALE = re.compile(
    "cancel|annul|stornier|refund|erstatt|rembours|reembols|devuelt|devolv|returned|retour|fail|fehl|void|reject|abgelehnt"
    "|refus|rechaz|recus|unpaid|unbezahlt|impay|pending|offen|attente|pendient|pendent|draft|expired|declined|blocked"
)


def add_fill_down(draft: Draft, contents: Contents, mapped: Mapping[str, Mapped]) -> None:
    """Add the columns that are filled in on the first line of most orders and empty on the others."""
    for role in _FILLED_ROLES:
        if (one := mapped.get(role)) and one.column and is_on_first_line(contents, mapped, one):
            draft.fill_down(role, f"{one.column.name!r} is filled in on the first line of an order only.")


def add_status(draft: Draft, contents: Contents, mapped: Mapping[str, Mapped]) -> None:
    """Leave open which orders count, if some of them have the status of one that is no sale."""
    one = mapped.get("status")
    if not one or not one.column:
        return
    cell = one.column.cell
    select = f"select coalesce({cell}, ''), count(*) from cells group by 1 order by 2 desc, 1"  # noqa: S608 - own SQL
    labels: dict[str, int] = dict(contents.rows(select))
    is_filled = "" in labels and is_on_first_line(contents, mapped, one)
    if is_filled:
        del labels[""]
    counts = ", ".join(f"{label or '(empty)'} ({number:,})" for label, number in labels.items())
    sales = [label for label in labels if not _NO_SALE.search(normalised_name(label))]
    if len(sales) == len(labels):
        return
    draft.add("columns.extra.status", one.column.key, f"The status of an order, with its lines: {counts}.")
    if is_filled:
        draft.fill_down("status", f"{one.column.name!r} is filled in on the first line of an order only.")
    evidence = ["Orders of which status count? A line of another status is rejected."]
    choices = [sales, [*labels]] if sales else [[*labels]]
    rule = RuleGuess("not_counted", "the status of the order is that of no sale", "status", (), choices, evidence)
    draft.rules.append(rule)


def is_on_first_line(contents: Contents, mapped: Mapping[str, Mapped], one: Mapped) -> bool:
    """Return whether a column is filled in on the first line of most orders, and empty on the others."""
    invoice = mapped.get("invoice")
    if not invoice or not invoice.column or not one.column:
        return False
    lines = (
        f"select {one.column.cell} as value, row_number() over (partition by source_file, source_sheet,"  # noqa: S608 - own SQL
        f" {invoice.column.cell} order by source_line) as nth from cells where {invoice.column.cell} <> ''"
    )
    select = (
        "select avg(cast(value <> '' and value is not null as integer)) filter (nth = 1),"  # noqa: S608 - own SQL
        f" avg(cast(coalesce(value, '') = '' as integer)) filter (nth > 1) from ({lines})"
    )
    [(first, later)] = contents.rows(select)
    return (first or 0) >= _FIRST_FILLED and (later or 0) >= _LATER_EMPTY
