"""Tests of the start of the command: what it imports, what `--help` says, and what the shell completes."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from segmentation_pipeline.cli.app import app
from segmentation_pipeline_tests.shops import Shop

SLOW_MODULES = ("dagster", "duckdb", "numpy", "pandas", "pydantic", "requests", "sklearn", "sqlalchemy", "yaml")


def commands(command: Any = None, name: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command and group with its name."""
    command = command or typer.main.get_command(app)
    yield name, command
    for child, found in getattr(command, "commands", {}).items():
        yield from commands(found, (*name, child))


NAMES = [name for name, _ in commands()]


def test_help_imports_no_slow_module() -> None:
    """With these imports `segments --help` took 0.94 s, without them 0.15 s."""
    script = (
        "import sys; from segmentation_pipeline.cli.app import app; app(['--help'], standalone_mode=False);"
        f" print('SLOW', [name for name in {SLOW_MODULES} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.endswith("SLOW []\n"), ran.stdout


@pytest.mark.parametrize("name", NAMES, ids=" ".join)
def test_every_command_describes_itself_with_an_example(name: tuple[str, ...]) -> None:
    helped = CliRunner().invoke(app, [*name, "--help"], env={"COLUMNS": "120"})
    assert helped.exit_code == 0
    assert "Usage: " in helped.stdout
    assert re.search(rf"Examples?:\s.*segments {' '.join(name)}", helped.stdout, re.DOTALL)


def _note(called: list[str], name: str, **_: object) -> None:
    called.append(name)


def test_every_example_is_a_command_that_exists() -> None:
    root, called = typer.main.get_command(app), list[str]()
    examples = []
    for name, command in commands(root):
        command.callback = partial(_note, called, " ".join(name))
        text = "\n".join(filter(None, (command.help, command.epilog)))
        examples += re.findall(r"segments [^)\n]+", re.split("Examples?:", text)[-1])
    assert len(examples) > len(NAMES)
    for example in examples:
        if "--install-completion" in example:
            # It would change the files of this user's shell.
            continue
        called.clear()
        with pytest.raises(SystemExit) as ended:
            root.main(shlex.split(example)[1:], prog_name="segments")
        assert (ended.value.code, called[-1] in example) == (0, True), example


def completed(line: str, shell: str = "bash", **environment: str) -> list[str]:
    """Return what a shell is offered at the end of a line."""
    words = line.split(" ")
    asked = {
        "bash": {"COMP_WORDS": line.replace(" ", "\n"), "COMP_CWORD": str(len(words) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": line},
        "fish": {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    environment |= {"_SEGMENTS_COMPLETE": f"complete_{shell}", **asked}
    result = CliRunner().invoke(app, [], env=environment, prog_name="segments")
    return result.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands_and_retailers(shell: str) -> None:
    assert any("status" in word for word in completed("segments sta", shell))
    assert "online_retail_ii" in " ".join(completed("segments run --retailer online", shell))


def test_completion_offers_retailer_files_tables_and_releases(
    finished_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished_shop.folder)
    assert "retailer.toml" in completed("segments run --retailer re")
    assert completed(f"segments run --retailer {finished_shop.folder}/ret") == [str(finished_shop.retailer)]
    assert completed("segments export customer_s") == ["customer_segments"]
    named = completed(f"segments releases rollback --retailer {finished_shop.retailer} 0")
    assert named == [finished_shop.release.name]
    assert completed("segments releases rollback 0") == [finished_shop.release.name], "of the environment"
    assert completed("segments restore 0", SEGMENTATION_RETAILER="nowhere.toml") == []


def test_completion_imports_no_slow_module() -> None:
    script = (
        "import sys; from segmentation_pipeline.cli import completion;"
        " completion.retailers(''); completion.tables('');"
        f" print([name for name in {SLOW_MODULES} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
