"""``elastictool prep``: from raw audio to a prepared dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from elastictool.cli.console import log, print_json, print_table, progress
from elastictool.utils.errors import UsageError
from elastictool.utils.io import as_argument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elastictool.data.job_shards import JobShard
    from elastictool.data.plan import Plan
    from elastictool.data.shards import ShardReport
    from elastictool.data.store import PreparedStore

CORPUS, STORED, RESULT, WORK = "What to prepare", "What to store", "Result", "Who does the work"
PERCENTILES = (0, 10, 50, 90, 99, 100)
SMALL_CLIPS = 20_000
"""Fewer clips than this are too few for a large model from new weights."""


def prep(
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            "-d",
            help="synth (rendered, nothing to download), folder, csv, json (lists of the AST "
            "repositories), audioset, vggsound, voxceleb, epic-sounds, esc50, speech-commands "
            "or fsdd.",
            rich_help_panel=CORPUS,
        ),
    ] = "synth",
    root: Annotated[
        Path | None,
        typer.Option(
            help="Where the corpus lies: a folder, or the table of csv.", rich_help_panel=CORPUS
        ),
    ] = None,
    download: Annotated[
        bool,
        typer.Option(
            "--download",
            help="Fetch it first (fsdd, esc50, speech-commands).",
            rich_help_panel=CORPUS,
        ),
    ] = False,
    task: Annotated[
        str,
        typer.Option(help="What to classify. fsdd: digit or speaker.", rich_help_panel=CORPUS),
    ] = "",
    subset: Annotated[
        str,
        typer.Option(
            help="Part of a corpus. audioset: full, balanced; esc50: esc10.",
            rich_help_panel=CORPUS,
        ),
    ] = "",
    limit: Annotated[
        int,
        typer.Option(
            min=0,
            help="Only N clips: shared among splits in proportion, taken by turns of class "
            "(0: all).",
            rich_help_panel=CORPUS,
        ),
    ] = 0,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            help="Of splits that are drawn, of synth's clips and of --stats-clips.",
            rich_help_panel=CORPUS,
        ),
    ] = 0,
    channel: Annotated[
        str,
        typer.Option(
            help="Of files with several channels: mean, first, or 0, 1, ...",
            rich_help_panel=STORED,
        ),
    ] = "mean",
    trim_silence: Annotated[
        bool,
        typer.Option(
            "--trim-silence",
            help="Cut digital silence off both ends (ESC-50).",
            rich_help_panel=STORED,
        ),
    ] = False,
    max_seconds: Annotated[
        float,
        typer.Option(
            min=0, help="Keep the first S seconds of each clip (0: all).", rich_help_panel=STORED
        ),
    ] = 0.0,
    frontend: Annotated[
        str,
        typer.Option(
            help="Log-mel frames to prepare for: kaldi (16 kHz) or epic-librosa (24 kHz).",
            rich_help_panel=STORED,
        ),
    ] = "kaldi",
    encoding: Annotated[
        str,
        typer.Option(
            help="flac (half the size) or wav (faster to write and read), 16 bit.",
            rich_help_panel=STORED,
        ),
    ] = "flac",
    stats_clips: Annotated[
        int,
        typer.Option(
            min=0,
            help="Measure log-mel mean and deviation on N drawn training clips (0: exact, on all).",
            rich_help_panel=STORED,
        ),
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of all prepared datasets (default: data).", rich_help_panel=RESULT
        ),
    ] = None,
    name: Annotated[
        str, typer.Option(help="Name of the prepared dataset.", rich_help_panel=RESULT)
    ] = "",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace the prepared dataset of this name.",
            rich_help_panel=RESULT,
        ),
    ] = False,
    max_rejected: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of unusable or missing clips above which to exit 3.",
            rich_help_panel=RESULT,
        ),
    ] = 0.01,
    json_output: Annotated[
        bool, typer.Option("--json", help="One JSON document.", rich_help_panel=RESULT)
    ] = False,
    workers: Annotated[
        int,
        typer.Option(
            min=0,
            help="Processes (0: one per core where that pays). Any number, same bytes.",
            rich_help_panel=WORK,
        ),
    ] = 0,
    scheduler: Annotated[
        str,
        typer.Option(
            help="Let the workers of a Dask cluster do it: tcp://HOST:8786 (extra dask).",
            rich_help_panel=WORK,
        ),
    ] = "",
    part: Annotated[
        str,
        typer.Option(
            help="Only the I-th of N parts, for a batch queue: 3/16. Afterwards --merge.",
            rich_help_panel=WORK,
        ),
    ] = "",
    merge: Annotated[
        bool,
        typer.Option(
            "--merge",
            help="Make the dataset of all parts; same options otherwise.",
            rich_help_panel=WORK,
        ),
    ] = False,
) -> None:
    """Decode, check, resample and store a corpus for training.

    Killed or interrupted, the same command continues. Clips that cannot be used are listed in
    rejected.csv and left out. Without data, it says what to download and where to put it.

    Example: elastictool prep --dataset fsdd --task digit --download
    """
    from elastictool.config.loader import frontend_config
    from elastictool.corpora.base import CorpusOptions
    from elastictool.data.job_shards import JobShard
    from elastictool.data.options import PrepOptions, StorageOptions
    from elastictool.data.plan import plan
    from elastictool.data.prepare import carry_out, prepare_job_shard
    from elastictool.data.prepare import merge as merge_parts
    from elastictool.data.store import DATA_ROOT
    from elastictool.data.summary import check_rejected

    wanted = JobShard.parse(part) if part else None
    _check_way(bool(part), merge, overwrite, scheduler)
    options = PrepOptions(
        dataset,
        root,
        out or DATA_ROOT,
        name,
        CorpusOptions(task, subset, seed),
        StorageOptions(
            checked_encoding(encoding),
            _channel(channel),
            trim_silence,
            max_seconds,
            frontend_config(frontend),
            stats_clips,
        ),
        limit,
        workers,
        scheduler,
        overwrite,
    )
    if download:
        _download(dataset, root)
    planned = plan(options)
    if wanted:
        _tell_part(wanted, planned, prepare_job_shard(planned, wanted, progress()), json_output)
        return
    store = (merge_parts if merge else carry_out)(planned, progress())
    _draw(store)
    report = facts(store)
    if json_output:
        print_json(report)
    else:
        print_facts(store, report)
        log(f"next: elastictool {_next(store)}")
    check_rejected(store.info, max_rejected, missing_too=not limit)


def _check_way(part: bool, merge: bool, overwrite: bool, scheduler: str) -> None:
    """Raise UsageError for ways of working that exclude each other."""
    if part and merge:
        raise UsageError("--part and --merge exclude each other", "first all parts, then --merge")
    if overwrite and (part or merge):
        raise UsageError(
            "--overwrite would delete what other parts have done",
            "delete the folder before the first part, or choose another --name",
        )
    if merge and scheduler:
        raise UsageError("--merge only sums up, there is nothing to schedule", "leave one out")


def _tell_part(part: JobShard, plan: Plan, reports: Sequence[ShardReport], as_json: bool) -> None:
    """What one part has done; the dataset's own report comes with ``--merge``."""
    rejected = sum(len(report.rejected) for report in reports)
    clips = sum(report.rows for report in reports) + rejected
    if as_json:
        shards = {"shards": len(reports), "of": len(plan.tasks)}
        counts = {"clips": clips, "rejected": rejected}
        print_json({"path": str(plan.folder), "part": str(part), **shards, **counts})
        return
    log(
        f"part {part} of {plan.folder}: {len(reports)} of {len(plan.tasks)} shards, {clips} clips, "
        f"{rejected} of them rejected"
    )
    log("when all parts are done: the same command with --merge instead of --part")


