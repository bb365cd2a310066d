"""``elastictool eval``: one run on one split."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elastictool.cli.console import print_json, print_table, progress, say
from elastictool.utils.errors import UsageError
from elastictool.utils.io import check_output
from elastictool.utils.signals import stoppable

if TYPE_CHECKING:
    from elastictool.checkpoint.weights import LoadedRun, Which
    from elastictool.data.store import PreparedStore
    from elastictool.evaluation.evaluate import Evaluation


class Split(str, Enum):
    """Parts of the data, as the run divides them."""

    test = "test"
    validation = "validation"
    train = "train"

    def __str__(self) -> str:
        """As it is written on a command line."""
        return self.value


class Checkpoint(str, Enum):
    """Checkpoints of a run."""

    best = "best"
    last = "last"
    averaged = "averaged"


class Precision(str, Enum):
    """Of matrix products."""

    fp32 = "fp32"
    bf16 = "bf16"


DatasetOption = Annotated[
    str, typer.Option("--dataset", "-d", help="Prepared data; by default those of the run.")
]


def _split(text: str) -> Split:
    """A split by its name, or as prepared data call it: ``val``."""
    try:
        return Split("validation" if text == "val" else text)
    except ValueError:
        raise UsageError(
            f"--split {text!r} is no part of the data",
            f"{', '.join(Split)}: as the run divides them",
        ) from None


SplitOption = Annotated[
    Split,
    typer.Option(
        parser=_split,
        metavar=f"[{'|'.join(Split)}]",
        help="Clips, as the run divides the data (also a fraction that it set aside to validate).",
    ),
]
CheckpointOption = Annotated[Checkpoint, typer.Option("--which", help="Checkpoint.")]
AttentionOption = Annotated[
    str, typer.Option(help="Attention backend: auto, varlen, flex, split or reference.")
]
PrecisionOption = Annotated[Precision, typer.Option(help="Of matrix products.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
PatchSizeOption = Annotated[
    int | None,
    typer.Option(help="Patches of this size (mel bins, frames): larger is faster; as trained."),
]
ResolutionOption = Annotated[
    float | None,
    typer.Option(help="Frames so many times as far apart: 2 halves the tokens; as trained."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def evaluate(
    run: Annotated[
        str, typer.Argument(help="Run directory or its name under runs/; default the latest.")
    ] = "",
    split: SplitOption = Split.test,
    length: Annotated[
        str,
        typer.Option(help="Frames, or native; by default what the run was trained at."),
    ] = "",
    patch_size: PatchSizeOption = None,
    resolution: ResolutionOption = None,
    dataset: DatasetOption = "",
    which: CheckpointOption = Checkpoint.best,
    attention: AttentionOption = "auto",
    precision: PrecisionOption = Precision.fp32,
    device: DeviceOption = "auto",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder; default that of the run, or FILE_eval/ beside a weights file."),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Also write every clip's scores here, as predict does: .csv or .jsonl."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Evaluate a trained run on one split of its data.

    Prints top-1, top-5, mean class accuracy, mAP, mAUC and d' with 95 % bootstrap intervals over
    clips; multi-label runs also get F1 at the thresholds that validation chose, and at 0.5. Writes
    results/eval_SPLIT.json, CSV files by class and of confusions, their figures and report.html
    into the run directory; into another folder all but the report.

    Example: elastictool eval runs/synth-elasticast --split test --length 128
    """
    frames = _length(length)
    path = locate_run(run)
    place = out or results_place(path)
    for folder in (place, place / "results", place / "figures"):
        check_output(folder)

    from elastictool.checkpoint.run_directory import environment
    from elastictool.cli.clip_output import check_predictions, write_predictions
    from elastictool.evaluation.evaluate import evaluate_run, save_evaluation
    from elastictool.reporting.run_report import report_evaluation
    from elastictool.training.setup import pick_device

    if predictions is not None:
        check_predictions(predictions)
    loaded = open_run(path, which.value, attention, pick_device(device))
    loaded = loaded.with_tokens(patch_size, resolution)
    store = open_data(dataset, loaded)
    say(f"run {path} ({which.value} checkpoint), dataset {store.path}, {split.value} split")
    tell_other_data([loaded], store)
    with stoppable("eval writes nothing before its end", "the same command starts again") as stop:
        result = evaluate_run(
            loaded,
            store,
            split.value,
            frames,
            precision.value,
            progress=progress(),
            checkpoint=which.value,
            between=stop.check,
        )
    about = {
        "checkpoint": which.value,
        "precision": precision.value,
        "environment": environment(store.info.fingerprint),
    }
    files: list[Path] = []
    try:
        files += save_evaluation(place, result, about)
        files += report_evaluation(place, result.stem)
        if predictions is not None:
            files.append(write_predictions(predictions, result, loaded, store))
    finally:  # a full disk must not take the scores along
        if json_output:
            print_json(result.document() | about | {"files": [str(file) for file in files]})
        else:
            _show(result, files)


