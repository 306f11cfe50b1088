"""The base class of every table of a retailer file, and the types that several of them share.

Does not contain the tables themselves: see `sections`, `cleaning_rules` and `model_settings`.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    PlainValidator,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

Feature = Literal["monetary", "frequency", "recency"]
ColumnName = Literal[
    "invoice", "stock_code", "description", "quantity", "transaction_at", "price", "amount", "customer_id", "country"
]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
# A sheet has no more columns, and DuckDB runs out of memory with millions of them.
MAX_COLUMNS = 16_384
NUMBERS = ("quantity", "price", "amount")
# The names of `[columns.extra]` are none of these: columns of lines, and those that are added on the way.
RESERVED_NAMES = (
    *get_args(ColumnName),
    "transaction_time",
    "source_file",
    "source_sheet",
    "source_line",
    "unparsed",
    "malformed",
    "first_cell",
    "extra",
    "rowid",
    "is_erased",
    "is_cancellation",
    "is_copy",
    "nth",
    "step",
    "rule",
    "reason",
)


def _check_source_column(value: object) -> str | int:
    """Report one error: Pydantic would report one for each alternative of the type."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_COLUMNS:
        return value
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise ValueError(f"allowed: the name of a column, or its position from 1 to {MAX_COLUMNS}")


SourceColumn = Annotated[str | int, PlainValidator(_check_source_column)]


class SettingError(NamedTuple):
    """An error that follows from several settings of a section."""

    key: tuple[str | int, ...]
    """The path of the setting below its section; empty for the section itself."""
    message: str
    """What is wrong and which values are allowed."""
    value: Any
    """The value in the file."""


class Section(BaseModel):
    """A table of a retailer file. Unknown keys are errors; values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _report_all_errors(cls, settings: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Report the errors of single settings and the combined ones together.

        A validator in Pydantic's "after" mode runs only when every single setting is valid.
        """
        combined = cls.combined_errors(settings) if isinstance(settings, dict) else ()
        errors = [
            InitErrorDetails(type=PydanticCustomError("combined", error.message), loc=error.key, input=error.value)
            for error in combined
        ]
        try:
            section = validate(settings)
        except ValidationError as error:
            for single in error.errors():
                kind = PydanticCustomError(single["type"], single["msg"])
                errors.append(InitErrorDetails(type=kind, loc=single["loc"], input=single["input"]))
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return section

    @classmethod
    def combined_errors(cls, settings: dict[str, Any]) -> Iterator[SettingError]:
        """Yield the errors that follow from several settings of this section.

        Args:
            settings: The section as read from the file, before validation: any value can be of the wrong type.
        """
        del settings
        yield from ()


def tables(value: Any) -> list[dict[str, Any]]:
    """Return the tables of an unvalidated list, with an empty one in place of each item of another type."""
    return [item if isinstance(item, dict) else {} for item in value] if isinstance(value, list) else []


def normalised(name: str) -> str:
    """Return the name of a source's column in the form in which names are compared."""
    return "".join(name.split()).casefold()
