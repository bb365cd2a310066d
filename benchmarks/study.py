"""Run a study on real recordings with the driver of the recipes, and collect its scores.

    python -m benchmarks.study fsdd-digit --data data/raw [--only ElasticAST] [--seeds 0 1]

Every (model, seed, fold) is trained and swept on the test split as steps of a recipe below
``runs/studies``: finished steps are skipped and an interrupted one continues. The scores of every
run, with settings, dates and versions, go to ``docs/results/STUDY.json``, where they replace those
of the same run; ``benchmarks.report`` makes ``docs/results.md``, the README's table and the
figures from it. Without a name all studies are run.

``--validation`` never opens the test split: it trains without a tenth of the training clips, prints
the scores on that tenth and writes nothing below ``docs``. With ``--set`` it chooses settings.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.pages import RESULTS, dump_summary
from benchmarks.report import write_pages
from benchmarks.studies import RECIPES, STUDIES, Entry, Study
from elastictool.config.loader import load_run_config
from elastictool.data.store import PreparedStore
from elastictool.evaluation.points import SweepPoint, read_points
from elastictool.recipes.library import training_settings
from elastictool.recipes.plan import POINTS, Paths, Plan, SeedFold, Step, make_plan, plain
from elastictool.recipes.run import run_plan
from elastictool.recipes.spec import SCALES, DataSpec, Recipe, RunSpec, Scale, SweepSpec
from elastictool.reporting.run_log import read_log
from elastictool.training.resuming import MACHINE
from elastictool.utils.io import write_text

Document = dict[str, Any]
NOT_OF_THE_MODEL = ("name", "seed", "data.test_fold", *MACHINE)
"""Settings that a summary does not record for a model."""
VALIDATION = ("data.validation_fraction=0.1",)


def plan_of(
    study: Study,
    axis: str,
    seed: int,
    fold: int,
    paths: Paths,
    only: tuple[str, ...] = (),
    validation: bool = False,
    sets: tuple[str, ...] = (),
) -> Plan:
    """Plan the sweeps along ``axis`` of the models of a study, for one seed and fold.

    Args:
        study: The study.
        axis: What is swept.
        seed: Seed of the trainings.
        fold: Test fold; 0 for the data's own split.
        paths: Folders of data and runs.
        only: Labels of models; empty for all.
        validation: Score on validation clips instead of the test split.
        sets: Settings over those of the models.
    """
    sets = (*(VALIDATION if validation else ()), *sets)
    data = DataSpec(
        title=study.title,
        corpus=study.corpus,
        root=study.root,
        task=study.task,
        folds=(fold,) if fold else (),
    )
    swept = [e for e in study.entries if (e.axis or study.axis) == axis]
    scale = Scale(
        description=study.title,
        data={study.dataset: data},
        runs={_slug(entry.label): _run(study, entry, sets) for entry in study.entries},
        seeds=(seed,),
        checkpoint="last",
        split="validation" if validation else "test",
        sweeps=tuple(
            sweep
            for entry in swept
            if not only or entry.label in only
            for sweep in sweeps_of(study, entry)
        ),
    )
    name = _slug(f"{study.title}-{axis}-seed{seed}-fold{fold}")
    recipe = Recipe(title=study.title, shows="", scales=dict.fromkeys(SCALES, scale), name=name)
    return make_plan(recipe, "small", paths)


def _slug(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower())


def _run(study: Study, entry: Entry, sets: tuple[str, ...]) -> RunSpec:
    """Return the run of a model; its start and teacher are runs of the study."""
    start = _slug(entry.start) if entry.start else ""
    return RunSpec(
        label=entry.label,
        data=study.dataset,
        settings=training_settings(RECIPES / entry.recipe, (*entry.sets, *sets)),
        start=start,
        teacher=start if entry.distilled else "",
    )


def sweeps_of(study: Study, entry: Entry) -> list[SweepSpec]:
    """Return the sweeps of a model, one for each way of evaluating it.

    Position grids are interpolated and sliced, unless patch sizes decide the grid.
    """
    axis: Any = entry.axis or study.axis
    values = tuple(x for x in study.columns if axis == "resolution" or x == int(x))
    spec = SweepSpec(
        axis=axis,
        values=values,
        runs=(_slug(entry.label),),
        base_shift_ms=study.base_shift_ms if axis == "resolution" else 0.0,
        native=entry.evaluate_natively,
    )
    model = load_run_config(RECIPES / entry.recipe, entry.sets).model
    if axis == "patch_size":
        return [
            dataclasses.replace(spec, resize=(resize,), axes=axes)
            for resize in entry.resizings or (model.resize,)
            for axes in entry.along or ("auto",)
        ]
    if model.pos_embed == "grid":
        return [spec, dataclasses.replace(spec, positions="slice")]
    return [spec]


def runs_of(plan: Plan, seed: int, fold: int) -> Iterator[Document]:
    """Yield the scores of each model of a finished plan."""
    models: dict[str, Document] = {}
    for sweep in (step for step in plan.steps if step.kind == "sweep"):
        run = next(step for step in plan.steps if step.name == sweep.inputs[_role(sweep)])
        label = plan.scale.runs[_role(sweep).removeprefix("run:")].label
        marker = run.marker() or {}
        epochs = read_log(run.path, "epoch")
        numbers = models.setdefault(
            label,
            {
                "model": label,
                "seed": seed,
                "fold": fold,
                "environment": marker["environment"],
                "train_seconds": marker["seconds"],
                "train_tokens": sum(epoch["tokens"] for epoch in epochs),
                "curves": [],
            },
        )
        numbers["curves"].append(_curve(sweep, read_points(sweep.path / POINTS)))
    yield from models.values()


def _role(sweep: Step) -> str:
    return next(role for role in sweep.inputs if role.startswith("run:"))


def _curve(sweep: Step, points: list[SweepPoint]) -> Document:
    """Return [x, score, low, high] at the own setting and at each value."""

    def numbers(native: bool) -> list[list[float]]:
        return [
            [p.x, round(p.value, 6), round(p.low, 4), round(p.high, 4)]
            for p in points
            if p.native == native
        ]

    along = sweep.settings["axes"]
    return {
        "positions": points[0].positions,
        "resize": points[0].resize,
        "along": "" if along == "auto" else along,
        "own": numbers(True)[0],
        "points": numbers(False),
    }


def model_settings(plan: Plan, seed_fold: SeedFold) -> dict[str, Document]:
    """Return the settings of each model that are not the defaults, by label and dotted name."""
    found: dict[str, Document] = {}
    for step in plan.steps:
        if step.config is not None:
            name = step.config.name.removesuffix(seed_fold.suffix())
            # Tuples become lists, as in files.
            settings: Document = json.loads(json.dumps(dict(step.settings["config"])))
            kept = {key: settings[key] for key in settings if key not in NOT_OF_THE_MODEL}
            found[plan.scale.runs[name].label] = kept
    return found


def axes_of(study: Study) -> list[str]:
    """Return what the models of a study are swept along."""
    return list(dict.fromkeys(entry.axis or study.axis for entry in study.entries))


def planned_settings(study: Study) -> dict[str, Document]:
    """Return the settings of every model of a study as the recipes have them now."""
    paths = Paths(Path("DIR"), Path("OUT"))
    settings: dict[str, Document] = {}
    for axis in axes_of(study):
        seed, fold = study.runs()[0]
        plan = plan_of(study, axis, seed, fold, paths)
        settings |= model_settings(plan, SeedFold(seed, fold))
    return {entry.label: settings[entry.label] for entry in study.entries}


def run_study(name: str, arguments: Namespace) -> None:
    """Run the trainings and sweeps that are wanted, and collect their scores."""
    import torch

    torch.set_num_threads(1)  # the same bits on machines with other numbers of cores
    study, found = STUDIES[name], list[Document]()
    for seed, fold in study.runs():
        if seed in (arguments.seeds or study.seeds) and fold in (arguments.folds or study.folds):
            found += run_repetition(study, seed, fold, arguments)
    if found and not arguments.validation:
        collect(name, found, arguments)


def run_repetition(study: Study, seed: int, fold: int, arguments: Namespace) -> list[Document]:
    """Train and sweep the wanted models with one seed and fold, and return their scores."""
    from elastictool.cli.console import progress

    found = []
    for axis in axes_of(study):
        labels = {entry.label for entry in study.entries if (entry.axis or study.axis) == axis}
        if arguments.only and not labels & set(arguments.only):
            continue
        make = partial(
            plan_of,
            study,
            axis,
            seed,
            fold,
            Paths(arguments.data, arguments.runs),
            only=tuple(arguments.only),
            validation=arguments.validation,
            sets=tuple(arguments.set),
        )
        for numbers in runs_of(run_plan(make, progress()), seed, fold):
            print(_line(numbers), file=sys.stderr, flush=True)
            found.append(numbers)
    return found


def _line(numbers: Document) -> str:
    curve = numbers["curves"][0]
    shown = [("own", curve["own"]), *((f"{point[0]:g}", point) for point in curve["points"])]
    head = f"{numbers['model']} seed {numbers['seed']} fold {numbers['fold']}"
    scores = " ".join(f"{column}:{100 * point[1]:.1f}" for column, point in shown)
    return f"{head}, {numbers['train_seconds']:.0f} s: {scores}"


def collect(name: str, found: list[Document], arguments: Namespace) -> None:
    """Write the study's summary: new scores, and those of other runs with the same settings."""
    study, settings = STUDIES[name], planned_settings(STUDIES[name])
    file = arguments.out / f"{name}.json"
    known = json.loads(file.read_text("utf-8")) if file.is_file() else {"runs": [], "models": {}}
    runs = {
        _key(run): run
        for run in known["runs"]
        if known["models"][run["model"]]["settings"] == settings.get(run["model"])
    }
    runs |= {_key(run): run for run in found}
    planned = [(e.label, seed, fold) for e in study.entries for seed, fold in study.runs()]
    print(f"{name}: {len(runs)} of {len(planned)} runs are there", file=sys.stderr)
    summary = {
        "study": name,
        "title": study.title,
        "command": f"python -m benchmarks.study {name} --data DIR",
        "planned_runs": len(planned),
        "marks": study.marks,
        "axis": study.axis,
        "columns": list(study.columns),
        "base_shift_ms": study.base_shift_ms,
        "claims": [plain(claim) for claim in study.claims],
        "models": {
            entry.label: {"recipe": entry.recipe, "settings": settings[entry.label]}
            for entry in study.entries
        },
        "baselines": _baselines(study, arguments) if study.axis == "length" else [],
        "runs": [runs[key] for key in planned if key in runs],
    }
    write_text(file, dump_summary(summary))


