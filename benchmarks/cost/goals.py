"""The goals, and whether the measurements meet them.

Contains every target once. A goal of a scenario that did not finish is missed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.cost.data import Made
from benchmarks.cost.scenarios import (
    BOTH,
    FEW,
    FIRST,
    LIMIT,
    MANY,
    NEWS,
    NO_NEWS,
    SCENARIOS,
    SCRIPT,
    SMALL_MEMORY,
    Result,
)

Results = Mapping[str, Result]


@dataclass(frozen=True)
class Goal:
    """A number that is to be small, or large.

    Attributes:
        scenario: The scenario that measures it.
        words: What is measured.
        target: The bound.
        unit: The unit of both, with its text before it.
        value: Computes the number.
        at_least: Whether the number is to be as large as the target.
        needs: Another scenario that it is computed from.
    """

    scenario: str
    words: str
    target: float
    unit: str
    value: Callable[[Results], float]
    at_least: bool = False
    needs: str = ""

    @property
    def part(self) -> str:
        """The part of the page."""
        return SCENARIOS[self.scenario].part


@dataclass(frozen=True)
class Verdict:
    """Whether a goal is met; the value is None where the scenario did not finish."""

    goal: Goal
    value: float | None

    @property
    def is_met(self) -> bool:
        """Whether the goal is met."""
        if self.value is None:
            return False
        return self.value >= self.goal.target if self.goal.at_least else self.value <= self.goal.target

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """The goal in words, the measured value, the target, and the verdict."""
        goal = self.goal
        sign = ">=" if goal.at_least else "<="
        measured = "did not finish" if self.value is None else _number(self.value, goal.unit)
        words = f"{SCENARIOS[goal.scenario].title}: {goal.words}"
        return words, measured, f"{sign} {_number(goal.target, goal.unit)}", "met" if self.is_met else "MISSED"


def verdicts(results: Results, part: str) -> list[Verdict]:
    """Return the verdict of each goal of a part whose scenarios were measured."""
    goals = [goal for goal in GOALS if goal.part == part]
    measured = [goal for goal in goals if all(name in results for name in (goal.scenario, goal.needs or goal.scenario))]
    return [Verdict(goal, _value(goal, results)) for goal in measured]


def exponent(small: float, large: float, times: float) -> float:
    """Return the power of the lines with which a time grows; 1 is proportional, 0 constant."""
    return math.log(large / small) / math.log(times)


def growth(results: Results) -> float:
    """Return the exponent of the first run from 5.4 to 54 million lines."""
    return exponent(
        results["growth"].middle(FIRST, "seconds"), results["54m"].middle(FIRST, "seconds"), line_ratio(results)
    )


def line_ratio(results: Results) -> float:
    """Return how many times as many lines the large shop of the growth has."""
    return _made(results, "54m").lines / _made(results, "growth").lines


def _value(goal: Goal, results: Results) -> float | None:
    try:
        return goal.value(results)
    except KeyError:
        # A run before it failed.
        return None


def _number(value: float, unit: str) -> str:
    digits = 0 if unit in ("MB", "lines a second") else 2
    return f"{value:,.{digits}f} {unit}".rstrip()


def _ratio(scenario: str, run: str, other: str, metric: str = "seconds") -> Callable[[Results], float]:
    return lambda results: results[scenario].ratio(run, other, metric)


def _middle(scenario: str, run: str, metric: str) -> Callable[[Results], float]:
    return lambda results: results[scenario].middle(run, metric)


def _disk_share(results: Results) -> float:
    return results["54m"].middle(NEWS, "disk") * 1e6 / _made(results, "54m").csv_bytes


def _lines_a_second(scenario: str) -> Callable[[Results], float]:
    def value(results: Results) -> float:
        made = _made(results, scenario)
        return made.lines / made.seconds

    return value


def _made(results: Results, scenario: str) -> Made:
    """Return the source of a scenario.

    Raises:
        KeyError: It was not made.
    """
    made = results[scenario].made
    if made is None:
        raise KeyError(scenario)
    return made


def _model_ratio(results: Results) -> float:
    step = "segmentation_model"
    return results["customers"].step(MANY, step) / results["customers"].step(FEW, step)


GOALS = (
    Goal("csv", BOTH, 3, "x script", _ratio("csv", BOTH, SCRIPT)),
    Goal("csv", NO_NEWS, 2, "x script", _ratio("csv", NO_NEWS, SCRIPT)),
    Goal("workbook", BOTH, 0.4, "x script", _ratio("workbook", BOTH, SCRIPT)),
    Goal("sample", NO_NEWS, 8, "s", _middle("sample", NO_NEWS, "seconds")),
    Goal("small", FIRST, 8, "s", _middle("small", FIRST, "seconds")),
    Goal("54m", FIRST, 3, "x limit", _ratio("54m", FIRST, LIMIT)),
    Goal("54m", f"{FIRST}, peak memory", 3_000, "MB", _middle("54m", FIRST, "memory")),
    Goal("54m", NEWS, 0.6, "x limit", _ratio("54m", NEWS, LIMIT)),
    Goal("54m", f"{NEWS}, peak memory", 2_500, "MB", _middle("54m", NEWS, "memory")),
    Goal("54m", f"{SMALL_MEMORY}, peak memory", 2_600, "MB", _middle("54m", SMALL_MEMORY, "memory")),
    Goal("54m", "working database and two releases", 0.6, "x CSV", _disk_share),
    Goal("5m", BOTH, 1, "x script", _ratio("5m", BOTH, SCRIPT)),
    Goal("5m", f"{BOTH}, peak memory", 1, "x script", _ratio("5m", BOTH, SCRIPT, "memory")),
    Goal("5m", NO_NEWS, 1, "x limit", _ratio("5m", NO_NEWS, LIMIT)),
    Goal("growth", f"{FIRST}, exponent from there to 54 million lines", 1, "", growth, needs="54m"),
    Goal("100m", f"{FIRST}, peak memory", 8_000, "MB", _middle("100m", FIRST, "memory")),
    Goal("54m", "lines made", 1_000_000, "lines a second", _lines_a_second("54m"), at_least=True),
    Goal("100m", "lines made", 1_000_000, "lines a second", _lines_a_second("100m"), at_least=True),
    Goal("customers", "step `segmentation_model`, a hundred times as many customers", 3, "x the time", _model_ratio),
)
