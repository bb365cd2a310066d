"""Run a study on real recordings; resumable, one process per run.

    python -m benchmarks.study fsdd-digit --data data/raw [--jobs 2] [--only ElasticAST]

Each (model, seed, fold) is trained into ``runs/studies/STUDY/`` and swept on the test split; its
numbers, with date, versions and settings, go to ``docs/results/runs/STUDY/``. What is there with
the same settings is not run again and an interrupted run resumes, so a study can be spread over
days and machines. ``docs/results/STUDY.json`` then collects them, and ``benchmarks.report`` makes
``docs/results.md``, the README's tables and the figures. Without a name all studies are run.

``--validation`` opens no test split: it trains without a tenth of the training clips, scores on
that tenth, and writes nothing under docs/. Settings are chosen with it.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import re
import sys
from argparse import ArgumentParser, Namespace
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.pages import RESULTS
from benchmarks.report import write_pages
from benchmarks.studies import RECIPES, STUDIES, Entry, Study
from elastictool.checkpoint.run_directory import RunDirectory
from elastictool.config import PatchAxes, PositionFit, Resize, RunConfig
from elastictool.config.coerce import to_dict
from elastictool.config.loader import differences, load_run_config
from elastictool.data.store import PreparedStore
from elastictool.evaluation.bench.timing import environment
from elastictool.training.resuming import MACHINE
from elastictool.utils.io import write_json


@dataclass(frozen=True)
class Cell:
    """One run of a study, where it happens and where its numbers go."""

    study: str
    entry: Entry
    seed: int
    fold: int
    run: Path
    result: Path
    dataset: Path
    validation: bool
    sets: tuple[str, ...]
    start: Path | None = None

    def config(self) -> RunConfig:
        """The settings of the run, as published: without this machine's paths."""
        return load_run_config(RECIPES / self.entry.recipe, self.sets)

    def own_config(self) -> RunConfig:
        """The same, with the place of the run that it starts from."""
        places = [f"init.path={self.start}"] if self.start else []
        places += [f"train.distill.teacher={self.start}"] if self.entry.taught else []
        return load_run_config(RECIPES / self.entry.recipe, [*self.sets, *places])

    def finished(self) -> dict[str, Any] | None:
        """The numbers of this cell, if they are there and belong to its settings."""
        if not self.result.exists():
            return None
        numbers: dict[str, Any] = json.loads(self.result.read_text("utf-8"))
        return None if self.changed(numbers["config"]) else numbers

    def changed(self, recorded: dict[str, Any]) -> set[str]:
        """Recorded settings that are no longer wanted; those of the machine do not count.

        Neither do settings that were added since then.
        """
        return differences(recorded, to_dict(self.config())).keys() - set(MACHINE)


def make_cell(name: str, entry: Entry, seed: int, fold: int, arguments: Namespace) -> Cell:
    """Name the places and settings of one run."""
    slug = _slug(entry.label, seed, fold)
    sets = [*entry.sets, *arguments.set, f"seed={seed}", f"data.test_fold={fold}"]
    folder = name
    if arguments.validation:
        sets.append("data.validation_fraction=0.1")
        folder = f"{name}-validation{arguments.tag}"
    run = arguments.runs / folder / slug
    public = arguments.out / "runs" / name / f"{slug}.json"
    return Cell(
        study=name,
        entry=entry,
        seed=seed,
        fold=fold,
        run=run,
        result=run / "study.json" if arguments.validation else public,
        dataset=arguments.runs / "data" / STUDIES[name].dataset,
        validation=arguments.validation,
        sets=tuple(sets),
        start=arguments.runs / folder / _slug(entry.start, seed, fold) if entry.start else None,
    )


def _slug(label: str, seed: int, fold: int) -> str:
    return re.sub("[^a-z0-9]+", "-", f"{label}-seed{seed}-fold{fold}".lower())


def run_cell(cell: Cell) -> dict[str, Any]:
    """Train (or resume) and sweep one cell on one thread; returns its numbers."""
    import torch

    from elastictool.training.run import resume_run, train_run

    torch.set_num_threads(1)
    store = PreparedStore.open(cell.dataset)
    if _resumable(cell, store):
        result = resume_run(cell.run, store)
    else:
        result = train_run(cell.own_config(), store, cell.run, overwrite=True)
    numbers = {
        "model": cell.entry.label,
        "seed": cell.seed,
        "fold": cell.fold,
        "recipe": cell.entry.recipe,
        "sets": list(cell.sets),
        "config": to_dict(cell.config()),
        "environment": environment(),
        "train_seconds": round(result.seconds, 1),
        "train_tokens": _tokens(cell.run),
        "points": _points(cell, store),
    }
    write_json(cell.result, numbers)
    return numbers


