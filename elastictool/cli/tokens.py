"""``elastictool tokens``: count padding and cut tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from elastictool.cli.console import log, log_lines, print_json, print_table
from elastictool.cli.options import (
    DurationsOption,
    JsonOption,
    LatestDatasetOption,
    StoredSplitOption,
    grouped,
    option,
)
from elastictool.cli.ranges import parse_numbers
from elastictool.utils.errors import UsageError

if TYPE_CHECKING:
    from elastictool.config import Edge
    from elastictool.evaluation.durations import Durations
    from elastictool.evaluation.tokens import TokenSettings


@dataclass(frozen=True)
class SourceOptions:
    """The clips whose durations are counted."""

    dataset: LatestDatasetOption = ""
    split: StoredSplitOption = ""
    durations: DurationsOption = None
    stand_in: bool = option(False, "Use the bundled stand-in for VoxCeleb.")
    clips: int = option(0, "Number of clips of the stand-in (0: as VoxCeleb).", min=0)

    def read(self) -> Durations:
        """Returns the durations; without any option the latest data's, else the stand-in's.

        Raises:
            UsageError: Options exclude one another, or what they name is not there.
        """
        from elastictool.evaluation import durations

        stand_in = self.stand_in or self.clips > 0
        if bool(self.dataset) + (self.durations is not None) + stand_in > 1:
            raise UsageError(
                "--dataset, --durations and --stand-in (--clips) exclude one another",
                "give one of them",
            )
        if self.split and (self.durations is not None or stand_in):
            raise UsageError("--split needs a prepared dataset", "give --dataset, or leave it out")
        if self.durations is not None:
            return durations.read_durations(self.durations)
        drawn = durations.stand_in(self.clips or durations.VOXCELEB_TRAIN_CLIPS)
        if stand_in:
            return drawn
        from elastictool.data.paths import find_dataset
        from elastictool.data.store import PreparedStore

        try:
            path = find_dataset(self.dataset)
        except UsageError as error:
            if self.dataset or self.split:
                raise
            log(f"{error.message}; taking the bundled stand-in")
            return drawn
        return durations.prepared_durations(PreparedStore.open(path), self.split)


@dataclass(frozen=True)
class CountOptions:
    """The models, planners and batches that are compared."""

    batch_size: list[str] = option(
        ["12", "24", "48"], "Numbers of clips in a batch.", metavar="N ..."
    )
    frames: list[str] = option(["1024"], "Input lengths of standard ASTs.", metavar="T ...")
    planner: list[str] | None = option(
        None, "Packing planners: {planners} (default: all).", metavar="NAME ..."
    )
    capacity: int = option(2048, "Number of tokens in a row.", min=1)
    window: int = option(4096, "Number of clips that window planners choose among.", min=1)
    max_frames: int = option(3072, "Number of frames after which clips are cut.", min=1)
    edge: str = option("pad", "Treatment of the incomplete last patch: pad or drop.")
    patch: int = option(16, "Side of a patch in mel bins and frames.", min=1)
    shift_ms: float | None = option(
        None, "Time between frames in ms (default: the prepared data's, or 10)."
    )
    seed: int = option(0, "Seed of the order of the clips.", min=0)

    def settings(self) -> TokenSettings:
        """Returns the options as settings of a token table.

        Raises:
            UsageError: A value is not valid.
        """
        from elastictool.evaluation.tokens import TokenRule, TokenSettings

        if self.shift_ms is not None and not self.shift_ms > 0:
            raise UsageError(f"--shift-ms {self.shift_ms:g} is not above 0", "e.g. 10")
        return TokenSettings(
            batch_sizes=parse_numbers(self.batch_size, "--batch-size"),
            planners=self.planner or (),
            fixed_frames=parse_numbers(self.frames, "--frames"),
            capacity=self.capacity,
            window=self.window,
            rule=TokenRule(self.max_frames, self.patch, _edge(self.edge)),
            shift_ms=self.shift_ms,
            seed=self.seed,
        )


@grouped
def tokens(
    source: SourceOptions = SourceOptions(),
    counted: CountOptions = CountOptions(),
    out: Annotated[
        Path | None, typer.Option(help="Folder for tokens.csv, tokens.png and tokens.svg.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Count padding and cut tokens of each model and planner.

    Counts one epoch in a seeded random order. Takes the latest prepared dataset, or the bundled
    stand-in for VoxCeleb where nothing is prepared. Planners that choose which
    clips share a batch do so within windows of the shuffled clips.

    Example: elastictool tokens --batch-size 12 24 48 --durations clips.csv
    """
    from elastictool.evaluation.tokens import count_tokens
    from elastictool.reporting import token_table

    settings = counted.settings()
    durations = source.read()
    log(f"source: {durations.label}")
    report = count_tokens(durations, settings)
    files = token_table.write_files(report, out) if out else []
    if json_output:
        print_json(token_table.document(report) | {"files": [str(path) for path in files]})
        return
    print_table(f"token use: {report.source}", *token_table.table(report))
    log_lines("", token_table.notes(report))
    log_lines("wrote ", files)


def _edge(text: str) -> Edge:
    edges: dict[str, Edge] = {"pad": "pad", "drop": "drop"}
    if text in edges:
        return edges[text]
    raise UsageError(f"--edge {text!r} is neither pad nor drop", "the published code drops")