def _length(text: str) -> int | str | None:
    if text in ("", "native"):
        return text or None
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UsageError(f"--length {text!r} is neither a number of frames nor native")
    return int(text)


def locate_run(text: str) -> Path:
    """A run directory or checkpoint file as it is, a name under runs/, or the latest run.

    Raises:
        UsageError: There is no such run.
    """
    from elastictool.checkpoint.find import RUNS_ROOT, find_run

    if text:
        return find_run(text)
    from elastictool.checkpoint.find import latest_run

    return latest_run(RUNS_ROOT)


def open_run(path: Path, which: Which, attention: str, device: str, **overrides: Any) -> LoadedRun:
    """A run under the name of its folder: that is what a user calls it, also when renamed."""
    from elastictool.checkpoint.weights import load_run

    loaded = load_run(path, which, attention, device, **overrides)
    name = path.resolve().name if path.is_dir() else loaded.name
    return dataclasses.replace(loaded, name=name)


def results_place(path: Path) -> Path:
    """Where results of a run go: into it; for a weights file, a folder of its own beside it."""
    return path if path.is_dir() else path.with_name(f"{path.stem}_eval")


def open_data(dataset: str, run: LoadedRun) -> PreparedStore:
    """The named data, else the run's own; the latest prepared for a model that names none.

    Raises:
        UsageError: They are not there. Scores on other data are none of the run's, so nobody
            gets them without asking.
    """
    from elastictool.data.paths import find_dataset, require_recorded_dataset
    from elastictool.data.store import PreparedStore

    own = run.config.data.dataset
    if dataset or not own:
        return PreparedStore.open(find_dataset(dataset))
    return PreparedStore.open(require_recorded_dataset(own, run.path, run.name))


def tell_other_data(runs: Sequence[LoadedRun], store: PreparedStore) -> None:
    """Say, before anything is scored, which runs were trained on other data."""
    from elastictool.evaluation.evaluate import same_data

    for run in runs:
        if same_data(run, store) is False:
            say(f"note: {store.path} is not the data that {run.name} was trained on")


def _show(result: Evaluation, files: list[Path]) -> None:
    from elastictool.reporting.evaluation_text import notes, score_rows
    from elastictool.reporting.tables import counted

    document = result.document()
    length = {"own": "own length", "native": "native lengths"}.get(
        result.length, f"{result.length} frames"
    )
    words = [words.replace("_", " ") for words in (result.budget, result.variant) if words]
    clips = counted(result.metrics.clips, "clip")
    print_table(
        f"{result.model} ({result.run}), "
        + ", ".join([f"{result.split} split", length, *words, clips]),
        ["metric", "value (95 % interval)"],
        score_rows(document),
    )
    for note in notes(document):
        say(note)
    for file in files:
        say(f"wrote {file}")
