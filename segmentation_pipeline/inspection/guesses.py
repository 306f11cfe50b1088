"""A draft of a retailer file: what was found of each setting, with its evidence, and the file's text.

Contains no guessing: what a source looks like is found in `layout`, `columns`, `notations` and `contents`.
"""

import json
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from segmentation_pipeline.config.open_choices import open_choice

_WIDTH = 118
_SECTIONS = ("", "source", "columns", "columns.extra", "customers", "cleaning")


@dataclass(frozen=True)
class Guess:
    """What was found of a setting.

    Attributes:
        key: The dotted key of the setting.
        value: Its value; None if only the evidence is worth a comment.
        evidence: Why, as sentences; nothing of it names a customer.
        choices: The values that are possible, if the source does not say which one is right; empty if nothing shows
            any. The setting is then open. None: it is not.
    """

    key: str
    value: Any
    evidence: Sequence[str] = ()
    choices: Sequence[Any] | None = None

    @property
    def is_open(self) -> bool:
        """Whether a person has to choose."""
        return self.choices is not None

    @property
    def section(self) -> str:
        """The table of the setting; empty for the top."""
        return self.key.rpartition(".")[0]

    @property
    def name(self) -> str:
        """The key within its table."""
        return self.key.rpartition(".")[2]


@dataclass(frozen=True)
class RuleGuess:
    """A cleaning rule: lines whose column has one of some values count.

    Attributes:
        name: The rule's name.
        reason: Its reason.
        column: The column that it tests.
        values: The values that count; empty if a person has to choose.
        choices: The lists of values to choose from.
        evidence: Why, as sentences.
    """

    name: str
    reason: str
    column: str
    values: Sequence[str]
    choices: Sequence[Sequence[str]] = ()
    evidence: Sequence[str] = ()

    @property
    def is_open(self) -> bool:
        """Whether a person has to choose."""
        return not self.values


@dataclass
class Draft:
    """The settings of a retailer file with their evidence."""

    guesses: list[Guess] = field(default_factory=list)
    rules: list[RuleGuess] = field(default_factory=list)

    def add(self, key: str, value: Any, *evidence: str, choices: Sequence[Any] | None = None) -> None:
        """Add a setting."""
        self.guesses.append(Guess(key, value, evidence, choices))

    def fill_down(self, column: str, evidence: str) -> None:
        """Add a column to those that are filled in on the first line of an order only."""
        known = next((guess for guess in self.guesses if guess.key == "source.fill_down"), None)
        if known:
            self.guesses.remove(known)
        columns = [*(known.value if known else []), column]
        self.add("source.fill_down", columns, *(known.evidence if known else ()), evidence)

    @property
    def open_keys(self) -> list[str]:
        """The settings that a person has to choose."""
        keys = [guess.key for guess in self.guesses if guess.is_open]
        return keys + [f"cleaning.rules ({rule.name})" for rule in self.rules if rule.is_open]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as a retailer file has them, with the first choice where one is open."""
        settings: dict[str, Any] = {"source": {}, "columns": {}}
        for guess in self.guesses:
            value = next(iter(guess.choices), None) if guess.choices is not None else guess.value
            if value is None:
                continue
            table = settings
            for part in filter(None, guess.section.split(".")):
                table = table.setdefault(part, {})
            table[guess.name] = value
        rules = [
            {"name": rule.name, "reason": rule.reason, "column": rule.column, "in": list(rule.values)}
            for rule in self.rules
            if rule.values
        ]
        if rules:
            settings.setdefault("cleaning", {})["rules"] = rules
        return settings

    def text(self, head: Sequence[str], tail: Sequence[str]) -> str:
        """Return the text of the retailer file.

        Args:
            head: Sentences above the settings.
            tail: Lines below them, which are comments too.
        """
        lines = [*_comment(head)]
        for section in _SECTIONS:
            guesses = [guess for guess in self.guesses if guess.section == section]
            if guesses and section:
                lines += ["", f"[{section}]"]
            for guess in guesses:
                lines += _setting(guess)
        for rule in self.rules:
            lines += ["", *_comment(rule.evidence), "[[cleaning.rules]]"]
            lines += [f"{key} = {_toml(getattr(rule, key))}" for key in ("name", "reason", "column")]
            lines.append(f"in = {_toml(list(rule.values) or open_choice([_toml(list(one)) for one in rule.choices]))}")
        return "\n".join([*lines, "", *(f"# {line}".rstrip() for line in tail)]) + "\n"


def _setting(guess: Guess) -> Iterator[str]:
    yield from _comment(guess.evidence)
    if guess.choices is not None:
        yield f"{guess.name} = {_toml(open_choice([*map(_toml, guess.choices)]))}"
    elif guess.value is not None:
        yield f"{guess.name} = {_toml(guess.value)}"


def _comment(sentences: Sequence[str]) -> Iterator[str]:
    for sentence in sentences:
        # A name of a column can have a line end in it.
        text = " ".join(sentence.split())
        yield from textwrap.wrap(
            text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False, break_long_words=False
        )


def _toml(value: Any) -> str:
    if isinstance(value, str) and '"' in value and value.isprintable() and "'" not in value:
        # A literal text, which needs no escapes.
        return f"'{value}'"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
