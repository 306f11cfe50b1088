"""The command `segments`: its commands, options and exit codes (0: done, 1: the run failed, 2: invalid input).

Declares the commands. Each imports its implementation when it is called, so that `--help` and completion are fast.
"""

from pathlib import Path
from typing import Annotated

import typer

from segmentation_pipeline.cli import completion
from segmentation_pipeline.cli.encoding import allow_any_text

RetailerOption = Annotated[
    str,
    typer.Option(
        "--retailer",
        "-r",
        envvar="SEGMENTATION_RETAILER",
        help="Name of a shipped retailer, or a retailer file.",
        autocompletion=completion.retailers,
    ),
]
SourceOption = Annotated[
    str,
    typer.Option(
        envvar="SEGMENTATION_SOURCE", help="File, folder or pattern to read instead of the retailer file's source.path."
    ),
]
TracebackOption = Annotated[bool, typer.Option("--traceback", help="Show the traceback of an error.")]


def _examples(*commands: str) -> str:
    """Return examples as they are shown below the options of a command, one a line."""
    return "\n\n".join([f"Example{'s' if len(commands) > 1 else ''}:", *commands])


allow_any_text()
app = typer.Typer(
    no_args_is_help=True,
    help="Customer segments from retail transactions. Start with `segments run`.",
    epilog=_examples("segments run", "segments status --json", "segments --install-completion"),
    pretty_exceptions_enable=False,
)
releases_app = typer.Typer(
    invoke_without_command=True,
    help="List, verify and roll back the published releases, and resume publishing.",
    epilog=_examples("segments releases", "segments releases verify"),
)
retailer_app = typer.Typer(
    no_args_is_help=True, help="Write and check retailer files.", epilog=_examples("segments retailer check shop.toml")
)
model_app = typer.Typer(
    no_args_is_help=True,
    help="List, promote and roll back the models, and search for segments.",
    epilog=_examples("segments model list"),
)
app.add_typer(releases_app, name="releases")
app.add_typer(retailer_app, name="retailer")
app.add_typer(model_app, name="model")


@app.command(epilog=_examples("segments run", "segments run --retailer shop.toml --as-of 2024-10-31 --verbose"))
def run(
    retailer: RetailerOption = "sample",
    source: SourceOption = "",
    as_of: Annotated[
        str,
        typer.Option(
            help="Replaces the retailer file's rfm.as_of: 2024-10-31 (that whole day counts), last_transaction,"
            " end_of_day or schedule."
        ),
    ] = "",
    refit: Annotated[bool, typer.Option("--refit", help="Fit a new model even where none is due.")] = False,
    accept_change: Annotated[
        bool,
        typer.Option(
            "--accept-change", help="Publish although the release checks report a change, and activate a fitted model."
        ),
    ] = False,
    reload: Annotated[
        bool, typer.Option("--reload", help="Read every file again, and delete the lines of missing files.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print which SQL statements took most of the time, and for what.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print each step with its rows and its time.")
    ] = False,
    traceback: TracebackOption = False,
) -> None:
    """Read the source, derive every table and publish a release."""
    from segmentation_pipeline.cli.run import RunRequest, run

    run(
        RunRequest(
            retailer,
            source=source,
            as_of=as_of,
            refit=refit,
            accept_change=accept_change,
            reload=reload,
            explain=explain,
            verbose=verbose,
            traceback=traceback,
        )
    )


@app.command(epilog=_examples("segments show --retailer shop.toml"))
def show(retailer: RetailerOption = "sample", traceback: TracebackOption = False) -> None:
    """Show the segments of the current release."""
    from segmentation_pipeline.cli.show import show

    show(retailer, traceback)


