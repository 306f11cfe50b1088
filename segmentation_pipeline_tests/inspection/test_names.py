"""Names of columns are recognised in five languages."""

import pytest

from segmentation_pipeline.inspection.names import normalised_name, rank


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("InvoiceNo", "invoice no"),
        ("CustomerID", "customer id"),
        ("Kunden-Nr.", "kunden nr"),
        ("Größe", "grosse"),
        ("N° commande", "n commande"),
        ("Lineitem sku", "lineitem sku"),
        ("amazon-order-id", "amazon order id"),
    ],
)
def test_names_are_compared_by_their_words(name: str, words: str) -> None:
    assert normalised_name(name) == words


@pytest.mark.parametrize(
    ("role", "better", "worse"),
    [
        ("customer_id", "Customer ID", "Email"),
        ("customer_id", "Email", "Customer Name"),
        ("transaction_at", "Order Date", "Date"),
        ("transaction_at", "Created at", "Paid at"),
        ("amount", "Positionsbetrag", "Betrag"),
        ("amount", "Net Sales", "Gross Sales"),
        ("country", "Country", "Shipping Country"),
        ("invoice", "Bestellnummer", "Name"),
    ],
)
def test_the_more_precise_name_is_preferred(role: str, better: str, worse: str) -> None:
    ranks = rank(role, better), rank(role, worse)
    assert ranks[0] is not None
    assert ranks[1] is not None
    assert ranks[0] < ranks[1]


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("transaction_at", "Updated at"),
        ("transaction_at", "Lieferdatum"),
        ("amount", "Tax Amount"),
        ("amount", "freight_value"),
        ("price", "Shipping Price"),
        ("invoice", "Order Date"),
        ("customer_id", "Customer Type"),
        ("quantity", "Price"),
    ],
)
def test_other_columns_have_no_rank(role: str, name: str) -> None:
    assert rank(role, name) is None


def test_a_currency_in_a_name_does_not_matter() -> None:
    assert rank("price", "Einzelpreis (EUR)") == rank("price", "Einzelpreis") == 0
