"""Execute one step with the functions behind ``prep``, ``train``, ``eval``, ``sweep`` and
``tokens``.

A step writes its results into its folder and, last, the marker that it is finished. An unfinished
step is started again; a training or a sweep continues where it stopped, and prep takes over
finished shards.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elastictool.recipes.plan import (
    DURATIONS,
    EVALUATION,
    MARKER,
    POINTS,
    TOKENS,
    Kind,
    Step,
    with_sources,
)
from elastictool.recipes.result import make_result
from elastictool.reporting.tables import read_json
from elastictool.utils.errors import UsageError
from elastictool.utils.io import remove_temporaries, write_json, write_text
from elastictool.utils.progress import SILENT, Progress

if TYPE_CHECKING:
    pass

UNFINISHED = "sweep.unfinished"


def execute(step: Step, progress: Progress = SILENT) -> dict[str, Any]:
    """Executes a step whose inputs are finished, writes its marker and returns it.

    Raises:
        ElasticToolError: As the command of that kind.
        Interrupted: Stopped by the user; the same step continues.
    """
    begin = time.monotonic()
    remove_temporaries(step.path, shared=True)
    facts = _EXECUTORS[step.kind](step, progress)
    marker = {
        "name": step.name,
        "kind": step.kind,
        "fingerprint": step.fingerprint,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "wall_seconds": round(time.monotonic() - begin, 2),
        **facts,
    }
    write_json(step.path / MARKER, marker)
    return marker


def _prep(step: Step, progress: Progress) -> dict[str, Any]:
    from elastictool.config.loader import frontend_config
    from elastictool.corpora.base import CorpusOptions
    from elastictool.data.options import PrepOptions, StorageOptions
    from elastictool.data.prepare import prepare

    settings = step.settings
    try:
        store = prepare(
            PrepOptions(
                settings["corpus"],
                step.reads.get("root"),
                step.path.parent,
                name=step.path.name,
                corpus=CorpusOptions(task=settings["task"], subset=settings["subset"]),
                storage=StorageOptions(fbank=frontend_config(settings["frontend"])),
                limit=settings["limit"],
                workers=1 if settings["limit"] else 0,
            ),
            progress,
        )
    except UsageError as error:
        if not step.path.is_dir():
            raise
        raise UsageError(
            f"{error.message}: the data have changed since they were prepared",
            f"delete {step.path}, or name another place with --out",
        ) from error
    return {"output": store.info.fingerprint, "clips": len(store)}


def _train(step: Step, progress: Progress) -> dict[str, Any]:
    from elastictool.data.store import PreparedStore
    from elastictool.evaluation.bench.timing import environment
    from elastictool.reporting.run_report import write_report
    from elastictool.training.run import resume_run, train_run

    store = PreparedStore.open(step.reads["dataset"])
    if (step.path / "config.yaml").is_file():
        result = resume_run(step.path, store, progress)
    elif step.config is None:
        raise ValueError(f"{step.name} has no configuration")
    else:
        roles = ("start", "weights", "teacher")
        sources = {role: str(path) for role, path in step.reads.items() if role in roles}
        config = with_sources(step.config, **sources)
        result = train_run(config, store, step.path, progress=progress)
    write_report(step.path)
    return {
        "seconds": round(result.seconds, 1),
        "epochs": result.epochs,
        "environment": environment(),
    }


def _evaluate(step: Step, progress: Progress) -> dict[str, Any]:
    from elastictool.checkpoint.weights import load_run
    from elastictool.data.store import PreparedStore
    from elastictool.evaluation.evaluate import evaluate_run, save_evaluation
    from elastictool.reporting.run_report import report_evaluation
    from elastictool.training.setup import pick_device

    store = PreparedStore.open(step.reads["dataset"])
    settings = step.settings
    how = {key: settings[key] for key in ("checkpoint", "precision")}
    run = load_run(step.reads["run"], how["checkpoint"], device=pick_device("auto"))
    result = evaluate_run(
        run, store, split=settings["split"], precision=how["precision"], progress=progress
    )
    save_evaluation(run.path, result, how)
    report_evaluation(run.path, result.stem)
    hidden = ("per_class", "decisions")
    document = {key: value for key, value in result.document().items() if key not in hidden}
    write_json(step.path / EVALUATION, document | {"classes": len(result.label_names)})
    return {}


def _sweep(step: Step, progress: Progress) -> dict[str, Any]:
    from elastictool.checkpoint.weights import load_run
    from elastictool.data.store import PreparedStore
    from elastictool.evaluation.bench.timing import environment
    from elastictool.evaluation.evaluate import NATIVE, feature_extractor_at
    from elastictool.evaluation.points import write_points
    from elastictool.evaluation.sweep import SweepOptions, sweep
    from elastictool.training.setup import pick_device

    settings, device = step.settings, pick_device("auto")
    store = PreparedStore.open(step.reads["dataset"])
    how: dict[str, Any] = {"device": device, "pos_embed_fit": settings["positions"]}
    loaded = [
        load_run(path, settings["checkpoint"], resize=resize, **how)
        for role, path in step.reads.items()
        if role.startswith("run:")
        for resize in settings["resize"] or (None,)
    ]
    if settings["native"]:
        loaded = [
            dataclasses.replace(
                run, feature_extractor=feature_extractor_at(run.feature_extractor, NATIVE)
            )
            for run in loaded
        ]
    options = SweepOptions(
        patch_axes=settings["axes"],
        base_shift_ms=settings["base_shift_ms"],
        split=settings["split"],
        precision=settings["precision"],
        progress=progress,
        cache=step.path / UNFINISHED,
    )
    points = sweep(settings["axis"], loaded, store, settings["values"], options)
    write_points(step.path / POINTS, points)
    shutil.rmtree(step.path / UNFINISHED, ignore_errors=True)
    return {"clips": points[0].clips, "environment": environment()}


def _tokens(step: Step, progress: Progress) -> dict[str, Any]:
    from elastictool.evaluation.tokens import TokenRule, TokenSettings, count_tokens
    from elastictool.reporting.token_table import document

    settings = step.settings
    rule = TokenRule(settings["max_frames"], edge=settings["edge"])
    wanted = TokenSettings(
        batch_sizes=settings["batch_sizes"],
        planners=settings["planners"],
        fixed_frames=settings["frames"],
        rule=rule,
    )
    source = _source_of(step.reads, settings, split=settings["split"])
    write_json(step.path / TOKENS, document(count_tokens(source, wanted)))
    return {"clips": len(source.seconds)}


def _durations(step: Step, progress: Progress) -> dict[str, Any]:
    from elastictool.evaluation.durations import histogram

    found = []
    for name, settings in step.settings["data"].items():
        parts = {role.rpartition(":"): path for role, path in step.reads.items()}
        reads = {role: path for (owner, _, role), path in parts.items() if owner == name}
        source = _source_of(reads, settings)
        found.append(
            {"name": name, "title": settings["title"], "source": source.label}
            | histogram(source.seconds)
        )
    write_json(step.path / DURATIONS, {"histograms": found})
    return {}


def _source_of(reads: Mapping[str, Path], settings: Mapping[str, Any], split: str = "") -> Any:
    """Returns the durations of a prepared dataset, of a table, or of the stand-in."""
    from elastictool.data.store import PreparedStore
    from elastictool.evaluation import durations

    if "dataset" in reads:
        return durations.prepared_durations(PreparedStore.open(reads["dataset"]), split)
    if "durations" in reads:
        return durations.read_durations(reads["durations"])
    return durations.stand_in(settings["stand_in"])


def _plot(step: Step, progress: Progress) -> dict[str, Any]:
    document = step.path / "result.json"
    write_json(document, make_result(step))
    files = draw_result(read_json(document), step.path / step.path.name)
    return {"files": [str(path) for path in files]}


def draw_result(result: Mapping[str, Any], stem: Path) -> list[Path]:
    """Writes figure (``stem``.png, .svg) and table (.md) of a result, from the document alone.

    Raises:
        ElasticToolError: A file cannot be written.
    """
    from elastictool.reporting.figures import save_figure
    from elastictool.reporting.recipe_figure import draw
    from elastictool.reporting.recipe_table import page

    table = stem.with_suffix(".md")
    write_text(table, page(result))
    return [*save_figure(draw(result), stem), table]


_EXECUTORS: Mapping[Kind, Callable[[Step, Progress], dict[str, Any]]] = {
    "prep": _prep,
    "train": _train,
    "eval": _evaluate,
    "sweep": _sweep,
    "tokens": _tokens,
    "durations": _durations,
    "plot": _plot,
}
