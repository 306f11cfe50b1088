"""What the columns of exports are called in English, German, French, Spanish and Portuguese.

Contains names, in the order in which they are preferred. What a column contains is looked at in `columns`.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache

from segmentation_pipeline.ingestion.number_formats import currency_signs

# Each line is a rank: names of the first are preferred to those of the second. Without accents and capitals.
NAMES: dict[str, Sequence[str]] = {
    "transaction_at": (
        "transaction at|transaction date|invoice date|order date|order purchase timestamp|purchase date"
        "|date of sale|sale date|sales date|created at|date created|created date|creation date|date add"
        "|billing date|date of purchase|bestelldatum|kaufdatum|rechnungsdatum|auftragsdatum|belegdatum"
        "|verkaufsdatum|fkdat|bestellt am|erstellt am|date de commande|date commande|date de facture"
        "|date facture|date d achat|date achat|date de vente|date vente|date de creation|cree le"
        "|fecha de pedido|fecha pedido|fecha de factura|fecha factura|fecha de compra|fecha compra"
        "|fecha de venta|fecha venta|fecha de creacion|data do pedido|data pedido|data da compra|data compra"
        "|data da venda|data venda|data da fatura|data de emissao|data emissao|criado em",
        "date|date time|datetime|timestamp|ts|created|transaction time|datum|datum uhrzeit|zeitpunkt|zeitstempel"
        "|buchungsdatum|date heure|horodatage|fecha|fecha hora|fecha y hora|data|data hora|data e hora|day"
        "|tag|jour|dia|document date|posting date",
        "paid at|payment date|payments date|date paid|zahlungsdatum|bezahlt am|date de paiement|fecha de pago"
        "|data de pagamento|shipment date",
    ),
    "transaction_time": (
        "time|order time|invoice time|sale time|transaction time|uhrzeit|zeit|bestellzeit|heure|hora"
        "|hora del pedido|hora do pedido|heure de commande",
    ),
    "customer_id": (
        "customer id|customer|customer no|customer number|customer code|customer unique id|client id|client"
        "|client no|client number|id customer|user id|member id|buyer id|account id|account number|shopper id"
        "|kunde|kundennummer|kundennr|kunden nr|kunden id|kdnr|kd nr|debitor|debitorennummer|auftraggeber"
        "|kunag|kunnr|no client|n client|num client|numero client|numero de client|code client|id client"
        "|identifiant client|cliente|id cliente|id de cliente|codigo cliente|codigo de cliente|numero cliente"
        "|numero de cliente|cod cliente|n cliente|nr cliente|id do cliente|codigo do cliente"
        "|numero do cliente|who",
        "email|e mail|email address|customer email|billing email|buyer email|email billing|mail"
        "|e mail adresse|kunden e mail|adresse e mail|adresse email|courriel|email client|correo"
        "|correo electronico|email del cliente|email do cliente|user|buyer|member|kaufer|besteller|acheteur"
        "|comprador|membre|account|konto|compte",
        "customer name|client name|kundenname|nom client|nom du client|nombre cliente|nombre del cliente"
        "|nome do cliente|nome cliente|full name|billing name|phone",
    ),
    "invoice": (
        "invoice|invoice no|invoice number|invoice id|order|order id|order no|order nr|order number"
        "|order code|id order|amazon order id|transaction id|receipt|receipt no|receipt number|receipt id"
        "|ticket|ticket no|basket id|sales order|bon|bonnummer|beleg|belegnummer|belegnr|beleg nr|rechnung"
        "|rechnungsnummer|rechnungsnr|rechnung nr|rechnungs nr|bestellung|bestellnummer|bestellnr|bestell nr"
        "|auftrag|auftragsnummer|auftragsnr|auftrags nr|vbeln|verkaufsbeleg|commande|n commande|no commande"
        "|num commande|numero commande|numero de commande|id commande|ref commande|reference commande|facture"
        "|n facture|no facture|numero facture|numero de facture|num facture|pedido|n pedido|no pedido"
        "|num pedido|numero pedido|numero de pedido|id pedido|factura|n factura|no factura|num factura"
        "|numero factura|numero de factura|nr fatura|fatura|numero da fatura|n fatura|numero do pedido"
        "|id do pedido|nota fiscal|numero da nota",
        "reference|document|document no|document number|document id|vorgang|vorgangsnummer|sale id"
        "|purchase id|payment id|charge id|transaction|transaktion|transaktionsnummer|transaccion|transacao"
        "|operation|id|name",
    ),
    "stock_code": (
        "stock code|sku|product id|product code|product number|product no|product sku|product reference"
        "|item code|item id|item no|item number|item sku|lineitem sku|article no|article number|article id"
        "|article code|asin|ean|gtin|upc|barcode|plu|artikelnummer|artikelnr|artikel nr|artikel id|artnr"
        "|art nr|materialnummer|matnr|material|produktnummer|produkt id|produktcode|code article|code produit"
        "|ref produit|reference produit|ref article|reference article|id produit|codigo producto"
        "|codigo de producto|codigo del producto|codigo articulo|codigo de articulo|id producto|ref producto"
        "|codigo produto|codigo do produto|cod produto|id produto|id do produto|referencia|codigo|ref",
        "product|item|article|produkt|artikel|produit|producto|articulo|produto|artigo",
    ),
    "description": (
        "description|product name|product title|product description|item name|item description|article name"
        "|lineitem name|title|bezeichnung|artikelbezeichnung|artikelname|produktname|produktbezeichnung"
        "|warenbezeichnung|beschreibung|kurztext|arktx|libelle|libelle produit|designation|nom du produit"
        "|nom produit|nom article|description produit|descripcion|nombre producto|nombre del producto"
        "|nombre articulo|descripcion producto|descricao|nome do produto|nome produto|descricao do produto",
        "product|item|article|produkt|artikel|produit|producto|articulo|produto|artigo",
    ),
    "quantity": (
        "quantity|qty|quantity sold|quantity ordered|quantity purchased|quantity shipped|order quantity"
        "|item quantity|lineitem quantity|product quantity|units|units sold|pieces|pcs|menge|anzahl|stuck"
        "|stuckzahl|verkaufte menge|bestellmenge|fkimg|quantite|qte|qte commandee|quantite commandee"
        "|nb articles|nombre d articles|cantidad|cant|unidades|unidades vendidas|quantidade|qtd|qtde"
        "|quantidade vendida",
        "count|number|items|volume",
    ),
    "price": (
        "unit price|price|item price|price per unit|price each|sale price|sales price|selling price"
        "|lineitem price|item cost|product price|einzelpreis|preis|stuckpreis|preis pro stuck|verkaufspreis"
        "|vk preis|vk|listenpreis|prix unitaire|prix|prix unit|prix de vente|prix unitaire ttc"
        "|prix unitaire ht|pu|pu ttc|pu ht|precio|precio unitario|precio unidad|precio de venta"
        "|precio por unidad|preco|preco unitario|preco de venda|valor unitario",
    ),
    "amount": (
        "line total|line amount|net sales|order line total|item total|row total|extended price|total price"
        "|positionsbetrag|zeilenbetrag|gesamtpreis|nettowert|netwr|total ligne|montant ligne|total de linea"
        "|importe linea|total linea|total do item|valor do item|total item|total price tax incl",
        "amount|total|net amount|gross amount|sales|sales amount|revenue|value|turnover|gross sales|money"
        "|spend|betrag|summe|gesamt|gesamtbetrag|umsatz|netto|brutto|nettobetrag|bruttobetrag|wert"
        "|rechnungsbetrag|montant|montant ttc|montant ht|montant total|total ttc|total ht|prix total"
        "|chiffre d affaires|ca|importe|importe total|monto|monto total|precio total|valor|valor total"
        "|preco total|faturamento|receita|subtotal|total amount",
        "order total|order amount|grand total|total paid|invoice total|total commande|total pedido"
        "|total factura|bestellwert|total do pedido|auftragswert",
    ),
    "country": (
        "country|country code|customer country|land|landercode|lander code|landeskennzeichen|land1|pays"
        "|code pays|pais|codigo pais|codigo de pais|nation",
        "billing country|country code billing|billing country code|rechnungsland|pays de facturation|pais facturacion",
        "shipping country|ship country|country code shipping|lieferland|pays de livraison|pais de envio"
        "|pais de entrega",
    ),
    "currency": (
        "currency|currency code|order currency|iso currency|transaction currency|wahrung|waehrung|wahrg|waerk"
        "|devise|monnaie|code devise|moneda|divisa|codigo moneda|moeda",
    ),
    "status": (
        "order status|status|financial status|payment status|state|order state|bestellstatus|auftragsstatus"
        "|zustand|statut|etat|statut commande|statut de commande|etat commande|estado|estado pedido"
        "|estado del pedido|situacao|estado do pedido|status do pedido|situacao do pedido",
    ),
}
# `id`, `order`, `customer` and `value` are in the names of many columns, so only names of several words are looked for
# inside those of others.
_ONLY_WHOLE = ("invoice", "customer_id", "stock_code", "price", "amount")
_CURRENCIES = frozenset(currency_signs())
# A column with one of these words is another one, whatever else its name has.
_OTHER_WORDS = {
    "transaction_at": "update updated modified last ship shipped shipping delivery delivered due birth birthday"
    " cancel cancelled canceled refund refunded refunds lieferung lieferdatum versand"
    " versanddatum fallig geburt geburtsdatum livraison expedition echeance naissance entrega"
    " envio vencimiento nacimiento vencimento nascimento zone",
    "price": "tax vat mwst ust tva iva shipping versand discount rabatt remise descuento desconto"
    " compare frete livraison",
    "amount": "tax vat mwst ust tva iva shipping versand discount rabatt remise descuento desconto fee"
    " fees refund refunded frete livraison envio gebuhr frais converted count",
    "quantity": "refunded shipping",
    "customer_id": "name vorname nachname nom nombre nome type typ group gruppe since country land pays pais note notes"
    " reference description",
    "invoice": "date datum fecha data status type item line position",
    "country": "origin",
    "description": "customer seller",
}


def normalised_name(name: str) -> str:
    """Return the words of a column's name without capitals, accents and signs, such as `invoice no` of InvoiceNo."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    letters = unicodedata.normalize("NFKD", spaced.casefold().replace("ß", "ss"))
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return " ".join(re.findall(r"[^\W_]+", plain))


def rank(role: str, name: str) -> float | None:
    """Return how well the name of a column fits a role: 0 is best, None is not at all.

    A name that contains all words of a known one ranks half a step below it.
    """
    words = [word for word in normalised_name(name).split() if word.upper() not in _CURRENCIES]
    for number, phrases in enumerate(_phrases(role)):
        if words and "".join(words) in {"".join(phrase) for phrase in phrases}:
            return float(number)
    if set(words) & set(_OTHER_WORDS.get(role, "").split()):
        return None
    for number, phrases in enumerate(_phrases(role)):
        if any({*phrase} <= {*words} for phrase in phrases if len(phrase) > 1 or role not in _ONLY_WHOLE):
            return number + 0.5
    return None


@cache
def _phrases(role: str) -> list[list[list[str]]]:
    return [[phrase.split() for phrase in line.split("|")] for line in NAMES[role]]