@app.command(epilog=_examples("segments status", "segments status --retailer shop.toml --max-age 26 --json"))
def status(
    retailer: RetailerOption = "sample",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, which docs/operations.md describes.")] = False,
    max_age: Annotated[
        float | None,
        typer.Option(
            min=0,
            metavar="HOURS",
            help="The age from which the release is stale. Default: 26 while the daemon runs the nightly schedule.",
            show_default=False,
        ),
    ] = None,
    traceback: TracebackOption = False,
) -> None:
    """Show the last runs, the release and its age, schedules, and anything wrong with what to do.

    Exit codes, as monitoring systems expect them: 0 in order, 1 warning, 2 error, 3 the status cannot be found out.
    """
    from segmentation_pipeline.cli.status import status

    status(retailer, as_json=as_json, max_age_hours=max_age, traceback=traceback)


@app.command(epilog=_examples("export DAGSTER_HOME=$(segments home)"))
def home(traceback: TracebackOption = False) -> None:
    """Create Dagster's folder and print its path."""
    from segmentation_pipeline.cli.console import exit_on_user_error
    from segmentation_pipeline.orchestration.instance import prepare

    with exit_on_user_error(traceback):
        typer.echo(prepare())


@app.command(epilog=_examples("segments export customer_segments --output segments.csv"))
def export(
    table: Annotated[
        str, typer.Argument(help="A published table, such as customer_segments.", autocompletion=completion.tables)
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; by default standard output.")
    ] = None,
    retailer: RetailerOption = "sample",
    traceback: TracebackOption = False,
) -> None:
    """Write a table of the current release as CSV for spreadsheets: UTF-8, with text that is not run as a formula."""
    from segmentation_pipeline.cli.releases import export_table

    export_table(table, output, retailer, traceback)


@app.command("export-dbt", epilog=_examples("segments export-dbt --retailer shop.toml --output models/segments.yml"))
def export_dbt(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; by default standard output.")
    ] = None,
    retailer: RetailerOption = "sample",
    traceback: TracebackOption = False,
) -> None:
    """Write the published tables as sources of a dbt project, with descriptions, types and tests."""
    from segmentation_pipeline.cli.releases import export_dbt

    export_dbt(output, retailer, traceback)


@app.command(epilog=_examples("segments report", "segments report --open"))
def report(
    release: Annotated[
        str,
        typer.Argument(metavar="[RELEASE]", help="By default the current release.", autocompletion=completion.releases),
    ] = "",
    open_: Annotated[bool, typer.Option("--open", help="Open the report in a browser.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Write it again, even where there is one.")] = False,
    retailer: RetailerOption = "sample",
    traceback: TracebackOption = False,
) -> None:
    """Print where the report of a release is: one page for people, which names no customer."""
    from segmentation_pipeline.cli.report import report

    report(release, retailer, open_=open_, write=write, traceback=traceback)


@app.command(epilog=_examples("segments restore 000042-20260701-0f3c9a1e --replace"))
def restore(
    release: Annotated[
        str,
        typer.Argument(help="The release's name; `segments releases` lists them.", autocompletion=completion.releases),
    ],
    retailer: RetailerOption = "sample",
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an existing working database, and keep it under another name.")
    ] = False,
    traceback: TracebackOption = False,
) -> None:
    """Create a working database with the models, segments and membership history of a release."""
    from segmentation_pipeline.cli.releases import restore_state

    restore_state(release, retailer, replace=replace, traceback=traceback)


@app.command(epilog=_examples('segments erase 12346 "ACME Ltd."'))
def erase(
    customers: Annotated[list[str], typer.Argument(metavar="CUSTOMER...", help="Customers, as the source names them.")],
    retailer: RetailerOption = "sample",
    traceback: TracebackOption = False,
) -> None:
    """Erase customers from every table and file, publish a release without them, and delete all other releases.

    Later runs leave them out, because a keyed hash of each is stored (SEGMENTATION_PRIVACY_KEY). The output lists the
    rows that named them, before and after.
    """
    from segmentation_pipeline.cli.privacy import erase

    erase(customers, retailer, traceback)


@releases_app.callback()
def list_releases(
    context: typer.Context, retailer: RetailerOption = "sample", traceback: TracebackOption = False
) -> None:
    """List the releases, oldest first."""
    if context.invoked_subcommand is None:
        from segmentation_pipeline.cli.releases import list_releases

        list_releases(retailer, traceback)


