"""``elastictool bench``: measure the speed of the parts on this machine."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elastictool.cli.console import log, print_json, print_table, progress
from elastictool.cli.options import (
    DeviceOption,
    DurationsOption,
    JsonOption,
    LatestDatasetOption,
    PrecisionOption,
    grouped,
    option,
)
from elastictool.cli.ranges import parse_numbers_or_zero
from elastictool.utils.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elastictool.config import ModelConfig, PackingConfig
    from elastictool.evaluation.bench.parts import Bench, Row
    from elastictool.evaluation.bench.workload import Workload

PARTS = ("attention", "planners", "fbank", "loader", "train", "inference")
PLANNED_CLIPS = 20_000
QUICK_DEPTH = 2
"""Blocks of the model where a CPU measures all parts: more take minutes and gigabytes."""


@dataclass(frozen=True)
class WorkloadOptions:
    """The clips and the model to measure on."""

    size: str = option(
        "",
        "Model size: {sizes} (default: base for the loader, else small; tiny where a CPU measures "
        "all parts).",
    )
    depth: int = option(
        0, "Number of blocks of the model (0: 12; 2 where a CPU measures all parts).", min=0
    )
    clips: int = option(24, "Number of clips to measure on.", min=1)
    batch_clips: int = option(12, "Number of clips in a batch.", min=1)
    durations: DurationsOption = None

    def workload(self, size: str = "small", depth: int = 12) -> Workload:
        """Returns the clips with a model, of ``size`` and ``depth`` where these are not given.

        Raises:
            UsageError: There is no such size.
        """
        from elastictool.config import SIZES

        if (self.size or size) not in SIZES:
            raise UsageError(f"--size {self.size!r} is no model size", f"of: {', '.join(SIZES)}")
        return self._build(self.size or size, self.depth or depth, self.clips)

    def many_clips(self) -> Workload:
        """Returns the clips to measure planners on, with a model that is not used."""
        return self._build("tiny", 1, PLANNED_CLIPS)

    def _build(self, size: str, depth: int, clips: int) -> Workload:
        from elastictool.config import PackingConfig
        from elastictool.evaluation.bench.workload import build_workload, epic_like, sample
        from elastictool.evaluation.durations import read_durations

        file = self.durations
        source = epic_like(clips) if file is None else sample(read_durations(file), clips)
        return build_workload(source, size, depth, PackingConfig(batch_clips=self.batch_clips))


@dataclass(frozen=True)
class LoaderOptions:
    """How to measure the loader, and on what."""

    batch_tokens: int = option(
        0, "Number of tokens in a batch of the loader, instead of clips (0: 65536 on CUDA).", min=0
    )
    dataset: LatestDatasetOption = ""
    workers: str = option("0", "Numbers of loader workers to try, e.g. 0,2,8.")


@grouped
def bench(
    parts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PART", help=f"Parts to measure: {', '.join(PARTS)}."),
    ] = None,
    options: WorkloadOptions = WorkloadOptions(),
    loader: LoaderOptions = LoaderOptions(),
    compare: Annotated[
        str, typer.Option(help="Model to compare with: hf (the padded AST of Hugging Face).")
    ] = "",
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
    rounds: Annotated[int, typer.Option(min=1, help="Number of timed rounds.")] = 3,
    out: Annotated[Path | None, typer.Option(help="File for the JSON document.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Measure the speed and memory of the parts on this machine.

    Contenders take turns within one run, so their ratios can be trusted on a busy machine too.
    Without a PART all but the loader are measured, on a CPU with a tiny model, within a minute.

    The loader should deliver 3 times what the model consumes; give it a prepared dataset of some
    hundred clips.

    Example: elastictool bench train inference --size base --compare hf
    """
    import torch

    from elastictool.config import SIZES
    from elastictool.evaluation.bench import parts as parts_of
    from elastictool.evaluation.bench.timing import environment
    from elastictool.training.setup import pick_device
    from elastictool.utils.io import write_json

    chosen = _known_parts(parts)
    if compare not in ("", "hf"):
        raise UsageError(f"--compare {compare!r} is no model to compare with", "hf is")
    how = parts_of.Bench(torch.device(pick_device(device)), precision, rounds)
    quick = not parts and how.device.type == "cpu"
    workload = options.workload("tiny", QUICK_DEPTH) if quick else options.workload()
    size = next(name for name, (width, _) in SIZES.items() if width == workload.model.width)
    log(
        f"clips: {workload.label}; {len(workload.frames)} clips, {sum(workload.tokens):,} tokens; "
        f"model: {size}, {workload.model.depth} blocks"
    )
    rows: list[Row] = []
    for number, part in enumerate(chosen, 1):
        # A bar for each part: a table can be printed on stdout only while no bar is drawn.
        with progress().task(f"measuring {part}, part {number} of {len(chosen)}", 1) as bar:
            if part == "loader":
                model = options.workload("base").model
                packing = loader_packing(how, options.batch_clips, loader.batch_tokens)
                tried = parse_numbers_or_zero(loader.workers, "--workers")
                measured = _loader(loader.dataset, how, model, packing, tried)
            elif part == "planners":
                measured = parts_of.measure_planners(options.many_clips())
            else:
                measured = _measure(part, how, workload, compare)
            bar.advance()
        rows += measured
        if not json_output:
            print_table(part, *_table(measured))
    document: dict[str, Any] = {
        "command": _command(sys.argv[1:]),
        "environment": environment(),
        "clips": workload.label,
        "clip_count": len(workload.frames),
        "model": {"size": size, "depth": workload.model.depth},
        "device": str(how.device),
        "precision": precision,
        "rounds": rounds,
        "rows": rows,
    }
    if out is not None:
        write_json(out, document)
    if json_output:
        print_json(document)


