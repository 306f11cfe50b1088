"""Print on terminals that cannot show every character: write similar ones instead of failing.

Contains the replacements. Imports nothing, because every command starts here.
"""

import codecs
import io
import sys

# The name of the error handler.
ERRORS = "similar"
_SIMILAR = {
    "\N{NO-BREAK SPACE}": " ",
    "\N{EURO SIGN}": "EUR",
    "\N{POUND SIGN}": "GBP",
    "\N{YEN SIGN}": "JPY",
    "\N{CHECK MARK}": "+",
    "\N{BALLOT X}": "x",
    "\N{RIGHTWARDS ARROW}": "->",
    "\N{RIGHT SINGLE QUOTATION MARK}": "'",
    "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{EN DASH}": "-",
    "\N{BULLET}": "*",
    "\N{BOX DRAWINGS LIGHT HORIZONTAL}": "-",
}


def _similar(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = "".join(
        _SIMILAR.get(character) or character.encode("ascii", "backslashreplace").decode("ascii")
        for character in error.object[error.start : error.end]
    )
    return text, error.end


def allow_any_text() -> None:
    """Let standard output and standard error replace what their encoding lacks, such as ✓ in ASCII."""
    codecs.register_error(ERRORS, _similar)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ERRORS)
