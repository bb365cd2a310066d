"""``elastictool tokens``: count padding and cut tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from elastictool.cli.console import log, print_json, print_table
from elastictool.cli.options import DurationsOption, JsonOption
from elastictool.cli.ranges import parse_numbers
from elastictool.utils.errors import UsageError

if TYPE_CHECKING:
    from elastictool.config import Edge
    from elastictool.evaluation.durations import Durations

BATCH_SIZES = ["12", "24", "48"]
FIXED_FRAMES = ["1024"]


def tokens(
    batch_size: Annotated[
        list[str], typer.Option(metavar="N ...", help="Clips in a batch; several at once.")
    ] = BATCH_SIZES,
    dataset: Annotated[
        str,
        typer.Option("--dataset", "-d", help="Prepared dataset: a folder, or a name under data/."),
    ] = "",
    split: Annotated[str, typer.Option(help="Split of the dataset (default: all).")] = "",
    durations: DurationsOption = None,
    stand_in: Annotated[
        bool, typer.Option("--stand-in", help="Use the bundled stand-in for VoxCeleb.")
    ] = False,
    clips: Annotated[
        int, typer.Option(min=0, help="Number of clips of the stand-in; 0: as VoxCeleb.")
    ] = 0,
    frames: Annotated[
        list[str], typer.Option(metavar="T ...", help="Input lengths of standard ASTs.")
    ] = FIXED_FRAMES,
    planner: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME ...", help="Packing planners, or flat (default: all)."),
    ] = None,
    capacity: Annotated[int, typer.Option(min=1, help="Tokens in a row.")] = 2048,
    window: Annotated[
        int, typer.Option(min=1, help="Clips that window planners choose among.")
    ] = 4096,
    max_frames: Annotated[int, typer.Option(min=1, help="Cap on the frames of a clip.")] = 3072,
    edge: Annotated[
        str, typer.Option(help="Treatment of the incomplete last patch: pad or drop.")
    ] = "pad",
    patch: Annotated[int, typer.Option(min=1, help="Side of a patch in mel bins and frames.")] = 16,
    shift_ms: Annotated[
        float | None,
        typer.Option(help="Time between frames in ms (default: the prepared data's, or 10)."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the order of the clips.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for tokens.csv, tokens.png and tokens.svg.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Count padding and cut tokens of each model and planner.

    Counts one epoch in a seeded random order. Takes the latest prepared dataset, or the bundled
    stand-in for VoxCeleb where nothing is prepared, and says which. Planners that choose which
    clips share a batch do so within windows of the shuffled clips.

    Example: elastictool tokens --batch-size 12 24 48 --durations clips.csv
    """
    if shift_ms is not None and not shift_ms > 0:
        raise UsageError(f"--shift-ms {shift_ms:g} is not above 0", "e.g. 10")

    from elastictool.evaluation.tokens import TokenRule, TokenSettings, count_tokens
    from elastictool.reporting import token_table

    settings = TokenSettings(
        batch_sizes=parse_numbers(batch_size, "--batch-size"),
        planners=planner or (),
        fixed_frames=parse_numbers(frames, "--frames"),
        capacity=capacity,
        window=window,
        rule=TokenRule(max_frames, patch, _edge(edge)),
        shift_ms=shift_ms,
        seed=seed,
    )
    source = _source(dataset, split, durations, stand_in, clips)
    log(f"source: {source.label}")
    report = count_tokens(source, settings)
    files = token_table.write_files(report, out) if out else []
    if json_output:
        print_json(token_table.document(report) | {"files": [str(path) for path in files]})
        return
    print_table(f"token use: {report.source}", *token_table.table(report))
    for note in token_table.notes(report):
        log(note)
    for path in files:
        log(f"wrote {path}")


def _edge(text: str) -> Edge:
    edges: dict[str, Edge] = {"pad": "pad", "drop": "drop"}
    if text in edges:
        return edges[text]
    raise UsageError(f"--edge {text!r} is neither pad nor drop", "the published code drops")


def _source(dataset: str, split: str, file: Path | None, stand_in: bool, clips: int) -> Durations:
    """Returns the durations that the options name; by default those of the latest data."""
    from elastictool.evaluation import durations

    stand_in = stand_in or clips > 0
    if bool(dataset) + (file is not None) + stand_in > 1:
        raise UsageError(
            "--dataset, --durations and --stand-in (--clips) exclude one another",
            "give one of them",
        )
    if split and (file is not None or stand_in):
        raise UsageError("--split needs a prepared dataset", "give --dataset, or leave it out")
    if file is not None:
        return durations.read_durations(file)
    drawn = durations.stand_in(clips or durations.VOXCELEB_TRAIN_CLIPS)
    if stand_in:
        return drawn
    from elastictool.data.paths import find_dataset
    from elastictool.data.store import PreparedStore

    try:
        path = find_dataset(dataset)
    except UsageError as error:
        if dataset or split:
            raise
        log(f"{error.message}; taking the bundled stand-in")
        return drawn
    return durations.prepared_durations(PreparedStore.open(path), split)
