"""Run a study on real recordings; resumable, one process per run.

    python -m benchmarks.study fsdd-digit --data ../shared/data [--jobs 2] [--only ElasticAST]

Each (model, seed, fold) is trained into ``runs/studies/STUDY/`` and swept on the test split; its
numbers stand in that run's ``study.json``. Finished runs are skipped, interrupted ones resume.
When all are there, ``docs/results/STUDY.json`` is written with command, date and versions; the
README's tables and figures are made from that file by ``python -m benchmarks.report``.

``--validation`` opens no test split: it trains without a tenth of the training clips, scores on
that tenth, and writes nothing under docs/. Settings are chosen with it.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.studies import RECIPES, STUDIES, Entry, Study


@dataclass(frozen=True)
class Cell:
    """One run of a study, and where it happens."""

    study: str
    entry: Entry
    seed: int
    fold: int
    folder: Path
    dataset: Path
    validation: bool
    extra: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The run directory."""
        slug = self.entry.label.lower().replace(",", "").replace(" ", "-")
        return self.folder / f"{slug}-seed{self.seed}-fold{self.fold}"


def run_cell(cell: Cell, threads: int) -> dict[str, Any]:
    """Train (or resume) and sweep one cell; its numbers, which also stand in ``study.json``."""
    done = cell.path / "study.json"
    if done.exists():
        return json.loads(done.read_text("utf-8"))
    import torch

    from elastictool.config import load_run_config
    from elastictool.data.store import PreparedStore
    from elastictool.files import write_json
    from elastictool.training.run import resume_run, train_run

    torch.set_num_threads(threads)
    store = PreparedStore.open(cell.dataset)
    sets = [*cell.entry.sets, *cell.extra, f"seed={cell.seed}", f"data.test_fold={cell.fold}"]
    if cell.validation:
        sets.append("data.validation_fraction=0.1")
    config = load_run_config(RECIPES / cell.entry.recipe, sets)
    if (cell.path / "checkpoints" / "last.training.pt").exists():
        result = resume_run(cell.path, store)
    else:
        result = train_run(config, store, cell.path, overwrite=True)
    numbers = {
        "model": cell.entry.label,
        "seed": cell.seed,
        "fold": cell.fold,
        "recipe": cell.entry.recipe,
        "sets": sets,
        "train_seconds": round(result.seconds, 1),
        "train_tokens": _tokens(cell.path),
        "points": _points(cell, store),
    }
    write_json(done, numbers)
    return numbers


def _tokens(path: Path) -> int:
    lines = (path / "metrics.jsonl").read_text("utf-8").splitlines()
    return sum(r["tokens"] for r in map(json.loads, lines) if r["kind"] == "epoch")


def _points(cell: Cell, store: Any) -> list[dict[str, Any]]:
    """Own point and all lengths; grid positions both interpolated and sliced."""
    from elastictool.evaluation.sweep import sweep_lengths
    from elastictool.training.checkpoint import load_run

    lengths = STUDIES[cell.study].lengths
    split = "validation" if cell.validation else "test"
    run = load_run(cell.path, "last")
    if cell.entry.evaluate_natively:
        native = dataclasses.replace(run.front_end.length, fixed_frames=0)
        run = dataclasses.replace(run, front_end=dataclasses.replace(run.front_end, length=native))
    points = sweep_lengths([run], store, lengths, split)
    if run.config.model.positions == "grid":
        sliced = load_run(cell.path, "last", position_fit="slice")
        points += sweep_lengths([sliced], store, lengths, split)
    keep = ("length_frames", "value", "low", "high", "positions", "native", "tokens", "gflops")
    return [{key: getattr(point, key) for key in keep} for point in points]


def prepared(study: Study, data: Path, folder: Path) -> Path:
    """The study's prepared dataset, made if it is not there."""
    from elastictool.corpora.base import CorpusOptions
    from elastictool.data.prepare import prepare

    options = CorpusOptions(task=study.task)
    store = prepare(study.corpus, data / study.root, folder, name=study.dataset, options=options)
    return store.path


def main() -> None:
    """Parse, run the cells, and write the result file when all are done."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study", choices=sorted(STUDIES))
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
    if arguments.set and not arguments.validation:
        parser.error("--set belongs to --validation: a study's settings are its recipes")
    study = STUDIES[arguments.study]
    dataset = prepared(study, arguments.data, arguments.runs / "data")
    folder = arguments.runs / (
        arguments.study + (f"-validation{arguments.tag}" * arguments.validation)
    )
    cells = [
        Cell(
            arguments.study,
            entry,
            seed,
            fold,
            folder,
            dataset,
            arguments.validation,
            tuple(arguments.set),
        )
        for fold in arguments.folds or study.folds
        for seed in arguments.seeds or study.seeds
        for entry in study.entries
        if not arguments.only or entry.label in arguments.only
    ]
    results = run_cells(cells, arguments.jobs)
    whole = len(cells) == len(study.entries) * len(study.seeds) * len(study.folds)
    if whole and not arguments.validation:
        write_result(arguments.study, study, dataset, results, arguments.out)


def run_cells(cells: list[Cell], jobs: int) -> list[dict[str, Any]]:
    """All cells, ``jobs`` at a time; results in the order of the cells."""
    results: dict[Path, dict[str, Any]] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, max_tasks_per_child=1) as pool:
        waiting = {pool.submit(run_cell, cell, 1): cell for cell in cells}
        for future in as_completed(waiting):
            cell = waiting[future]
            results[cell.path] = future.result()
            print(f"{len(results)}/{len(cells)} {_line(results[cell.path])}", file=sys.stderr)
    return [results[cell.path] for cell in cells]


def _line(numbers: dict[str, Any]) -> str:
    shown = " ".join(
        f"{'own' if p['native'] else p['length_frames']}:{p['value']:.3f}"
        for p in numbers["points"]
        if p["positions"] != "slice"
    )
    head = f"{numbers['model']} seed {numbers['seed']} fold {numbers['fold']}"
    return f"{head} {numbers['train_seconds']:.0f}s {shown} {numbers['sets']}"


def write_result(
    name: str, study: Study, dataset: Path, results: list[dict[str, Any]], out: Path
) -> None:
    """The committed result file: numbers, honest baselines, command, date, versions."""
    from benchmarks.timing import environment
    from elastictool.files import write_json

    write_json(
        out / f"{name}.json",
        {
            "study": name,
            "title": study.title,
            "command": f"python -m benchmarks.study {name} --data DIR",
            "environment": environment(),
            "marks": study.marks,
            "lengths": list(study.lengths),
            "baselines": _baselines(study, dataset),
            "runs": results,
        },
    )


def _baselines(study: Study, dataset: Path) -> list[dict[str, Any]]:
    """Logistic regression on time-mean and deviation, and on clip length alone, per fold."""
    from elastictool.config import DataConfig, load_run_config
    from elastictool.data.splits import select_clips
    from elastictool.data.store import PreparedStore
    from elastictool.evaluation.baseline import logistic_baseline

    store = PreparedStore.open(dataset)
    fbank = load_run_config(RECIPES / study.entries[0].recipe).fbank
    rows = []
    for fold in study.folds:
        splits = select_clips(store, DataConfig(test_fold=fold), 0)
        answer = logistic_baseline(store, splits.train, splits.test, fbank, study.lengths)
        rows.append({"fold": fold, **answer})
    return rows


if __name__ == "__main__":
    main()
