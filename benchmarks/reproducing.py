"""Make the table of ``docs/reproducing.md`` from the recipes and the results of running them.

    python -m benchmarks.reproducing                              write it
    python -m benchmarks.reproducing --collect runs/recipes/small take results into docs first
    python -m benchmarks.reproducing --render                     draw what is in docs anew first
    python -m benchmarks.reproducing --check                      fail if pages are not as written

The needs of a recipe come from its plan at scale ``paper``, its result from the committed document
at scale ``small``; a recipe without one is "not run yet". Figures and pages of the results are made
from the same documents, without data or trainings.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.pages import RESULTS as ALL_RESULTS
from benchmarks.pages import ROOT, dump_summary, fill, save_png
from elastictool.recipes.cost import Cost, plan_costs
from elastictool.recipes.library import load_recipe, recipe_names
from elastictool.recipes.plan import Paths, Plan, make_plan
from elastictool.recipes.result import with_verdicts
from elastictool.recipes.spec import Recipe
from elastictool.reporting.recipe_figure import draw
from elastictool.reporting.recipe_table import held_words, page
from elastictool.reporting.tables import duration, markdown_table, read_json
from elastictool.utils.io import write_text
from elastictool.utils.text import counted

PAGE = ROOT / "docs" / "reproducing.md"
RESULTS = ALL_RESULTS / "recipes"
COLUMNS = ("figure or table", "command", "needs at paper scale", "result (small)")


def table() -> str:
    """Return the table, one row a recipe."""
    rows = [row(load_recipe(name)) for name in recipe_names()]
    return markdown_table(COLUMNS, rows, left=len(COLUMNS))


def row(recipe: Recipe) -> list[str]:
    """Return the cells of one recipe."""
    return [
        recipe.title,
        f"`elastictool recipe run {recipe.name}`",
        needs(plan_of(recipe, "paper")),
        obtained(recipe),
    ]


def plan_of(recipe: Recipe, scale: str) -> Plan:
    """Return its steps before anything is done."""
    return make_plan(recipe, scale, Paths(Path("DIR"), Path("OUT")))


def needs(plan: Plan) -> str:
    """Return data, weights and operations of scale ``paper``."""
    weights = [spec.path for spec in plan.scale.weights.values()]
    inputs = ", ".join(
        title.partition(",")[0] if place in weights else f"`{place}`"
        for title, path, _ in plan.missing
        for place in [str(path.relative_to("DIR"))]
    )
    trainings = sum(step.kind == "train" for step in plan.steps)
    if not trainings:
        return f"{inputs}; no training"
    total = sum(plan_costs(plan).values(), Cost())
    return f"{inputs}; {counted(trainings, 'training')}, {total.gflops / 1e9:,.1f} EFLOP"


def obtained(recipe: Recipe) -> str:
    """Return how many claims hold on small data, the link to the page, and the training time."""
    file = RESULTS / "small" / f"{recipe.name}.json"
    if not file.exists():
        return "not run yet"
    result = read_json(file)
    held = held_words(result["verdicts"]) or "no claim is judged"
    words = f"[{held}](results/recipes/small/{recipe.name}.md)"
    return "; ".join(filter(None, (words, _training_words(recipe, result["made"]))))


def _training_words(recipe: Recipe, made: dict[str, Any]) -> str:
    """Return number and time of its trainings, or the recipe that they belong to."""
    if not made["trainings"]:
        return ""
    if words := shared_runs(recipe):
        return words
    return f"{counted(made['trainings'], 'training')}, {duration(made['train_seconds'])}"


def shared_runs(recipe: Recipe) -> str:
    """Return the recipe whose trainings it shows at scale ``small``; empty if it has its own."""
    own = _trained(recipe.name)
    for other in recipe.scale("small").include:
        included = _trained(other)
        if own <= included:
            return f"{'same runs as' if own == included else 'runs of'} `{other}`"
    return ""


@cache
def _trained(name: str) -> frozenset[str]:
    """Return the names of its trainings at scale ``small``; equal names are the same run."""
    plan = plan_of(load_recipe(name), "small")
    return frozenset(step.name for step in plan.steps if step.kind == "train")


def collect(folder: Path) -> list[Path]:
    """Copy the document of each result below ``folder`` (one scale) into docs."""
    copied = []
    for name in recipe_names():
        source, target = folder / name, RESULTS / folder.name / name
        if not (source / "result.json").exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / "result.json", target.with_suffix(".json"))
        copied.append(target)
    return copied


def committed() -> list[Path]:
    """Return the documents of all results below docs."""
    return sorted(RESULTS.glob("*/*/*.json"))


def pages() -> dict[Path, str]:
    """Return every generated text by its file."""
    results = {file: with_verdicts(read_json(file)) for file in committed()}
    texts = {file.with_suffix(".md"): page(result) for file, result in results.items()}
    return texts | {PAGE: fill(PAGE.read_text("utf-8"), "recipes", table())}


def render() -> list[Path]:
    """Write figure, page and verdicts of each result below docs from its numbers."""
    for file in committed():
        result = with_verdicts(read_json(file))
        write_text(file, dump_summary(result))
        save_png(draw(result), file.with_suffix(".png"))
        write_text(file.with_suffix(".md"), page(result))
    return committed()


def main() -> None:
    """Collect and render if asked, then write or check the pages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--collect", type=Path, help="folder of one scale below runs/recipes")
    parser.add_argument("--render", action="store_true", help="figures and pages from their JSON")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.collect is not None:
        for target in collect(arguments.collect):
            print(f"took {target.relative_to(ROOT)}", file=sys.stderr)
    if arguments.render or arguments.collect is not None:
        for file in render():
            print(f"rendered {file.relative_to(ROOT)}", file=sys.stderr)
    texts = pages()
    if arguments.check:
        stale = [str(p.relative_to(ROOT)) for p, text in texts.items() if p.read_text() != text]
        sys.exit(f"not what recipes and results say: {', '.join(stale)}" if stale else 0)
    write_text(PAGE, texts[PAGE])


if __name__ == "__main__":
    main()
