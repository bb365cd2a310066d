"""``elastictool prep``: from raw audio to a prepared dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from elastictool.cli.console import print_json, print_table, progress, say
from elastictool.errors import UsageError

if TYPE_CHECKING:
    from elastictool.data.store import PreparedStore

PERCENTILES = (0, 10, 50, 90, 99, 100)


def prep(
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            "-d",
            help="synth (rendered, nothing to download), folder, csv, json (lists of the AST "
            "repositories), audioset, vggsound, voxceleb, epic-sounds, esc50, speech-commands "
            "or fsdd.",
        ),
    ] = "synth",
    root: Annotated[
        Path | None, typer.Option(help="Where the corpus lies: a folder, or the table of csv.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of all prepared datasets (default: data).")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the prepared dataset.")] = "",
    task: Annotated[str, typer.Option(help="What to classify. fsdd: digit or speaker.")] = "",
    subset: Annotated[
        str, typer.Option(help="Part of a corpus. audioset: full, balanced; esc50: esc10.")
    ] = "",
    channel: Annotated[
        str, typer.Option(help="Of files with several channels: mean, first, or 0, 1, ...")
    ] = "mean",
    encoding: Annotated[
        str, typer.Option(help="flac (half the size) or wav (faster to read), 16 bit.")
    ] = "flac",
    trim_silence: Annotated[
        bool, typer.Option("--trim-silence", help="Cut digital silence off both ends (ESC-50).")
    ] = False,
    max_seconds: Annotated[
        float, typer.Option(min=0, help="Keep the first S seconds of each clip (0: all).")
    ] = 0.0,
    frontend: Annotated[
        str,
        typer.Option(
            help="Log-mel frames to prepare for: kaldi (16 kHz) or epic-librosa (24 kHz)."
        ),
    ] = "kaldi",
    limit: Annotated[
        int,
        typer.Option(
            min=0,
            help="Only N clips: shared among splits in proportion, taken by turns of class "
            "(0: all).",
        ),
    ] = 0,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes (0: one per core). Any number, same bytes.")
    ] = 0,
    seed: Annotated[
        int, typer.Option(min=0, help="Of splits that are drawn and of synth's clips.")
    ] = 0,
    max_rejected: Annotated[
        float, typer.Option(min=0, max=1, help="Share of unusable clips above which to exit 3.")
    ] = 0.01,
    download: Annotated[
        bool,
        typer.Option("--download", help="Fetch it first (fsdd, esc50, speech-commands)."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the prepared dataset of this name.")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Decode, check, resample to mono of one rate, store and measure a corpus.

    Killed or interrupted, the same command continues. Clips that cannot be used are listed in
    rejected.csv and left out. Without data, it says what to download and where to put it.

    Example: elastictool prep --dataset fsdd --task digit --download
    """
    from elastictool.config import frontend_config
    from elastictool.corpora.base import CorpusOptions
    from elastictool.data.prepare import prepare
    from elastictool.data.shards import PrepSettings
    from elastictool.data.store import DATA_ROOT
    from elastictool.data.summary import check_rejected

    settings = PrepSettings(
        encoding=_encoding(encoding),
        channel=_channel(channel),
        trim_silence=trim_silence,
        max_seconds=max_seconds,
        fbank=frontend_config(frontend),
    )
    if download:
        _download(dataset, root)
    store = prepare(
        dataset,
        root,
        out or DATA_ROOT,
        name=name,
        options=CorpusOptions(task=task, subset=subset, seed=seed),
        settings=settings,
        limit=limit,
        workers=workers,
        overwrite=overwrite,
        progress=progress(),
    )
    _draw(store)
    report = _report(store)
    if json_output:
        print_json(report)
    else:
        _print_tables(store, report)
    check_rejected(store.info, max_rejected)


def _encoding(text: str) -> Literal["flac", "wav"]:
    if text not in ("flac", "wav"):
        raise UsageError(f"--encoding {text!r} is unknown", "flac or wav")
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


def _report(store: PreparedStore) -> dict[str, Any]:
    """What ``--json`` prints: ``dataset.json`` and what follows from it."""
    import numpy as np

    durations_s = store.num_samples / store.info.sample_rate_hz
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
        "clips_per_class": _clips_per_class(store),
    }


def _clips_per_class(store: PreparedStore) -> dict[str, int]:
    counts = dict.fromkeys(store.info.label_names, 0)
    for index in range(len(store)):
        for label in store.label_indices(index):
            counts[store.info.label_names[label]] += 1
    return counts


def _print_tables(store: PreparedStore, report: dict[str, Any]) -> None:
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
        say(f"note: {note}")
    say(f"next: elastictool train --dataset {_as_argument(store)}")


def _as_argument(store: PreparedStore) -> str:
    """The name where ``train`` finds it by name, else the folder."""
    from elastictool.data.store import DATA_ROOT

    return store.path.name if store.path.parent == DATA_ROOT else str(store.path)
