"""``elastictool runs``: list, show and compare runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from elastictool.cli.commands import Command, program
from elastictool.cli.console import log, log_lines, print_json, print_table
from elastictool.cli.loading import locate_run
from elastictool.cli.options import JsonOption, RunChoice, grouped
from elastictool.utils.errors import UsageError, WriteError

if TYPE_CHECKING:
    from elastictool.reporting.runs import RunSummary

app = program(invoke_without_command=True)

Sort = Literal["updated", "name", "score"]
RootOption = Annotated[
    Path | None, typer.Option(help="Folder of the run directories (default: runs).")
]
SortOption = Annotated[
    Sort,
    typer.Option(help="Order: newest first, by name, or by test (else validation) score."),
]


@app.callback()
def runs(
    context: typer.Context,
    root: RootOption = None,
    sort: SortOption = "updated",
    json_output: JsonOption = False,
) -> None:
    """List, show and compare runs.

    Example: elastictool runs --sort score
    """
    if context.invoked_subcommand is None:
        list_(root, sort, json_output)
    elif json_output or root is not None or sort != "updated":
        raise UsageError(
            f"options of the list come before {context.invoked_subcommand!r}",
            f"put them after it: elastictool runs {context.invoked_subcommand} ... --json",
        )


@app.command("list", cls=Command)
def list_(
    root: RootOption = None,
    sort: SortOption = "updated",
    json_output: JsonOption = False,
) -> None:
    """List runs with their data, model, epochs, scores and state.

    A directory that cannot be read is listed as broken, with the reason.

    Example: elastictool runs list --sort score
    """
    from elastictool.checkpoint.find import RUNS_ROOT
    from elastictool.reporting.runs import list_runs

    root = root or RUNS_ROOT
    found = list_runs(root, sort)
    if json_output:
        print_json({"root": str(root), "runs": [run.document() for run in found]})
        return
    if not found:
        log(f"{root} holds no runs; make one: elastictool train")
        return
    columns = ["run", "data", "model", "epochs", "best validation", "test", "age"]
    print_table(f"runs in {root}", columns, [_row(run) for run in found])
    for run in found:
        if run.problem:
            log(f"{run.path}: {run.problem}")


def _row(run: RunSummary) -> list[str]:
    from elastictool.reporting.tables import EMPTY, age, score_text

    return [
        Path(run.path).name,
        run.dataset or EMPTY,
        run.model or EMPTY,
        f"{run.epoch}/{run.epochs} {run.state}" if run.epochs else run.state,
        score_text(run.metric, run.best),
        score_text(run.test.metric, run.test.value) if run.test else EMPTY,
        age(run.age_s),
    ]


@app.command("show", cls=Command)
@grouped
def show(
    run: RunChoice = RunChoice(),
    html: Annotated[
        bool, typer.Option("--html", help="Write report.html, too: one page with everything.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Show one run and draw its learning curves.

    Writes figures/learning_curves.png and .svg into the run directory.

    Example: elastictool runs show synth-elasticast --html
    """
    from elastictool.reporting.learning_curves import plot_learning_curves
    from elastictool.reporting.run_report import curves_title, overview_rows, write_report
    from elastictool.reporting.runs import changed_settings, read_config, summarise

    path = _directory(run.text)
    summary, config = summarise(path), read_config(path)
    changed = changed_settings(config)
    files: list[Path] = []
    unwritten = None
    try:
        files = write_report(path) if html else plot_learning_curves(path, curves_title(summary))
    except WriteError as error:  # another user's run, a read-only disk
        if html:
            raise
        unwritten = error.message
    if json_output:
        document = summary.document() | {"settings": changed}
        print_json(document | {"files": [str(file) for file in files]})
        if unwritten:
            log(f"warning: {unwritten}")
        return
    print_table(f"run {path}", ["what", "value"], overview_rows(summary))
    print_table("settings that are not the defaults", ["setting", "value"], list(changed.items()))
    if summary.problem:
        log(f"problem: {summary.problem}")
    if unwritten:
        log(f"warning: {unwritten}")
    elif not files:
        log("no learning curves: nothing is logged yet")
    log_lines("wrote ", files)


@app.command("compare", cls=Command)
def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(help="Runs to compare, two or more: directories or names under runs/."),
    ] = None,
    more_runs: Annotated[
        list[str] | None, typer.Option("--run", "-r", help="Run to compare, too; repeatable.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Compare the scores and the differing settings of runs.

    Example: elastictool runs compare synth-elasticast synth-ast-128
    """
    from elastictool.reporting.run_report import overview_rows
    from elastictool.reporting.runs import differing_settings, read_config, summarise

    named = [*(runs or []), *(more_runs or [])]
    if len(named) < 2:
        raise UsageError("one run cannot be compared", "name two or more: elastictool runs list")
    paths = [_directory(text) for text in named]
    summaries = [summarise(path) for path in paths]
    differing = differing_settings([read_config(path) for path in paths])
    if json_output:
        documents = [summary.document() for summary in summaries]
        print_json({"runs": documents, "differing_settings": differing})
        return
    overviews = [{row[0]: row[1] for row in overview_rows(summary)} for summary in summaries]
    rows: list[list[Any]] = [
        [what, *(overview.get(what, "") for overview in overviews)]
        for what in dict.fromkeys(what for overview in overviews for what in overview)
    ]
    names = [path.name for path in paths]
    print_table("scores", ["what", *names], rows)
    if not differing:
        log("their settings are the same")
        return
    print_table(
        "settings in which they differ",
        ["setting", *names],
        [[key, *values] for key, values in differing.items()],
    )


def _directory(text: str) -> Path:
    """Returns a run directory, by path or by name under runs/, or the latest.

    Raises:
        UsageError: There is none, or it is no directory.
    """
    path = locate_run(text, trained=False)
    if not path.is_dir():
        raise UsageError(f"{path} is a file, not a run directory", "name its directory")
    return path
