"""``elastictool eval``: score one run on one split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from elastictool.cli.console import log, log_lines, print_json, print_table, progress
from elastictool.cli.loading import (
    locate_run,
    note_other_data,
    open_data,
    open_run,
    results_folder,
)
from elastictool.cli.options import (
    BudgetOptions,
    DatasetOption,
    JsonOption,
    RawOption,
    RunChoice,
    SplitOption,
    grouped,
    option,
)
from elastictool.utils.errors import UsageError
from elastictool.utils.io import check_output
from elastictool.utils.signals import stoppable

if TYPE_CHECKING:
    from elastictool.evaluation.evaluate import Evaluation


@dataclass(frozen=True)
class EvalOptions:
    """At which length to score, and where the results go."""

    length: str = option("", "Input length in frames, or native (default: as trained).")
    out: Path | None = option(
        None, "Folder for results (default: the run, or FILE_eval/ for a file)."
    )
    predictions: Path | None = option(None, "File for the scores of every clip: .csv or .jsonl.")
    raw: RawOption = False


@grouped
def evaluate(
    run: RunChoice = RunChoice(),
    split: SplitOption = "test",
    dataset: DatasetOption = "",
    model: BudgetOptions = BudgetOptions(),
    options: EvalOptions = EvalOptions(),
    json_output: JsonOption = False,
) -> None:
    """Evaluate a trained run on one split of its data.

    Prints top-1, top-5, mean class accuracy, mAP, mAUC and d' with 95 % bootstrap intervals over
    the groups of the data, else over clips; multi-label runs also get F1 at the thresholds that
    validation chose, and at 0.5. Writes results/eval_SPLIT.json, CSV files by class and of
    confusions, their figures and report.html into the run directory; into another folder all but
    the report.

    Example: elastictool eval runs/synth-elasticast --split test --length 128
    """
    frames = _length(options.length)
    path = locate_run(run.text)
    out_folder = options.out or results_folder(path)
    for folder in (out_folder, out_folder / "results", out_folder / "figures"):
        check_output(folder)

    from elastictool.checkpoint.run_directory import environment
    from elastictool.cli.clip_output import check_predictions, write_predictions
    from elastictool.evaluation.evaluate import evaluate_run, save_evaluation
    from elastictool.reporting.run_report import report_evaluation

    if options.predictions is not None:
        check_predictions(options.predictions)
    loaded = open_run(path, model)
    store = open_data(dataset, loaded)
    log(f"run {path} ({model.which} checkpoint), dataset {store.path}, {split} split")
    note_other_data([loaded], store)
    with stoppable("eval writes nothing before its end", "the same command starts again") as stop:
        result = evaluate_run(
            loaded,
            store,
            split,
            frames,
            model.precision,
            model.which,
            progress=progress(),
            between=stop.check,
        )
    about = {
        "checkpoint": model.which,
        "precision": model.precision,
        "raw_csv": options.raw,
        "environment": environment(store.info.fingerprint),
    }
    files: list[Path] = []
    try:
        files += save_evaluation(out_folder, result, about)
        files += report_evaluation(out_folder, result.stem)
        if options.predictions is not None:
            files.append(write_predictions(options.predictions, result, loaded, store, options.raw))
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


def _show(result: Evaluation, files: list[Path]) -> None:
    from elastictool.reporting.evaluations import notes, score_rows, value_heading
    from elastictool.utils.text import counted

    document = result.document()
    length = {"own": "own length", "native": "native lengths"}.get(
        result.length, f"{result.length} frames"
    )
    words = [words.replace("_", " ") for words in (result.budget, result.variant) if words]
    clips = counted(result.metrics.clips, "clip")
    print_table(
        f"{result.model} ({result.run}), "
        + ", ".join([f"{result.split} split", length, *words, clips]),
        ["metric", value_heading(document)],
        score_rows(document),
    )
    log_lines("", notes(document))
    log_lines("wrote ", files)
