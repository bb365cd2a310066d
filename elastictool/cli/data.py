"""``elastictool data``: list, show, verify and export prepared data."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elastictool.cli.commands import Command, program
from elastictool.cli.console import log, print_json, print_table, progress
from elastictool.cli.loading import open_dataset
from elastictool.cli.options import (
    DataArgument,
    Encoding,
    JsonOption,
    RawOption,
    StoredSplitOption,
    encoding_option,
)
from elastictool.utils.errors import WriteError
from elastictool.utils.io import as_argument
from elastictool.utils.text import counted

if TYPE_CHECKING:
    from elastictool.data.store import PreparedStore

BAR_WIDTH = 40
REJECTED_SHOWN = 10
PICTURED_S = 60.0
PICTURES_FOLDER = "clips"

app = program(name="data", help="List, show, verify and export prepared data.")


@app.command("list", cls=Command)
def list_(json_output: JsonOption = False) -> None:
    """List the prepared datasets under data/, finished or not.

    Example: elastictool data list
    """
    from elastictool.data.inspect import list_datasets
    from elastictool.data.store import DATA_ROOT

    entries = list_datasets()
    if json_output:
        print_json([dataclasses.asdict(entry) for entry in entries])
        return
    if not entries:
        log(f"no prepared dataset under {DATA_ROOT}; make one: elastictool prep --dataset synth")
        return
    columns = ("name", "corpus", "clips", "classes", "hours", "MB", "state")
    rows = [
        (
            *(entry.name, entry.corpus, entry.clips, entry.classes),
            *(f"{entry.seconds / 3600:.2f}", f"{entry.num_bytes / 1e6:.1f}", entry.state),
        )
        for entry in entries
    ]
    print_table(f"prepared data under {DATA_ROOT}", columns, rows)


@app.command(cls=Command)
def show(
    name: DataArgument = "",
    clip: Annotated[
        str, typer.Option(help="Id of one clip to show, with a picture of its spectrogram.")
    ] = "",
    picture: Annotated[
        Path | None,
        typer.Option(help="PNG file for the picture (default: clips/ID.png in the dataset)."),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Show the splits, classes and lengths of a dataset, or one clip.

    Rejected clips are counted by reason.

    Example: elastictool data show synth --clip train-0003
    """
    store = open_dataset(name)
    if clip:
        _show_clip(store, clip, picture, json_output)
    else:
        _show_dataset(store, json_output)


@app.command(cls=Command)
def verify(name: DataArgument = "", json_output: JsonOption = False) -> None:
    """Decode every clip and compare it with its row.

    Exits 3 if anything is wrong.

    Example: elastictool data verify fsdd-digit
    """
    from elastictool.data.paths import find_dataset
    from elastictool.data.verify import verify as find_faults
    from elastictool.utils.errors import RejectedItemsError

    path = find_dataset(name)
    log(f"dataset {path}")
    store, faults = find_faults(path, progress())
    ids = list(dict.fromkeys(fault.clip for fault in faults if fault.clip))
    if json_output:
        print_json(
            {
                "path": str(store.path),
                "clips": len(store),
                "fingerprint": store.info.fingerprint,
                "sound": not faults,
                "ids": ids,
                "faults": [dataclasses.asdict(fault) for fault in faults],
            }
        )
    elif faults:
        rows = [(fault.clip or "(the dataset)", fault.what) for fault in faults]
        print_table(f"{store.path}: what is wrong", ("clip", "fault"), rows)
    else:
        log(f"{store.path} is sound: {counted(len(store), 'clip')} decoded and compared")
    if faults:
        raise RejectedItemsError(
            f"{store.path} has {counted(len(faults), 'fault')} in {len(ids)} of "
            f"{counted(len(store), 'clip')}",
            "prepare the data again with --overwrite (the disk or a copy may be damaged)",
        )