def _key(run: Document) -> tuple[str, int, int]:
    return run["model"], run["seed"], run["fold"]


def _baselines(study: Study, arguments: Namespace) -> list[Document]:
    """Return scores of logistic regression on mean and deviation over time, and on clip length."""
    from benchmarks.baseline import logistic_baseline
    from elastictool.config import DataConfig
    from elastictool.data.splits import select_clips

    paths = Paths(arguments.data, arguments.runs)
    plan = plan_of(study, study.axis, *study.runs()[0], paths)
    store = PreparedStore.open(next(step.path for step in plan.steps if step.kind == "prep"))
    fbank = load_run_config(RECIPES / study.entries[0].recipe).fbank
    rows = []
    for fold in study.folds:
        splits = select_clips(store, DataConfig(test_fold=fold), 0)
        lengths = [int(frames) for frames in study.columns]
        points = logistic_baseline(store, splits.train, splits.test, fbank, lengths)["points"]
        scores = [
            {k: point[k] for k in ("model", "length_frames")}
            | {"top1": round(point["metrics"]["top1"], 6)}
            for point in points
        ]
        rows.append({"fold": fold, "points": scores})
    return rows


def parse() -> Namespace:
    """Parse the command line."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("studies", nargs="*", help=f"names ({', '.join(STUDIES)}); default all")
    parser.add_argument("--data", type=Path, required=True, help="folder of the small real data")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the summaries")
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"), help="folder of runs")
    parser.add_argument("--only", action="append", default=[], help="a model to run; repeatable")
    parser.add_argument("--seeds", type=int, nargs="+", help="some of the seeds")
    parser.add_argument("--folds", type=int, nargs="+", help="some of the folds")
    parser.add_argument("--set", action="append", default=[], help="with --validation: a setting")
    parser.add_argument("--validation", action="store_true", help="score on validation clips")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.studies if name not in STUDIES]:
        parser.error(f"no study {unknown[0]}, there are: {', '.join(STUDIES)}")
    labels = {e.label for name in arguments.studies or STUDIES for e in STUDIES[name].entries}
    if unknown := [label for label in arguments.only if label not in labels]:
        parser.error(f"no model {unknown[0]}, there are: {', '.join(sorted(labels))}")
    if arguments.set and not arguments.validation:
        parser.error("--set belongs to --validation: a study's settings are its recipes")
    return arguments


def main() -> None:
    """Run the studies that are wanted, all of them by default."""
    arguments = parse()
    for name in arguments.studies or STUDIES:
        run_study(name, arguments)
    if not arguments.validation and arguments.out.resolve() == RESULTS:
        write_pages()


if __name__ == "__main__":
    main()
