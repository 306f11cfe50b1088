"""Values that `segments retailer init` leaves open for a person to choose, such as "? 0 | 2".

Contains how they are written and found. A retailer file with one of them is not valid.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

_OPEN = re.compile(r"\?( .*)?", re.DOTALL)
_BETWEEN = " | "


def open_choice(choices: Sequence[str]) -> str:
    """Return the value of a setting that is open.

    Args:
        choices: The values to choose from, as they are written in the file.
    """
    return f"? {_BETWEEN.join(choices)}".strip()


def open_settings(settings: Any, key: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the key of each open setting, and what to do about it."""
    if isinstance(settings, dict):
        for name, value in settings.items():
            yield from open_settings(value, (*key, name))
    elif isinstance(settings, list):
        for position, value in enumerate(settings):
            yield from open_settings(value, (*key, position))
    elif isinstance(settings, str) and _OPEN.fullmatch(settings):
        choices = " or ".join(settings[2:].split(_BETWEEN))
        values = f"set {choices}" if choices else "set a value, or remove the line"
        yield key, f"left open, because the source does not say which value is right: {values}"
