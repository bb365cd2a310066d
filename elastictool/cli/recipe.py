"""``elastictool recipe``: make the papers' figures and tables, each with one command."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from elastictool.cli.commands import Command, program
from elastictool.cli.console import log, log_lines, print_json, print_table, progress
from elastictool.cli.options import JsonOption, grouped, option
from elastictool.cli.ranges import parse_numbers, parse_numbers_or_zero
from elastictool.utils.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from elastictool.recipes.plan import Plan
    from elastictool.recipes.spec import Recipe

app = program(name="recipe", help="Make the figures and tables of the papers.")

NameArgument = Annotated[
    str, typer.Argument(help="Recipe, e.g. elasticast/fig4_voxceleb, or fig4_voxceleb.")
]
ScaleOption = Annotated[
    Literal["paper", "small", "smoke"],
    typer.Option(
        help="Scale: paper (the paper's data and model), small (small real data, narrow model) "
        "or smoke (rendered clips, seconds)."
    ),
]


@dataclass(frozen=True)
class Choice:
    """Where data and results are, and which seeds and folds to train."""

    data: Path = option(Path("data/raw"), "Folder of the recipe's data and weights (see show).")
    out: Path = option(
        Path("runs/recipes"), "Folder for prepared data, runs and results, a subfolder a scale."
    )
    seeds: str = option(
        "", "Seeds to train every run with, e.g. 0,1,2 or 0:2; 3 is seed 3 (default: the recipe's)."
    )
    folds: str = option("", "Test folds to run, of data that have several, e.g. 1,2.")

    def plan(self, name: str, scale: str) -> Plan:
        """Returns the plan of a recipe."""
        from elastictool.recipes.library import full_name, load_recipe
        from elastictool.recipes.plan import Paths, make_plan
        from elastictool.recipes.spec import Repeats

        repeats = Repeats(
            tuple(parse_numbers_or_zero(self.seeds, "--seeds")) if self.seeds else (),
            tuple(parse_numbers([self.folds], "--folds")) if self.folds else (),
        )
        return make_plan(load_recipe(full_name(name)), scale, Paths(self.data, self.out), repeats)


@dataclass(frozen=True)
class Planning:
    """Whether to estimate the cost only."""

    dry_run: bool = option(False, "Show the steps with their estimated cost, and stop.")
    throughput: float = option(
        0.0, "Training speed in GFLOP/s, for --dry-run (0: measured on this machine).", min=0
    )


@app.command("list", cls=Command)
def list_(json_output: JsonOption = False) -> None:
    """List the recipes of figures and tables, and those of trainings.

    Example: elastictool recipe list
    """
    from elastictool.config.recipe_file import training_recipes
    from elastictool.recipes.library import described_training, load_recipe, recipe_names
    from elastictool.reporting.published import FIGURE_ONLY

    recipes = [load_recipe(name) for name in recipe_names()]
    trainings = [(name, described_training(name)[1]) for name in training_recipes()]
    if json_output:
        print_json(
            [
                {
                    "name": recipe.name,
                    "kind": "figure",
                    "title": recipe.title,
                    "published": recipe.published.table if recipe.published else None,
                }
                for recipe in recipes
            ]
            + [{"name": name, "kind": "training", "title": text} for name, text in trainings]
        )
        return
    rows = [
        (recipe.name, recipe.title, "numbers" if recipe.published else FIGURE_ONLY)
        for recipe in recipes
    ]
    print_table("recipes of figures and tables", ("name", "figure or table", "published"), rows)
    firsts = [(name, re.split(r"(?<!\.)\.(?: |$)", text)[0]) for name, text in trainings]
    print_table("recipes of trainings (train --recipe NAME)", ("name", "what it trains"), firsts)
    log("next: elastictool recipe run elasticast/fig4_voxceleb --scale smoke")


@app.command("show", cls=Command)
@grouped
def show(
    name: NameArgument,
    scale: ScaleOption = "paper",
    choice: Choice = Choice(),
    json_output: JsonOption = False,
) -> None:
    """Show the claims, settings, steps and needs of a recipe.

    Of a training recipe it shows the settings, those of recipes that it extends included.

    Example: elastictool recipe show elasticast/fig5_vggsound --scale paper

    Example: elastictool recipe show small_data
    """
    from elastictool.config.recipe_file import training_recipes

    training = name.removesuffix(".yaml").removeprefix("recipes/")
    if training in training_recipes():
        _show_training(training, json_output)
        return
    plan = choice.plan(name, scale)
    recipe = plan.recipe
    if json_output:
        print_json(
            plan.document() | {"sources": dict(recipe.sources), "deviations": recipe.deviations}
        )
        return
    from elastictool.recipes.library import recipe_file
    from elastictool.reporting.claims import statement

    log(f"{recipe.title} ({recipe_file(recipe.name)})")
    log(f"shows: {recipe.shows}")
    log(f"{scale}: {plan.scale.description}")
    for claim in plan.scale.claims:
        log(f"claim: {statement(claim)}" + (f" [{claim.source}]" if claim.source else ""))
    if scale == "paper":
        if rows := _settings(recipe):
            print_table("settings of the paper's runs", ("setting", "value", "source"), rows)
        log_lines("paper and published code differ: ", recipe.deviations)
    steps = [(step.name, step.kind, step.state, str(step.path)) for step in plan.steps]
    print_table("steps", ("step", "kind", "state", "folder"), steps)
    _log_needs(plan)


@app.command("run", cls=Command)
@grouped
def run(
    name: NameArgument,
    scale: ScaleOption = "smoke",
    choice: Choice = Choice(),
    planning: Planning = Planning(),
    json_output: JsonOption = False,
) -> None:
    """Make a figure or table and judge the claims of its paper.

    Runs the steps of the recipe: prepare, train, evaluate, sweep, draw. Finished steps are
    skipped, stopped ones continue. Writes the figure (PNG, SVG), a table with the published
    numbers, and result.json.

    Example: elastictool recipe run elasticast/fig4_voxceleb --scale smoke

    Example: elastictool recipe run flexiast/table1_vggsound --scale small --data data/raw

    Example: elastictool recipe run elasticast/fig5_audioset --scale paper --dry-run
    """
    if planning.throughput and not planning.dry_run:
        raise UsageError("--throughput goes with --dry-run", "leave it out")
    plan = choice.plan(name, scale)
    if planning.dry_run:
        _show_costs(plan, planning.throughput, json_output)
        return
    from elastictool.recipes.run import run_plan
    from elastictool.reporting.tables import read_json

    finished = run_plan(lambda: choice.plan(name, scale), progress())
    result = read_json(finished.result / "result.json")
    files = [str(path) for path in sorted(finished.result.iterdir()) if path.name != "step.json"]
    if json_output:
        print_json(result | {"files": files})
        return
    _show_result(result)
    log_lines("wrote ", files)


def _show_training(name: str, json_output: bool) -> None:
    """Prints the description and the settings of a training recipe."""
    from elastictool.config.loader import read_settings
    from elastictool.recipes.library import described_training, recipe_file

    (command, text), settings = described_training(name), read_settings(recipe_file(name))
    if json_output:
        print_json({"recipe": name, "kind": "training", "title": text, "settings": settings})
        return
    log(f"{name} ({recipe_file(name)})")
    log(text)
    print_table("settings that are not the defaults", ("setting", "value"), list(settings.items()))
    log(f"next: {command}")


def _settings(recipe: Recipe) -> list[tuple[str, str, str]]:
    """Returns (setting, value or values, source) of scale ``paper``."""
    from elastictool.recipes.library import own_settings

    return [
        (key, "; ".join(values), recipe.sources.get(key, ""))
        for key, values in own_settings(recipe.name).items()
    ]


def _show_costs(plan: Plan, throughput: float, json_output: bool) -> None:
    from elastictool.recipes.cost import estimate

    found = estimate(plan, throughput)
    if json_output:
        print_json(plan.document() | found)
        return
    rows = [_cost_row(step.name, step.state, found["costs"][step.name]) for step in plan.steps]
    rows.append(_cost_row("total to do", "", found["total"]))
    columns = ("step", "state", "clips", "tokens", "TFLOP", "hours")
    print_table(f"{plan.recipe.title}: {plan.scale_name}", columns, rows)
    if speed := found["gflops_per_second"]:
        log(
            f"hours are for {speed:,.1f} GFLOP/s ({found['throughput_source']}), without decoding, "
            "filterbanks and validation"
        )
    _log_needs(plan)


def _cost_row(name: str, state: str, cost: Mapping[str, Any]) -> list[str]:
    from elastictool.reporting.tables import EMPTY

    hours = cost["hours"] if cost["gflops"] else None
    return [
        name,
        state,
        f"{cost['clips']:,}" if cost["clips"] else EMPTY,
        f"{cost['tokens']:,}" if cost["tokens"] else EMPTY,
        f"{cost['gflops'] / 1000:,.2f}" if cost["gflops"] else EMPTY,
        EMPTY if hours is None else f"{hours:,.2f}",
    ]


def _log_needs(plan: Plan) -> None:
    for title, path, hint in plan.missing:
        log(f"needs: {title}: {path} is not there" + (f" ({hint})" if hint else ""))


def _show_result(result: Mapping[str, Any]) -> None:
    """Prints the tables, then the verdict on each claim."""
    from elastictool.reporting.recipe_table import histogram_cells, panel_cells, scores_note

    if "histograms" in result:
        print_table(result["title"], *histogram_cells(result))
    for panel in result.get("panels", []):
        title = f"{panel['y']}, %, {panel['title']}{scores_note(result)}"
        print_table(title, *panel_cells(panel, result, intervals=False))
    log_lines("claim: ", (verdict["words"] for verdict in result["verdicts"]))
    if scores_note(result):
        log("note: this shows that the steps work; --scale small and paper judge the claims")
