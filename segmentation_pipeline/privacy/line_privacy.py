"""What is stored of a line: one id for each customer, pseudonyms, masked patterns, no erased customers.

Contains the SQL that ingestion applies to lines before it stores them. Erasing what is already stored is in `erasure`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segmentation_pipeline.config.environment import PRIVACY_KEY
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import PrivacyError
from segmentation_pipeline.privacy.customer_ids import (
    CustomerIds,
    SimilarIds,
    as_read,
    normalised,
    similar_ids_select,
)
from segmentation_pipeline.privacy.pseudonyms import (
    ERASURE,
    PSEUDONYM_PATTERN,
    Key,
    hash_sql,
    pseudonym_sql,
)
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs

# A text may name a customer by words, including the characters that join them, and by a whole field.
_WORDS, _FIELDS = r"[\p{L}\p{N}]+(?:[-_.@+][\p{L}\p{N}]+)*", r'[^,;\t|"\\]+'


def possible_names(text: str, normalisations: Sequence[str] = ()) -> str:
    """Return the SQL of the list of words and fields of a text, each as a customer would be read and normalised."""
    words, fields = (f"regexp_extract_all({text}, '{pattern}')" for pattern in (_WORDS, _FIELDS))
    names = f"list_transform(list_concat({words}, {fields}), lambda w: {as_read('w')})"
    if not normalisations:
        return names
    return f"list_concat({names}, list_transform({names}, lambda w: {normalised('w', normalisations)}))"


def _replace_texts(text: str) -> str:
    """Return the SQL of the column `unparsed` with the text of each key replaced by an expression of `e.value`."""
    return (
        "cast(to_json(map_from_entries(list_transform(map_entries(cast(cast(unparsed as json) as map(varchar,"
        f" varchar))), lambda e: {{'k': e.key, 'v': {text}}}))) as varchar)"
    )


# The column `unparsed` of a line that names an erased customer.
ERASED_TEXT = _replace_texts("case when e.value is not null then 'erased' end")


@dataclass(frozen=True)
class LinePrivacy:
    """What is done to lines before they are stored; nothing without settings and without erased customers.

    Attributes:
        pseudonymise: Whether customers are stored by pseudonym.
        drop: Columns that are not stored.
        has_erased: Whether there are erased customers to leave out.
        ids: Under which id a customer is stored.
        values: The values that the SQL binds.
    """

    pseudonymise: bool
    drop: tuple[str, ...]
    has_erased: bool
    ids: CustomerIds
    values: dict[str, Any]

    @classmethod
    def of(cls, warehouse: Warehouse, retailer: Retailer, ids: CustomerIds) -> "LinePrivacy":
        """Return what the settings and the erased customers require.

        Raises:
            PrivacyError: The key is missing, or the stored customers have names that this key does not give.
        """
        privacy = retailer.privacy
        rows = warehouse.rows("select key_fingerprint from erased_customers")
        fingerprints = {row["key_fingerprint"] for row in rows}
        values: dict[str, Any] = {}
        if privacy.pseudonymise or fingerprints:
            reason = (
                "privacy.pseudonymise makes pseudonyms with it"
                if privacy.pseudonymise
                else "erased customers are recognised with it"
            )
            key = Key.of_environment(reason)
            if fingerprints - {key.fingerprint}:
                raise PrivacyError(
                    f"{PRIVACY_KEY} is not the key with which customers were erased, so they would come back. Set the"
                    " earlier key."
                )
            values = key.values
        _check_one_naming(warehouse, values.get("prefix") if privacy.pseudonymise else None)
        return cls(privacy.pseudonymise, tuple(privacy.drop), bool(fingerprints), ids, values | ids.values)

    def stored(self, select: str) -> str:
        """Return a SELECT of lines of `raw_transactions` restricted to what may be stored of each line."""
        if self.has_erased:
            erased = f"list_has_any({self._possible_hashes('unparsed')}, {_ERASED_HASHES})"
            text = _if(erased, ERASED_TEXT)
            select = f"select * replace ({text}) from ({self.flagged(select)})"  # noqa: S608 - own SQL
            select = f"select * exclude (is_erased) from ({select}) where not is_erased"  # noqa: S608 - own SQL
        if self.ids.change_ids:
            lines = self.ids.with_customer(select)
            select = f"select * exclude (normalised_id, customer) replace (customer as customer_id) from ({lines})"  # noqa: S608 - own SQL
        replacements = [f"cast(null as varchar) as {quoted(column)}" for column in self.drop]
        if self.pseudonymise:
            replacements.append(f"{pseudonym_sql('customer_id')} as customer_id")
        if replacements:
            # The text of a malformed record holds all its columns.
            replacements.append(_if("true", _replace_texts("masked_pattern(e.value)")))
            select = f"select * replace ({', '.join(replacements)}) from ({select})"  # noqa: S608 - own SQL
        return select

    def count_erased(self, warehouse: Warehouse, inputs: QueryInputs) -> dict[str, int]:
        """Return how many of the staged lines of each file are not stored because their customers were erased."""
        if not self.has_erased:
            return {}
        relations = ", ".join(f"{name} as ({text})" for name, text in inputs.relations.items())
        text = (
            f"with {relations} select source_file, count(*) as lines"  # noqa: S608 - own SQL
            f" from ({self.flagged('select * from staged_lines')}) where is_erased"
            " group by source_file"
        )
        rows = warehouse.execute(text, inputs.values | self.values).fetchall()
        return {str(source_file): int(count) for source_file, count in rows}

    def similar_ids(self, warehouse: Warehouse, inputs: QueryInputs) -> SimilarIds:
        """Return how many ids of the staged lines differ in form only; after they are hashed, nobody can see it."""
        lines = self.ids.with_customer("select customer_id from staged_lines")
        select = similar_ids_select(f"select customer as customer_id from ({lines})")  # noqa: S608 - own SQL
        relations = ", ".join(f"{name} as ({text})" for name, text in inputs.relations.items())
        cursor = warehouse.execute(f"with {relations} {select}", inputs.values | self.values)
        names = [str(column[0]) for column in cursor.description or ()]
        return SimilarIds.of(dict(zip(names, cursor.fetchall()[0], strict=True)))

    def flagged(self, select: str) -> str:
        """Return the SELECT with the column `is_erased`: whether the line belongs to an erased customer.

        The id of the source counts too: the customer may have been erased before the settings replaced it.
        """
        names, extra = ["customer_id"], ""
        if self.ids.change_ids:
            names, extra = [*names, "normalised_id", "customer"], " exclude (normalised_id, customer)"
            select = self.ids.with_customer(select)
        names += [pseudonym_sql(name) for name in names if self.pseudonymise]
        return f"select *{extra}, {' or '.join(map(_is_erased, names))} as is_erased from ({select})"  # noqa: S608 - own SQL

    def _possible_hashes(self, text: str) -> str:
        names = possible_names(text, self.ids.normalisations)
        return f"list_transform({names}, lambda h: {hash_sql(ERASURE, 'h')})"


_ERASED_HASHES = "(select coalesce(list(customer_hash), []) from erased_customers)"


def _is_erased(customer_id: str) -> str:
    erased = "(select customer_hash from erased_customers)"
    return f"coalesce({hash_sql(ERASURE, customer_id)} in {erased}, false)"


def _if(condition: str, replacement: str) -> str:
    """Return the column `unparsed`, replaced where it is not null and a condition is true."""
    return f"case when unparsed is not null and {condition} then {replacement} else unparsed end as unparsed"


def _check_one_naming(warehouse: Warehouse, prefix: str | None) -> None:
    """Check that the stored customers are named as the settings require; otherwise each would count twice."""
    for table in ("raw_transactions", "segment_membership"):
        if not warehouse.has(table):
            continue
        condition = (
            "not starts_with(customer_id, $prefix)" if prefix else f"regexp_matches(customer_id, '{PSEUDONYM_PATTERN}')"
        )
        values = {"prefix": prefix} if prefix else {}
        if warehouse.rows(f"select 1 as one from {table} where {condition} limit 1", **values):  # noqa: S608 - own SQL
            found = "in clear text, or by pseudonyms of another key" if prefix else "by pseudonym"
            required = f"by pseudonyms of the key in {PRIVACY_KEY}" if prefix else "in clear text"
            raise PrivacyError(
                f"{table} stores customers {found}, but [privacy] and {PRIVACY_KEY} now require them {required}, so"
                " every customer would be new. Restore both settings; or start with a new data folder, delete this one,"
                " and erase again the customers who were erased."
            )
