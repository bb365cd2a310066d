"""Make the table of ``docs/reproducing.md`` from the recipes and the results of running them.

    python -m benchmarks.reproducing                              write it
    python -m benchmarks.reproducing --collect runs/recipes/small take results into docs first
    python -m benchmarks.reproducing --check                      fail if it is not what this writes

What the paper reports comes from the published tables, what was obtained from the ``result.json``
of each recipe that was run; a recipe without one is "not run yet".
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.pages import fill
from elastictool.files import write_text
from elastictool.recipes.cost import Cost, plan_costs
from elastictool.recipes.library import load_recipe, recipe_names
from elastictool.recipes.plan import Places, Plan, make_plan
from elastictool.recipes.spec import Recipe
from elastictool.reporting.published import (
    FIGURE_ONLY,
    own_score,
    published_curves,
    published_tokens,
)
from elastictool.reporting.tables import markdown_table, percent

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reproducing.md"
RESULTS = ROOT / "docs" / "results" / "recipes"
SHOWN_SCALES = ("paper", "small")
COLUMNS = ("figure or table", "command", "needs", "paper reports", "obtained, and on what")


def table() -> str:
    """A row a recipe."""
    return markdown_table(COLUMNS, [row(load_recipe(name)) for name in recipe_names()])


def row(recipe: Recipe) -> list[str]:
    """The cells of one recipe."""
    plan = make_plan(recipe, "paper", Places(Path("DIR"), Path("OUT")))
    found = [obtained(recipe, scale) for scale in SHOWN_SCALES]
    return [
        recipe.title,
        f"`elastictool recipe run {recipe.name}`",
        needs(plan),
        reported(recipe),
        "<br>".join(text for text in found if text) or "not run yet",
    ]


def needs(plan: Plan) -> str:
    """Data, weights and operations of scale ``paper``."""
    files = ", ".join(f"`{path.relative_to('DIR')}`" for _, path, _ in plan.missing)
    total = sum(plan_costs(plan).values(), Cost())
    trainings = sum(step.kind == "train" for step in plan.steps)
    if not trainings:
        return f"{files}; no training"
    return f"{files}; {trainings} trainings, {total.gflops / 1e9:,.1f} EFLOP"


def reported(recipe: Recipe) -> str:
    """The published scores at each model's own setting, or that there is a picture only."""
    if recipe.published is None:
        return FIGURE_ONLY
    if "token" in recipe.published.table:
        shares = published_tokens(recipe.published.dataset)
        return "; ".join(
            f"{model}: padding {_share(padding)}, cut {_share(cut)}"
            for model, (padding, cut) in shares.items()
        )
    curves = published_curves(recipe.published.table, recipe.published.dataset)
    parts = []
    for model, curve in curves.items():
        points = sorted(curve.items())
        own = own_score(model, points)
        spread = f"{percent(min(curve.values()))} to {percent(max(curve.values()))}"
        parts.append(f"{model} {f'{percent(own)} (own), ' if own is not None else ''}{spread}")
    return "; ".join(parts)


def _share(value: float | None) -> str:
    return FIGURE_ONLY if value is None else f"{value:.1f} %"


def obtained(recipe: Recipe, scale: str) -> str:
    """What a committed result says; empty where there is none."""
    file = RESULTS / scale / f"{recipe.name}.json"
    if not file.exists():
        return ""
    result: dict[str, Any] = json.loads(file.read_text("utf-8"))
    held = [verdict["holds"] for verdict in result["verdicts"]]
    judged = f"; {sum(h is True for h in held)} of {len(held)} claims hold" if held else ""
    data = "; ".join(result["data"].values())
    link = f"[{scale}](results/recipes/{scale}/{recipe.name}.md)"
    return f"{link}, {result['made']['date']}: {_scores(result)}{judged}. On: {data}"


def _scores(result: dict[str, Any]) -> str:
    """Scores at the own setting and their range; padding; or clips."""
    if "histograms" in result:
        found = result["histograms"]
        return "; ".join(
            f"{one['title']}: median {one['percentiles']['50']:.1f} s" for one in found
        )
    parts = []
    for panel in result["panels"]:
        for curve in panel["curves"]:
            values = [point["value"] for point in curve["points"]]
            own = f"{percent(curve['own']['value'])} (own), " if curve["own"] else ""
            low, high = percent(min(values)), percent(max(values))
            parts.append(f"{curve['label']} {own}{low}{f' to {high}' if high != low else ''}")
    return "; ".join(parts)


def collect(folder: Path) -> list[Path]:
    """Copy figure, table and document of each result below ``folder`` (one scale) into docs."""
    copied = []
    for name in recipe_names():
        source, target = folder / name, RESULTS / folder.name / name
        if not (source / "result.json").exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".png", ".svg", ".md"):
            shutil.copyfile(source / f"{source.name}{suffix}", target.with_suffix(suffix))
        shutil.copyfile(source / "result.json", target.with_suffix(".json"))
        copied.append(target)
    return copied


def main() -> None:
    """Collect, then write or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--collect", type=Path, help="folder of one scale below runs/recipes")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.collect is not None:
        for target in collect(arguments.collect):
            print(f"took {target.relative_to(ROOT)}", file=sys.stderr)
    text = fill(PAGE.read_text("utf-8"), "recipes", table())
    if arguments.check:
        if PAGE.read_text("utf-8") != text:
            sys.exit(f"{PAGE.relative_to(ROOT)} is not what recipes and results say")
        return
    write_text(PAGE, text)


if __name__ == "__main__":
    main()
