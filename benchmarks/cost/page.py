"""Write `docs/benchmarks.md` from results.

Contains the text and the tables of the page. Each part of it is between two HTML comments, and is replaced alone.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.cost.goals import Results, exponent, growth, line_ratio, verdicts
from benchmarks.cost.machine import Machine
from benchmarks.cost.scenarios import (
    FEW,
    FIRST,
    GENERATED,
    LIMIT,
    MANY,
    QUICK,
    SCALE,
    SCENARIOS,
    SCORED,
    SCRIPT,
    Result,
)

HEAD = """# Benchmarks

What `segments run` costs, in whole processes and in turns, beside two programs that do the same work and keep nothing:

- the **script** is the tutorial's notebook as one pandas and scikit-learn script;
- the **limit** is bare SQL in DuckDB and scikit-learn: no line is kept with its place in the source, no contract is
  checked, no release is written.

Both cluster with a given number of clusters; the first run of the pipeline also chooses that number. The first run
reads all days but the last, the night with one more day the rest. Times and memory are medians of the turns, and ratios
are medians of the ratios turn by turn. Compare ratios, not seconds. Memory is the peak of the process. Disk is the
working database and the releases after the run, and each run adds a release; the peak of disk includes what is written
meanwhile. MB and GB are powers of ten. "Dagster alone" is the same job with empty assets and checks.
"""
_FIT = "segmentation_model"
_COMMANDS = {QUICK: "make bench", SCALE: "make bench-scale"}
_LONGEST_STEPS = 15
_TITLES = {QUICK: "Usual sizes", SCALE: "Large shops"}


def updated(page: str, part: str, text: str) -> str:
    """Return the page with one of its parts replaced; the other stays as it is, or is left out if it is not there."""
    parts = {name: text if name == part else _part(page, name) for name in (QUICK, SCALE)}
    return "\n".join([HEAD, *(_marked(name, inner) for name, inner in parts.items() if inner)])


def part_of_page(part: str, results: Results, machines: Mapping[str, Machine]) -> str:
    """Return a part of the page: the goals, and the tables of its scenarios."""
    names = [name for name, scenario in SCENARIOS.items() if scenario.part == part and name in results]
    measured = "; ".join(dict.fromkeys(machines[name].text for name in names))
    goals = table(("goal", "measured", "target", ""), [verdict.cells for verdict in verdicts(results, part)])
    sections = [_section(name, results) for name in names]
    title = f"## {_TITLES[part]}\n\nWritten by `{_COMMANDS[part]}` on {measured}."
    return "\n\n".join([title, goals, *sections])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown, with all columns but the first aligned to the right."""
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _section(name: str, results: Results) -> str:
    result, title = results[name], SCENARIOS[name].title
    texts = [f"### {title}", _source_text(result), f"Did not finish: `{result.error}`" if result.error else ""]
    if SCORED in result.runs:
        texts.append(_scored_text(result))
    elif name == "growth":
        texts.append(_growth_table(results))
    else:
        texts.append(_runs_table(result))
    if name == "10m_customers":
        texts.append(_steps_table(result))
    if MANY in result.runs:
        few, many = (result.step(run, _FIT) for run in (FEW, MANY))
        texts.append(f"Of these, the step `{_FIT}` takes {few:.2f} s with few customers, and {many:.2f} s with many.")
    return "\n\n".join(filter(None, texts))


def _source_text(result: Result) -> str:
    if result.made is None:
        return ""
    size = f", {result.made.csv_bytes / 1e9:.2f} GB as CSV" if result.made.csv_bytes else ""
    turns = max((len(runs) for runs in result.runs.values()), default=0)
    made = f"made in {result.made.seconds:,.1f} s"
    return f"{result.made.lines:,} lines{size}, {made}; {turns} turn{'s' if turns != 1 else ''}."


def _runs_table(result: Result) -> str:
    others = [name for name in (SCRIPT, LIMIT) if name in result.runs]
    head = ["", "time", *(f"x {name}" for name in others), "peak memory", "disk", "peak of disk"]
    rows = []
    for run in result.runs:
        disk = [result.middle(run, metric) for metric in ("disk", "peak_disk")]
        rows.append(
            [
                run,
                f"{result.middle(run, 'seconds'):,.2f} s",
                *(
                    f"{result.ratio(run, other, 'seconds'):.2f}"
                    for other in others
                    if _in_same_turns(result, run, other)
                ),
                f"{result.middle(run, 'memory'):,.0f} MB",
                *(f"{size:,.0f} MB" if size and run not in others else "" for size in disk),
            ]
        )
    return table(head, rows)


def _in_same_turns(result: Result, run: str, other: str) -> bool:
    return len(result.runs[run]) == len(result.runs[other])


def _growth_table(results: Results) -> str:
    """Return the time of each step for both sizes, the longest first."""
    if "54m" not in results or FIRST not in results["54m"].runs or FIRST not in results["growth"].runs:
        return "The first run of both sizes is needed."
    times = line_ratio(results)
    small, large = results["growth"], results["54m"]
    rows = [("whole process", small.middle(FIRST, "seconds"), large.middle(FIRST, "seconds"))]
    steps = [step for step in large.runs[FIRST][0].steps if step in small.runs[FIRST][0].steps]
    rows += sorted(
        ((f"`{step}`", small.step(FIRST, step), large.step(FIRST, step)) for step in steps), key=lambda row: -row[2]
    )
    text = (
        f"With {times:.0f} times the lines, the first run takes {rows[0][2] / rows[0][1]:.1f} times as long: the"
        f" exponent is {growth(results):.2f}, where 1 is proportional, 0 constant. Steps of less than 0.1 s have none."
    )
    cells = [
        (name, f"{few:,.2f} s", f"{many:,.2f} s", f"{exponent(few, many, times):.2f}" if min(few, many) >= 0.1 else "")
        for name, few, many in rows
    ]
    head = (
        "first run",
        *(f"{one.made.lines / 1e6:.1f} million lines" for one in (small, large) if one.made),
        "exponent",
    )
    return f"{text}\n\n{table(head, cells)}"


def _steps_table(result: Result) -> str:
    """Return the time of the longest steps of each run of the pipeline."""
    runs = [run for run in result.runs if run != LIMIT]
    steps = {step for run in runs for step in result.runs[run][0].steps}
    times = {
        step: [result.step(run, step) if step in result.runs[run][0].steps else 0.0 for run in runs] for step in steps
    }
    longest = sorted(steps, key=lambda step: (-max(times[step]), step))[:_LONGEST_STEPS]
    rows = [(f"`{step}`", *(f"{seconds:,.2f} s" for seconds in times[step])) for step in longest]
    return f"The longest steps:\n\n{table(('step', *runs), rows)}"


def _scored_text(result: Result) -> str:
    seconds = result.middle(SCORED, "seconds")
    return (
        f"The function of a release over {GENERATED:,} generated customers, counted by segment: {seconds:.2f} s, or"
        f" {seconds / GENERATED * 1e9:.0f} ns a customer."
    )


def _marked(part: str, text: str) -> str:
    return f"<!-- {part} -->\n\n{text.strip()}\n\n<!-- end of {part} -->\n"


def _part(page: str, part: str) -> str:
    found = re.search(rf"<!-- {part} -->\n(.*?)<!-- end of {part} -->", page, re.DOTALL)
    return found[1].strip() if found else ""