@releases_app.command(epilog=_examples("segments releases verify", "segments releases verify 000042-20260701-0f3c9a1e"))
def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RELEASE]...", help="By default all.", autocompletion=completion.releases),
    ] = None,
    retailer: RetailerOption = "sample",
    traceback: TracebackOption = False,
) -> None:
    """Read every file of the releases again and count every table; exit with 1 if a release is damaged."""
    from segmentation_pipeline.cli.releases import verify

    verify(names or (), retailer, traceback)


@releases_app.command("rollback", epilog=_examples("segments releases rollback 000042-20260701-0f3c9a1e"))
def rollback_release(
    release: Annotated[
        str,
        typer.Argument(help="The release's name; `segments releases` lists them.", autocompletion=completion.releases),
    ],
    retailer: RetailerOption = "sample",
    traceback: TracebackOption = False,
) -> None:
    """Make an earlier release current, and pause publishing until `resume`."""
    from segmentation_pipeline.cli.releases import rollback

    rollback(release, retailer, traceback)


@releases_app.command(epilog=_examples("segments releases resume"))
def resume(retailer: RetailerOption = "sample", traceback: TracebackOption = False) -> None:
    """Make the newest release current, and publish again."""
    from segmentation_pipeline.cli.releases import resume

    resume(retailer, traceback)


@retailer_app.command(epilog=_examples("segments retailer init orders.csv"))
def init(
    path: Annotated[Path, typer.Argument(help="The file or folder with the transactions.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The retailer file to write; by default NAME.toml here.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    traceback: TracebackOption = False,
) -> None:
    """Look at a source, and write a retailer file with what was found, each guess with its evidence.

    What the source does not say is left open, with the values to choose from.
    """
    from segmentation_pipeline.cli.init import init

    init(path, output, force, traceback)


@retailer_app.command(
    epilog=_examples("segments retailer check shop.toml", "segments retailer check shop.toml --sample")
)
def check(
    retailer: Annotated[
        str, typer.Argument(help="Name of a shipped retailer, or a retailer file.", autocompletion=completion.retailers)
    ] = "",
    source: SourceOption = "",
    sample: Annotated[
        bool,
        typer.Option(
            "--sample",
            help="Read 10,000 lines as a run would, and print what it would reject; exit with 1 if it would fail.",
        ),
    ] = False,
    traceback: TracebackOption = False,
) -> None:
    """Validate a retailer file and list every error in it, with its line and key."""
    from segmentation_pipeline.cli.retailer import check

    check(retailer, source, sample, traceback)


@model_app.command("list", epilog=_examples("segments model list"))
def list_models(retailer: RetailerOption = "sample", traceback: TracebackOption = False) -> None:
    """List the models with their status, oldest first, and why a model is pending approval."""
    from segmentation_pipeline.cli.model import list_models

    list_models(retailer, traceback)


@model_app.command(epilog=_examples("segments model promote 20260701-b66a93e5"))
def promote(
    model: Annotated[str, typer.Argument(help="The model's name, or its first characters.")],
    retailer: RetailerOption = "sample",
    traceback: TracebackOption = False,
) -> None:
    """Activate a pending or retired model from the next run."""
    from segmentation_pipeline.cli.model import promote

    promote(model, retailer, traceback)


@model_app.command("rollback", epilog=_examples("segments model rollback"))
def rollback_model(retailer: RetailerOption = "sample", traceback: TracebackOption = False) -> None:
    """Withdraw an approval; without one, activate the previous model from the next run."""
    from segmentation_pipeline.cli.model import rollback

    rollback(retailer, traceback)


@model_app.command(epilog=_examples("segments model search --retailer shop.toml"))
def search(retailer: RetailerOption = "sample", traceback: TracebackOption = False) -> None:
    """Run the job and choose the number of segments again; a different number is pending approval."""
    from segmentation_pipeline.cli.model import search

    search(retailer, traceback)
