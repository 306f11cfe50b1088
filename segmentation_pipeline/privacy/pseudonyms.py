"""The privacy key, and keyed hashes of customers in Python and in SQL.

Contains HMAC-SHA256 (RFC 2104) with the key of the environment. What is stored of a line is in `line_privacy`.
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Any

from segmentation_pipeline.config.environment import PRIVACY_KEY, Environment
from segmentation_pipeline.errors import PrivacyError

PSEUDONYM, ERASURE = "pseudonym", "erasure"
# Hashed together with the key, so they are part of every stored hash and must never change.
_PURPOSES = {PSEUDONYM: "pseudonym", ERASURE: "forgotten"}
_FINGERPRINT = "fingerprint"
# 128 bits in hexadecimal. With a shorter key, a reader of the hashes could try all customer numbers.
_MIN_LENGTH = 32
PSEUDONYM_PATTERN = "^p[0-9a-f]{8}-[0-9a-f]{32}$"
# RFC 2104: the block size of SHA-256, and the two bytes that the key is combined with.
_BLOCK, _INNER, _OUTER = 64, 0x36, 0x5C


@dataclass(frozen=True)
class Key:
    """The secret key, and the hashes made with it."""

    secret: bytes

    @classmethod
    def of_environment(cls, reason: str) -> "Key":
        """Return the key of the environment.

        Args:
            reason: What needs the key, for the error message.

        Raises:
            PrivacyError: The key is missing or too short.
        """
        text = Environment.read().privacy_key.get_secret_value()
        if len(text) >= _MIN_LENGTH:
            return cls(text.encode())
        found = f"has {len(text)} characters, fewer than {_MIN_LENGTH}" if text else "is not set"
        raise PrivacyError(
            f"{PRIVACY_KEY} {found}: {reason}. Make a key once (openssl rand -hex 32), store it apart from the"
            " backups, and set it for every run and for the daemon."
        )

    @property
    def fingerprint(self) -> str:
        """Eight digits that differ between keys and reveal nothing of the key."""
        return self._hash(_FINGERPRINT, "")[:8]

    @property
    def prefix(self) -> str:
        """The beginning of every pseudonym, which shows the key that it was made with."""
        return f"p{self.fingerprint}-"

    def hashed(self, purpose: str, text: str) -> str:
        """Return the keyed hash of a text as 64 hexadecimal digits; hashes of different purposes are unrelated."""
        return self._hash(_PURPOSES[purpose], text)

    def pseudonym(self, customer_id: str) -> str:
        """Return the pseudonym of a customer: the prefix and 128 bits of the hash, enough to avoid collisions."""
        return f"{self.prefix}{self.hashed(PSEUDONYM, customer_id)[:32]}"

    @property
    def values(self) -> dict[str, Any]:
        """The values that the SQL of this module binds."""
        return {
            f"{name}_{side}": bytes(byte ^ mixed for byte in self._derived(purpose).ljust(_BLOCK, b"\0"))
            for name, purpose in _PURPOSES.items()
            for side, mixed in (("inner", _INNER), ("outer", _OUTER))
        } | {"prefix": self.prefix}

    def _hash(self, purpose: str, text: str) -> str:
        return hmac.new(self._derived(purpose), text.encode(), hashlib.sha256).hexdigest()

    def _derived(self, purpose: str) -> bytes:
        return hmac.new(self.secret, purpose.encode(), hashlib.sha256).digest()


def hash_sql(purpose: str, text: str) -> str:
    """Return the SQL of `Key.hashed`, of a text expression."""
    return f"sha256(${purpose}_outer || unhex(sha256(${purpose}_inner || encode({text}))))"


def pseudonym_sql(customer_id: str) -> str:
    """Return the SQL of `Key.pseudonym`, of a text expression."""
    return f"$prefix || left({hash_sql(PSEUDONYM, customer_id)}, 32)"