def _trained(run: Path) -> bool:
    """Whether a run that others start from was trained to its end on this machine."""
    directory = RunDirectory(run)
    if not directory.last_weights.exists():
        return False
    lines = directory.metrics.read_text("utf-8").splitlines()
    epochs = [record for record in map(json.loads, lines) if record["kind"] == "epoch"]
    return len(epochs) >= directory.read_config().train.epochs


def _resumable(cell: Cell, store: PreparedStore) -> bool:
    """Whether an unfinished run of the same settings on the same data stands there."""
    run = RunDirectory(cell.run)
    if not run.training_state.exists() or run.read_fingerprint() != store.info.fingerprint:
        return False
    wanted = to_dict(cell.config())
    parts = ("train", "augment", "packing", "length")
    recorded = {part: to_dict(run.read_config())[part] for part in parts}
    return not differences(recorded, wanted).keys() - set(MACHINE)


def _tokens(path: Path) -> int:
    lines = (path / "metrics.jsonl").read_text("utf-8").splitlines()
    return sum(r["tokens"] for r in map(json.loads, lines) if r["kind"] == "epoch")


def _points(cell: Cell, store: PreparedStore) -> list[dict[str, Any]]:
    """Own point and all columns, each way of evaluating the run a curve of its own."""
    return [point for way in _ways(cell) for point in _swept(cell, store, way)]


@dataclass(frozen=True)
class Way:
    """One way of evaluating a run: how positions and kernels are fitted, along which axes."""

    positions: PositionFit | None = None
    resize: Resize | None = None
    along: PatchAxes | Literal["auto"] = "auto"


def _ways(cell: Cell) -> list[Way]:
    """Grid positions are interpolated and sliced, except where patch sizes decide their grid."""
    entry, model = cell.entry, cell.config().model
    if STUDIES[cell.study].axis == "patch_size":
        resizings = entry.resizings or (model.resize,)
        return [Way(None, r, axes) for r in resizings for axes in entry.along or ("auto",)]
    return [Way(), Way("slice")] if model.pos_embed == "grid" else [Way()]


def _swept(cell: Cell, store: PreparedStore, way: Way) -> list[dict[str, Any]]:
    from elastictool.checkpoint.weights import load_run
    from elastictool.evaluation.sweep import SweepOptions, sweep

    study, split = STUDIES[cell.study], "validation" if cell.validation else "test"
    run = load_run(cell.run, "last", pos_embed_fit=way.positions, resize=way.resize)
    if cell.entry.evaluate_natively:
        native = dataclasses.replace(run.feature_extractor.length, fixed_frames=0)
        run = dataclasses.replace(
            run, feature_extractor=dataclasses.replace(run.feature_extractor, length=native)
        )
    axis = cell.entry.axis or study.axis
    # Pooling takes whole numbers of frames.
    columns = [x for x in study.columns if axis == "resolution" or x == int(x)]
    options = SweepOptions(split=split, patch_axes=way.along, base_shift_ms=study.base_shift_ms)
    points = sweep(axis, [run], store, columns, options)
    keep: tuple[str, ...]
    keep = ("length_frames", "value", "low", "high", "positions", "native", "tokens", "gflops")
    if axis == "length":
        return [{key: getattr(point, key) for key in keep} for point in points]
    along = {"along": "" if way.along == "auto" else way.along}
    return [
        {key: getattr(p, key) for key in (*keep, "resize")} | {"setting": p.x} | along
        for p in points
    ]


def prepared(study: Study, data: Path, folder: Path) -> None:
    """Make the study's prepared dataset, if it is not there."""
    from elastictool.corpora.base import CorpusOptions
    from elastictool.data.prepare import prepare

    options = CorpusOptions(task=study.task)
    prepare(study.corpus, data / study.root, folder, name=study.dataset, options=options)


def parse() -> Namespace:
    """The command line."""
    parser = ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("studies", nargs="*", help="of: " + ", ".join(STUDIES) + "; none is all")
    parser.add_argument("--data", type=Path, required=True, help="folder of the small real data")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"))
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--only", action="append", help="labels of entries to run; repeatable")
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--folds", type=int, nargs="+")
    parser.add_argument("--set", action="append", default=[], help="with --validation: a setting")
    parser.add_argument("--validation", action="store_true", help="score on a training part")
    parser.add_argument("--tag", default="", help="with --validation: name of this trial")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.studies if name not in STUDIES]:
        parser.error(f"no study {unknown[0]}, there are: {', '.join(STUDIES)}")
    if arguments.set and not arguments.validation:
        parser.error("--set belongs to --validation: a study's settings are its recipes")
    return arguments