def _command(arguments: Sequence[str]) -> str:
    """Returns the command line that repeats the measurement, with file names but no folders."""
    kept, words = [], iter(arguments)
    for word in words:
        if word == "--out":
            next(words, None)
        elif word != "--json" and not word.startswith("--out="):
            kept.append(Path(word).name if "/" in word else word)
    return shlex.join(["elastictool", *kept])


def _known_parts(parts: list[str] | None) -> list[str]:
    unknown = [part for part in parts or () if part not in PARTS]
    if unknown:
        raise UsageError(f"there is no part {unknown[0]!r} to measure", f"of: {', '.join(PARTS)}")
    # The loader needs prepared data, so it is measured on request only.
    return list(dict.fromkeys(parts)) if parts else [part for part in PARTS if part != "loader"]


def _measure(part: str, how: Bench, workload: Workload, compare: str) -> list[Row]:
    from elastictool.evaluation.bench import hugging_face, parts

    if part == "attention":
        return parts.measure_attention(how, workload)
    if part == "fbank":
        return parts.measure_fbank(how)
    training = part == "train"
    others = hugging_face.contender(how, workload, training) if compare else None
    return parts.measure_model(how, workload, training, others)


def loader_packing(how: Bench, batch_clips: int, batch_tokens: int) -> PackingConfig:
    """Returns the packing that ``bench loader`` measures: on CUDA in batches that fill a GPU."""
    from elastictool.config import PackingConfig
    from elastictool.evaluation.bench.loading import CUDA_TOKENS

    usual = CUDA_TOKENS if how.device.type == "cuda" else 0
    return PackingConfig(batch_clips=batch_clips, batch_tokens=batch_tokens or usual)


def _loader(
    dataset: str, how: Bench, model: ModelConfig, packing: PackingConfig, workers: list[int]
) -> list[Row]:
    from elastictool.config import AugmentConfig, FbankConfig, LengthConfig
    from elastictool.data.dataset import ClipDataset
    from elastictool.data.feature_extractor import FeatureExtractor
    from elastictool.data.paths import find_dataset
    from elastictool.data.store import PreparedStore
    from elastictool.evaluation.bench.loading import measure_loader, plan_batches

    store = PreparedStore.open(find_dataset(dataset))
    log(f"loading {store.path}, {len(store)} clips")
    feature_extractor = FeatureExtractor(
        FbankConfig(), LengthConfig(), model.patch_size, model.patch_stride, 0.0, 1.0
    )
    data = ClipDataset(store, feature_extractor, AugmentConfig(), cache_mb=0)
    return measure_loader(
        how, data, plan_batches(data, packing, workers, model.prefix_tokens), model, workers
    )


FORMATS = {
    "clips_per_second": ("clips/s", "{:,.1f}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
    "times_consumed": ("x consumed", "{:.1f}"),
    "milliseconds": ("ms per 10 s", "{:.2f}"),
    "speed_against_reference": ("x reference", "{:.2f}"),
    "speed_against_torchaudio": ("x torchaudio", "{:.2f}"),
    "peak_memory_mb": ("peak MB", "{:,.0f}"),
    "padding_share": ("padding", "{:.1%}"),
    "model_flops_utilisation": ("of matmul peak", "{:.0%}"),
}


def _table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    fields = [field for field in FORMATS if any(row.get(field) is not None for row in rows)]
    body = [
        [
            str(row["contender"]),
            *(
                "" if row.get(field) is None else FORMATS[field][1].format(row[field])
                for field in fields
            ),
        ]
        for row in rows
    ]
    return ["contender", *(FORMATS[field][0] for field in fields)], body