@app.command(cls=Command)
def export(
    out: Annotated[Path, typer.Option(help="Folder for the files, new or empty.")],
    name: DataArgument = "",
    split: StoredSplitOption = "",
    encoding: Annotated[Encoding, encoding_option("--format")] = "flac",
    lists: Annotated[
        bool, typer.Option("--lists", help="Write the JSON lists of the AST repositories, too.")
    ] = False,
    raw: RawOption = False,
    json_output: JsonOption = False,
) -> None:
    """Write prepared clips as audio files with clips.csv.

    Also writes labels.txt; elastictool prep --dataset csv reads the folder back.

    Example: elastictool data export synth --out synth-files --split test --format wav
    """
    from elastictool.data.export import export as write_files

    store = open_dataset(name)
    bar = progress()
    clips = write_files(
        store, out, split=split, encoding=encoding, lists=lists, raw=raw, progress=bar
    )
    if json_output:
        print_json({"path": str(store.path), "out": str(out), "clips": clips, "format": encoding})
        return
    log(f"wrote {counted(clips, 'clip')} to {out}")
    log(f"read them back: elastictool prep --dataset csv --root {as_argument(out)}")
    if lists:
        log(f"or from the lists: elastictool prep --dataset json --root {as_argument(out)}")


def _show_dataset(store: PreparedStore, json_output: bool) -> None:
    from elastictool.cli.prep import print_facts
    from elastictool.data.inspect import (
        clips_per_class,
        duration_histogram,
        durations_s,
        facts,
        read_rejected,
    )

    report = facts(store)
    histogram = duration_histogram(durations_s(store))
    classes = clips_per_class(store)
    rejected = read_rejected(store.path)
    if json_output:
        lengths = [{"from_s": low, "to_s": high, "clips": n} for low, high, n in histogram]
        more = {"duration_histogram": lengths, "classes": classes, "rejected": rejected}
        print_json({**report, **more})
        return
    print_facts(store, report)
    most = max(count for *_, count in histogram)
    bars = [
        (f"{low:g} to {high:g}", "█" * round(BAR_WIDTH * count / most), count)
        for low, high, count in histogram
    ]
    print_table("lengths", ("seconds", "", "clips"), bars)
    splits = list(store.info.splits)
    rows = [(label, *(counts[split] for split in splits)) for label, counts in classes.items()]
    print_table("clips of each class", ("class", *splits), rows)
    if rejected:
        shown = [(row["id"], row["reason"]) for row in rejected[:REJECTED_SHOWN]]
        print_table(f"left out: {len(rejected)}", ("clip", "reason"), shown)
    if len(rejected) > REJECTED_SHOWN:
        log(f"the first {REJECTED_SHOWN} of {len(rejected)} are shown; all: rejected.csv")


def _show_clip(store: PreparedStore, clip_id: str, picture: Path | None, json: bool) -> None:
    from elastictool.data.export import file_names
    from elastictool.data.inspect import find_clip

    index = find_clip(store, clip_id)
    path = picture or store.path / PICTURES_FOLDER / file_names([clip_id], "png")[0]
    try:
        _draw(store, index, path)
    except WriteError as error:
        if picture:
            raise
        log(f"warning: no picture: {error} (--picture FILE puts it elsewhere)")
    row: dict[str, Any] = dataclasses.asdict(store.clip(index))
    row |= {
        "index": index,
        "seconds": row["num_samples"] / row["sample_rate_hz"],
        "classes": list(store.label_indices(index)),
        "bytes": len(store.audio_bytes(index)),
        "picture": str(path) if path.exists() else None,
    }
    if json:
        print_json(row)
        return
    numbered = zip(row["classes"], row["labels"], strict=True)
    row["classes"] = [f"{label} (class {number})" for number, label in numbered]
    shown = [
        (key, _text(value))
        for key, value in row.items()
        if key != "labels" and value not in (None, "")
    ]
    print_table(clip_id, ("what", "value"), shown)


def _text(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.3f}"
    return str(value)


def _draw(store: PreparedStore, index: int, path: Path) -> None:
    """Draws the clip, or its first minute if it is longer."""
    import torch

    from elastictool.audio.fbank import fbank
    from elastictool.config import FbankConfig
    from elastictool.config.coerce import from_dict
    from elastictool.reporting.audio_figures import save_clip

    config = from_dict(FbankConfig, store.info.fbank_config)
    clip = store.clip(index)
    waveform = store.waveform(index, 0, round(PICTURED_S * clip.sample_rate_hz))
    frames = fbank(torch.from_numpy(waveform), config).numpy()
    seconds = clip.num_samples / clip.sample_rate_hz
    part = f", its first {PICTURED_S:g} s" if seconds > PICTURED_S else ""
    title = f"{clip.id} ({seconds:.2f} s{part})\n{', '.join(clip.labels)} · {clip.split}"
    save_clip(path, title, waveform, frames, config)