def checked_encoding(text: str, option: str = "--encoding") -> Literal["flac", "wav"]:
    """``flac`` or ``wav``.

    Raises:
        UsageError: ``option`` says something else.
    """
    if text not in ("flac", "wav"):
        raise UsageError(f"{option} {text!r} is unknown", "flac or wav")
    return cast('Literal["flac", "wav"]', text)


def _channel(text: str) -> str | int:
    if text == "mean":
        return text
    if text == "first":
        return 0
    if text.isascii() and text.isdigit():
        return int(text)
    raise UsageError(f"--channel {text!r} is unknown", "mean, first, or a number counted from 0")


def _download(dataset: str, root: Path | None) -> None:
    from elastictool.corpora.base import CORPORA, DownloadableCorpus

    corpus = CORPORA[dataset]
    place = root or corpus.default_root
    if not isinstance(corpus, DownloadableCorpus) or place is None:
        raise UsageError(f"--dataset {dataset} cannot be downloaded by us", corpus.describe())
    corpus.download(place, progress())


def _draw(store: PreparedStore) -> None:
    """``durations.png``, unless a finished dataset has it already."""
    from elastictool.data.prepare import DURATIONS_NAME
    from elastictool.reporting.durations import save_durations

    if not (store.path / DURATIONS_NAME).exists():
        durations_s = store.num_samples / store.info.sample_rate_hz
        parts = {split: durations_s[store.splits == split] for split in store.info.splits}
        save_durations(store.path / DURATIONS_NAME, store.info.name, parts)