def main() -> None:
    """Run the studies that are wanted, all of them where none is named."""
    arguments = parse()
    for name in arguments.studies or STUDIES:
        run_study(name, STUDIES[name], arguments)
    if not arguments.validation and arguments.out.resolve() == RESULTS:
        write_pages()


def run_study(name: str, study: Study, arguments: Namespace) -> None:
    """Run the cells that are wanted, then collect all that are finished."""
    prepared(study, arguments.data, arguments.runs / "data")
    cells = [
        make_cell(name, entry, seed, fold, arguments)
        for seed, fold in study.runs()
        for entry in study.entries
        if seed in (arguments.seeds or study.seeds)
        and fold in (arguments.folds or study.folds)
        and (not arguments.only or entry.label in arguments.only)
    ]
    wanted = [cell for cell in cells if not cell.finished()]
    starts = {cell.start for cell in wanted if cell.start and not _trained(cell.start)}
    first = [cell for cell in cells if cell.run in starts]
    run_cells(first, arguments.jobs)
    run_cells([cell for cell in wanted if cell not in first], arguments.jobs)
    if not arguments.validation:
        collect(name, study, arguments)


def run_cells(cells: list[Cell], jobs: int) -> None:
    """Run the cells, ``jobs`` at a time, and say how each ended."""
    spawn = multiprocessing.get_context("spawn")
    fresh: dict[str, Any] = {"max_tasks_per_child": 1} if sys.version_info >= (3, 11) else {}
    with ProcessPoolExecutor(jobs, mp_context=spawn, **fresh) as pool:
        waiting = [pool.submit(run_cell, cell) for cell in cells]
        for count, future in enumerate(as_completed(waiting), 1):
            print(f"{count}/{len(cells)} {_line(future.result())}", file=sys.stderr, flush=True)


def _line(numbers: dict[str, Any]) -> str:
    shown = " ".join(
        f"{_column(point)}:{100 * point['value']:.1f}"
        for point in numbers["points"]
        if point["positions"] != "slice"
    )
    head = f"{numbers['model']} seed {numbers['seed']} fold {numbers['fold']}"
    return f"{head}, {numbers['train_seconds']:.0f} s: {shown}"


def _column(point: dict[str, Any]) -> str:
    return "own" if point["native"] else f"{point.get('setting', point['length_frames']):g}"


def collect(name: str, study: Study, arguments: Namespace) -> None:
    """Write the study's result file from the finished runs; says how many are missing."""
    cells = [
        make_cell(name, entry, seed, fold, arguments)
        for entry in study.entries
        for seed, fold in study.runs()
    ]
    found = [numbers for cell in cells if (numbers := cell.finished())]
    print(f"{name}: {len(found)} of {len(cells)} runs are there", file=sys.stderr)
    if not found:
        return
    hidden = ("config", "sets")
    write_json(
        arguments.out / f"{name}.json",
        {
            "study": name,
            "title": study.title,
            "command": f"python -m benchmarks.study {name} --data DIR",
            "planned_runs": len(cells),
            "marks": study.marks,
            "axis": study.axis,
            "columns": list(study.columns),
            "base_shift_ms": study.base_shift_ms,
            "claims": [dataclasses.asdict(claim) for claim in study.claims],
            "baselines": _baselines(study, cells[0].dataset) if study.axis == "length" else [],
            "runs": [{k: v for k, v in numbers.items() if k not in hidden} for numbers in found],
        },
    )


def _baselines(study: Study, dataset: Path) -> list[dict[str, Any]]:
    """Logistic regression on time-mean and deviation, and on clip length alone, per fold."""
    from elastictool.config import DataConfig
    from elastictool.data.splits import select_clips
    from elastictool.evaluation.baseline import logistic_baseline

    store = PreparedStore.open(dataset)
    fbank = load_run_config(RECIPES / study.entries[0].recipe).fbank
    rows = []
    for fold in study.folds:
        splits = select_clips(store, DataConfig(test_fold=fold), 0)
        lengths = [int(frames) for frames in study.columns]
        answer = logistic_baseline(store, splits.train, splits.test, fbank, lengths)
        rows.append({"fold": fold, **answer})
    return rows


if __name__ == "__main__":
    main()
