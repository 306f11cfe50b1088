"""People in the data: customers named by a keyed hash, texts as their shape, and who must not come back.

Belongs here: the key, and what the mouth does to lines before they are stored. Does not: erasing what is stored
(`forgetting`).
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Any

from segmentation_pipeline.config.environment import PRIVACY_KEY, Environment
from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.errors import PrivacyError
from segmentation_pipeline.tables.contract import quoted
from segmentation_pipeline.warehouse.database import Warehouse
from segmentation_pipeline.warehouse.queries import QueryInputs

FORGOTTEN = "erased_customers"
# As many characters as 128 bits take in hex: whoever has the hashes could try all customer numbers with a shorter key.
_LEAST = 32
# What a text may name a customer with: words with what joins them, and whole fields.
_WORDS, _FIELDS = r"[\p{L}\p{N}]+(?:[-_.@+][\p{L}\p{N}]+)*", r'[^,;\t|"\\]+'
_PSEUDONYM = "^p[0-9a-f]{8}-[0-9a-f]{32}$"
# RFC 2104: the block of SHA-256, and the two bytes that its key is mixed with.
_BLOCK, _INNER, _OUTER = 64, 0x36, 0x5C


@dataclass(frozen=True)
class Key:
    """The secret of SEGMENTATION_PRIVACY_KEY, and hashes made with it: HMAC-SHA256 (RFC 2104), in SQL and here."""

    secret: bytes

    @classmethod
    def of_environment(cls, wanted_for: str) -> "Key":
        """The key of the environment.

        Raises:
            PrivacyError: There is none, or it is too short to be one.
        """
        text = Environment.read().privacy_key.get_secret_value()
        if len(text) >= _LEAST:
            return cls(text.encode())
        found = f"has {len(text)} characters, fewer than {_LEAST}" if text else "is not set"
        raise PrivacyError(
            f"{PRIVACY_KEY} {found}: {wanted_for}. Make a key once (openssl rand -hex 32), keep it where the backups are"
            " not, and set it for every run and for the daemon."
        )

    @property
    def fingerprint(self) -> str:
        """Tells one key from another, and nothing of it."""
        return self.hashed("fingerprint", "")[:8]

    @property
    def prefix(self) -> str:
        """How each pseudonym begins: it tells by which key the customer is named."""
        return f"p{self.fingerprint}-"

    def hashed(self, purpose: str, text: str) -> str:
        """The keyed hash of a text, as 64 hex digits; one for each purpose, so that none tells of the other."""
        return hmac.new(self._of(purpose), text.encode(), hashlib.sha256).hexdigest()

    def pseudonym(self, customer_id: str) -> str:
        """The name of a customer instead of its own: 128 bits of the hash, as many as no two customers share."""
        return f"{self.prefix}{self.hashed('pseudonym', customer_id)[:32]}"

    @property
    def values(self) -> dict[str, Any]:
        """What the SQL of this module binds."""
        return {
            f"{purpose}_{side}": bytes(byte ^ mixed for byte in self._of(purpose).ljust(_BLOCK, b"\0"))
            for purpose in ("pseudonym", "forgotten")
            for side, mixed in (("inner", _INNER), ("outer", _OUTER))
        } | {"prefix": self.prefix}

    def _of(self, purpose: str) -> bytes:
        return hmac.new(self.secret, purpose.encode(), hashlib.sha256).digest()


def hash_of(purpose: str, text: str) -> str:
    """`Key.hashed` in SQL, of an expression of text."""
    return f"sha256(${purpose}_outer || unhex(sha256(${purpose}_inner || encode({text}))))"


def shape_of(text: str) -> str:
    """In SQL, a text with its letters as `a` and its digits as `9`: how it is written, and not what."""
    return rf"regexp_replace(regexp_replace({text}, '\p{{N}}', '9', 'g'), '\p{{L}}', 'a', 'g')"


def _with_texts(text: str) -> str:
    """In SQL, the column `unparsed` with other texts below its keys: an expression of `e.value`."""
    return (
        "cast(to_json(map_from_entries(list_transform(map_entries(cast(cast(unparsed as json) as map(varchar,"
        f" varchar))), lambda e: {{'k': e.key, 'v': {text}}}))) as varchar)"
    )


def _pseudonym() -> str:
    """`Key.pseudonym` in SQL, of the column `customer_id`."""
    return f"$prefix || left({hash_of('pseudonym', 'customer_id')}, 32)"


def _is_forgotten(customer_id: str) -> str:
    """In SQL, whether a customer is one of those who must not come back."""
    return f"coalesce({hash_of('forgotten', customer_id)} in (select customer_hash from {FORGOTTEN}), false)"


def words_of(unparsed: str) -> str:
    """In SQL, what a text that could not be read may name a customer with: each word, and each whole field."""
    words, fields = (f"regexp_extract_all({unparsed}, '{pattern}')" for pattern in (_WORDS, _FIELDS))
    # As `raw_transactions` reads a customer.
    return (
        rf"list_transform(list_concat({words}, {fields}), lambda w: regexp_replace(trim(w), '^([0-9]+)[.]0+$', '\1'))"
    )


def _tells_of_forgotten(unparsed: str) -> str:
    hashes = f"list_transform({words_of(unparsed)}, lambda h: {hash_of('forgotten', 'h')})"
    return f"list_has_any({hashes}, (select coalesce(list(customer_hash), []) from {FORGOTTEN}))"


ERASED = _with_texts("case when e.value is not null then 'erased' end")


@dataclass(frozen=True)
class Mouth:
    """What is done to lines before they are stored; nothing, where nothing is asked for and nobody is forgotten."""

    pseudonymise: bool
    drop: tuple[str, ...]
    forgets: bool
    values: dict[str, Any]

    @classmethod
    def of(cls, warehouse: Warehouse, retailer: Retailer) -> "Mouth":
        """What the settings ask for, and who is forgotten.

        Raises:
            PrivacyError: The key is missing, or customers stand there under other names than this key gives.
        """
        privacy = retailer.privacy
        fingerprints = {row["key_fingerprint"] for row in warehouse.rows(f"select key_fingerprint from {FORGOTTEN}")}
        values: dict[str, Any] = {}
        if privacy.pseudonymise or fingerprints:
            why = (
                "privacy.pseudonymise names customers by it"
                if privacy.pseudonymise
                else "it keeps out who is forgotten"
            )
            key = Key.of_environment(why)
            if fingerprints - {key.fingerprint}:
                raise PrivacyError(
                    f"{PRIVACY_KEY} is another key than that by which customers were forgotten: they would come back. Set"
                    " the key of before."
                )
            values = key.values
        _refuse_mixed_names(warehouse, values.get("prefix") if privacy.pseudonymise else None)
        return cls(privacy.pseudonymise, tuple(privacy.drop), bool(fingerprints), values)

    def kept(self, select: str) -> str:
        """The SELECT of `raw_transactions` with what may be stored of each line."""
        if self.forgets:
            select = f"select * replace ({_if(_tells_of_forgotten('unparsed'), ERASED)}) from ({self.named(select)})"
            select = f"select * exclude (of_forgotten) from ({select}) where not of_forgotten"
        replaced = [f"cast(null as varchar) as {quoted(column)}" for column in self.drop]
        if self.pseudonymise:
            replaced.append(f"{_pseudonym()} as customer_id")
        if replaced:
            # A line that is broken holds all its columns.
            replaced.append(_if("true", _with_texts(shape_of("e.value"))))
            select = f"select * replace ({', '.join(replaced)}) from ({select})"
        return select

    def left_out(self, warehouse: Warehouse, select: str, lines: QueryInputs) -> dict[str, int]:
        """How many lines of each file are left out of what is read, because their customers are forgotten."""
        if not self.forgets:
            return {}
        relations = ", ".join(f"{name} as ({text})" for name, text in lines.relations.items())
        text = (
            f"with {relations} select source_file, count(*) as lines from ({self.named(select)}) where of_forgotten"
            " group by source_file"
        )
        rows = warehouse.execute(text, lines.values | self.values).fetchall()
        return {str(source_file): int(count) for source_file, count in rows}

    def named(self, select: str) -> str:
        """The SELECT with `of_forgotten`: whether a line is of a customer who must not come back."""
        names = ["customer_id", _pseudonym()] if self.pseudonymise else ["customer_id"]
        return f"select *, {' or '.join(_is_forgotten(name) for name in names)} as of_forgotten from ({select})"


def _if(condition: str, replaced: str) -> str:
    """The column `unparsed`, replaced where there is one and a condition holds."""
    return f"case when unparsed is not null and {condition} then {replaced} else unparsed end as unparsed"


def _refuse_mixed_names(warehouse: Warehouse, prefix: str | None) -> None:
    """Customers of one database are all named in one way: else each of them would be two."""
    kept = [table for table in ("raw_transactions", "segment_membership") if warehouse.has(table)]
    for table in kept:
        is_other = "not starts_with(customer_id, $prefix)" if prefix else f"regexp_matches(customer_id, '{_PSEUDONYM}')"
        values = {"prefix": prefix} if prefix else {}
        if warehouse.rows(f"select 1 as one from {table} where {is_other} limit 1", **values):
            found = "in clear, or by another key" if prefix else "by a keyed hash"
            now = f"by that of {PRIVACY_KEY}" if prefix else "in clear"
            raise PrivacyError(
                f"{table} names customers {found}, and [privacy] and {PRIVACY_KEY} now name them {now}: they would be"
                " others. Set both as before; or begin anew in another data folder, delete this one, and forget again"
                " whoever was forgotten."
            )