def facts(store: PreparedStore) -> dict[str, Any]:
    """What ``--json`` prints: ``dataset.json`` and what follows from it."""
    import numpy as np

    from elastictool.data.inspect import clips_per_class
    from elastictool.data.inspect import durations_s as durations_of

    durations_s, per_class = durations_of(store), clips_per_class(store)
    mean, std = store.info.fbank_stats()
    return {
        "path": str(store.path),
        **store.info.to_json(),
        "durations_s": {
            f"p{share}": round(float(np.percentile(durations_s, share)), 4) for share in PERCENTILES
        },
        "total_s": round(float(durations_s.sum()), 3),
        "fbank_mean": mean,
        "fbank_std": std,
        "clips_per_class": {label: sum(splits.values()) for label, splits in per_class.items()},
    }


def print_facts(store: PreparedStore, report: dict[str, Any]) -> None:
    """The facts as tables, the corpus's notes on stderr."""
    from elastictool.data.prepare import DURATIONS_NAME
    from elastictool.data.summary import REJECTED_NAME

    info = store.info
    columns = ("split", "expected", "found", "missing", "rejected", "prepared", "silent")
    rows = [
        (split, c.expected or "–", c.found, c.missing, c.rejected, c.prepared, c.silent)
        for split, c in info.splits.items()
    ]
    print_table(f"{info.name}: clips", columns, rows)
    durations = [f"{report['durations_s'][f'p{share}']:.2f}" for share in PERCENTILES]
    labels = ("min", "10 %", "median", "90 %", "99 %", "max")
    print_table("length in seconds", (*labels, "total"), [(*durations, f"{report['total_s']:.0f}")])
    per_class = report["clips_per_class"].values()
    kind = "multi-label" if info.multi_label else "single-label"
    rates = ", ".join(f"{count} at {rate} Hz" for rate, count in info.source_rates.items())
    print_table(
        "data",
        ("what", "value"),
        [
            ("classes", f"{len(info.label_names)} ({kind})"),
            ("clips a class", f"{min(per_class)} to {max(per_class)}"),
            ("source rates", rates),
            ("stored", f"{info.sample_rate_hz} Hz mono, {info.encoding}, {info.resampler}"),
            ("log-mel mean, deviation", f"{report['fbank_mean']:.4f}, {report['fbank_std']:.4f}"),
            ("folder", store.path),
            ("lengths", store.path / DURATIONS_NAME),
            ("left out", store.path / REJECTED_NAME),
        ],
    )
    for note in info.notes:
        log(f"note: {note}")


def _next(store: PreparedStore) -> str:
    """What data are for: those without clips to train on are recordings for a trained model."""
    if "train" not in set(store.splits.tolist()):
        return f"eval RUN --dataset {_as_argument(store)}"
    recipe = " --recipe small_data" if len(store) < SMALL_CLIPS else ""
    return f"train --dataset {_as_argument(store)}{recipe}{_settings(store)}"


def _settings(store: PreparedStore) -> str:
    """What training on these data must be told: front end, fold to test on, validation, loss."""
    settings = []
    frontend = store.info.fbank_config.get("frontend", "kaldi")
    if frontend != "kaldi":
        settings.append(f"fbank.frontend={frontend}")
    splits, folds = set(store.splits.tolist()), sorted(set(store.folds.tolist()))
    if len(folds) > 1 and splits == {"train"}:
        settings.append(f"data.test_fold={folds[0] or folds[1]}")
    if "val" not in splits:
        settings.append("data.validation_fraction=0.1")
    if store.info.multi_label:
        settings.append("train.loss=bce")
    return "".join(f" --set {setting}" for setting in settings)


def _as_argument(store: PreparedStore) -> str:
    """The name where ``train`` finds it by name, else the folder."""
    from elastictool.data.store import DATA_ROOT

    return as_argument(store.path.name if store.path.parent == DATA_ROOT else store.path)
