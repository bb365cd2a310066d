"""``elastictool recipe``: make the papers' figures and tables, each with one command."""

from __future__ import annotations

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

    from elastictool.recipes.cost import Cost
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


@app.command("list", cls=Command)
def list_(json_output: JsonOption = False) -> None:
    """List the recipes and the figure or table that each makes.

    Example: elastictool recipe list
    """
    from elastictool.recipes.library import load_recipe, recipe_names
    from elastictool.reporting.published import FIGURE_ONLY

    recipes = [load_recipe(name) for name in recipe_names()]
    if json_output:
        print_json(
            [
                {
                    "name": recipe.name,
                    "title": recipe.title,
                    "published": recipe.published.table if recipe.published else None,
                }
                for recipe in recipes
            ]
        )
        return
    rows = [
        (recipe.name, recipe.title, "numbers" if recipe.published else FIGURE_ONLY)
        for recipe in recipes
    ]
    print_table("recipes", ("name", "figure or table", "published"), rows)
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

    Example: elastictool recipe show elasticast/fig5_vggsound --scale paper
    """
    plan = choice.plan(name, scale)
    recipe = plan.recipe
    if json_output:
        print_json(
            _document(plan) | {"sources": dict(recipe.sources), "deviations": recipe.deviations}
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
        if rows := [(key, value, source) for key, value, source in _settings(recipe)]:
            title = "settings of the paper's runs"
            print_table(title, ("setting", "value", "source"), rows)
        log_lines("paper and published code differ: ", recipe.deviations)
    steps = [(step.name, step.kind, step.state, str(step.path)) for step in plan.steps]
    print_table("steps", ("step", "kind", "state", "folder"), steps)
    for title, path, hint in plan.missing:
        log(f"needs: {title}: {path} is not there" + (f" ({hint})" if hint else ""))


@app.command("run", cls=Command)
@grouped
def run(
    name: NameArgument,
    scale: ScaleOption = "smoke",
    choice: Choice = Choice(),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the steps with their estimated cost, and stop.")
    ] = False,
    throughput: Annotated[
        float,
        typer.Option(
            min=0,
            help="Training speed in GFLOP/s, for --dry-run (0: measured on this machine).",
        ),
    ] = 0.0,
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
    if throughput and not dry_run:
        raise UsageError("--throughput goes with --dry-run", "leave it out")
    plan = choice.plan(name, scale)
    if dry_run:
        _show_costs(plan, throughput, json_output)
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


def _document(plan: Plan) -> dict[str, Any]:
    return {
        "recipe": plan.recipe.name,
        "title": plan.recipe.title,
        "scale": plan.scale_name,
        "description": plan.scale.description,
        "steps": [
            {
                "name": step.name,
                "kind": step.kind,
                "state": step.state,
                "inputs": sorted(set(step.inputs.values())),
                "folder": str(step.path),
            }
            for step in plan.steps
        ],
        "missing": [
            {"what": title, "path": str(path), "hint": hint} for title, path, hint in plan.missing
        ],
    }


def _settings(recipe: Recipe) -> list[tuple[str, str, str]]:
    """(setting, value or values, source) of scale ``paper``."""
    from elastictool.recipes.library import own_settings

    return [
        (key, "; ".join(values), recipe.sources.get(key, ""))
        for key, values in own_settings(recipe.name).items()
    ]


def _show_costs(plan: Plan, throughput: float, json_output: bool) -> None:
    from elastictool.recipes.cost import (
        Cost,
        finished_throughput,
        measured_throughput,
        plan_costs,
    )

    costs = plan_costs(plan)
    source = "as given"
    if not throughput:
        found, source = finished_throughput(plan, costs), "measured on finished trainings"
        if found is None:
            found, source = measured_throughput(plan), "measured on training steps, here and now"
        throughput = found or 0.0
    waiting = [step for step in plan.steps if step.state != "done"]
    total = sum((costs[step.name] for step in waiting), Cost())
    if json_output:
        print_json(
            _document(plan)
            | {
                "costs": {
                    name: {**vars(cost), "hours": _hours(cost, throughput)}
                    for name, cost in costs.items()
                },
                "total": {**vars(total), "hours": _hours(total, throughput)},
                "gflops_per_second": throughput or None,
                "throughput_source": source if throughput else None,
            }
        )
        return
    rows = [_cost_row(step.name, step.state, costs[step.name], throughput) for step in plan.steps]
    rows.append(_cost_row("total to do", "", total, throughput))
    columns = ("step", "state", "clips", "tokens", "TFLOP", "hours")
    print_table(f"{plan.recipe.title}: {plan.scale_name}", columns, rows)
    if throughput:
        log(
            f"hours are for {throughput:,.1f} GFLOP/s ({source}), without decoding, filterbanks "
            "and validation"
        )
    for title, path, _ in plan.missing:
        log(f"needs: {title}: {path} is not there")


def _hours(cost: Cost, throughput: float) -> float | None:
    return round(cost.gflops / throughput / 3600, 4) if throughput else None


def _cost_row(name: str, state: str, cost: Cost, throughput: float) -> list[str]:
    from elastictool.reporting.tables import EMPTY

    hours = _hours(cost, throughput)
    return [
        name,
        state,
        f"{cost.clips:,}" if cost.clips else EMPTY,
        f"{cost.tokens:,}" if cost.tokens else EMPTY,
        f"{cost.gflops / 1000:,.2f}" if cost.gflops else EMPTY,
        f"{hours:,.2f}" if hours and cost.gflops else EMPTY,
    ]


def _show_result(result: Mapping[str, Any]) -> None:
    """Prints the tables, then the verdict on each claim."""
    from elastictool.reporting.recipe_table import histogram_cells, panel_cells

    if "histograms" in result:
        print_table(result["title"], *histogram_cells(result))
    for panel in result.get("panels", []):
        print_table(
            f"{panel['y']}, %, {panel['title']}", *panel_cells(panel, result, intervals=False)
        )
    log_lines("claim: ", (verdict["words"] for verdict in result["verdicts"]))
