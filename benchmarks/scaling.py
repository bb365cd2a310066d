"""Measure how cost grows with the spread of lengths, tokens, clips and ranks; and loading.

    python -m benchmarks.scaling spread memory epochs ranks [--epic EPIC_Sounds_validation.csv]
    python -m benchmarks.scaling processes
    python -m benchmarks.scaling input --dataset DIR

With ``--write``, each part goes to ``docs/results/performance/PART.json``, from which
``docs/performance.md`` is made.
Times are processor times of one thread but for loading ahead and for processes, which are about
wall time: contenders take turns, so ratios hold on a busy machine (of processes they do not: they
need a core each). Memory is counted in bytes kept for the backward pass, which no other program can
disturb. Ranks are simulated: their clips are divided, nothing runs; processes run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from benchmarks.attention import RowsWithFusedKernel
from benchmarks.pages import RESULTS
from benchmarks.processes import processes
from elastictool.config import (
    SIZES,
    AugmentConfig,
    FbankConfig,
    LengthConfig,
    ModelConfig,
    PackingConfig,
)
from elastictool.config.loader import load_run_config
from elastictool.data.collate import collate
from elastictool.data.dataset import ClipDataset
from elastictool.data.device_transfer import DeviceTransfer
from elastictool.data.feature_extractor import Crop, FeatureExtractor
from elastictool.data.loader import load_batches
from elastictool.data.raw import collate_raw
from elastictool.data.samplers import BatchPlan, TrainingSampler
from elastictool.data.store import PreparedStore
from elastictool.evaluation.bench.parts import Bench, run_model
from elastictool.evaluation.bench.timing import environment, interleaved, peak_memory_mb
from elastictool.evaluation.bench.workload import Workload, build_workload, epic_like
from elastictool.evaluation.durations import Durations, frames_of, read_durations
from elastictool.evaluation.tokens import TokenRule
from elastictool.models.attention.base import ATTENTION
from elastictool.packing.planners import Counts, assign_lpt
from elastictool.utils.io import write_json
from elastictool.utils.rng import clip_rng

FOLDER = RESULTS / "performance"
CPU = torch.device("cpu")
Rows = list[dict[str, Any]]

MEAN_SECONDS = 3.0
SPREADS = (0.0, 0.4, 0.8, 1.2)
SPREAD_CLIPS = 12
PATHS = {
    "padded": ("rows-sdpa", "none"),
    "dense mask": ("reference", "first-come"),
    "dense mask, fused kernel": ("rows-sdpa", "first-come"),
    "segments": ("split", "first-come"),
}
"""Attention and planner of each way to batch clips of different lengths."""
EPOCH_CLIPS = (1_000, 10_000, 100_000, 2_000_000)
RANKS = (1, 2, 4, 8, 16, 32, 64)
CLIPS_PER_RANK = (12, 48, 192)
STEPS = 200


def main() -> None:
    """Measure the parts that are asked for and write each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known = ("spread", "memory", "epochs", "ranks", "processes", "input")
    parser.add_argument("parts", nargs="+", choices=known)
    parser.add_argument("--epic", type=Path, help="EPIC_Sounds_validation.csv, for ranks")
    parser.add_argument("--dataset", type=Path, help="a prepared dataset, for input")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="replace the committed results")
    args = parser.parse_args()
    if "input" in args.parts and args.dataset is None:
        parser.error("input needs a prepared dataset: --dataset DIR")
    torch.set_num_threads(1)
    ATTENTION.register("rows-sdpa")(RowsWithFusedKernel())
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "spread": partial(spread, args.rounds),
        "memory": memory,
        "epochs": epochs,
        "ranks": partial(ranks, args.epic),
        "processes": partial(processes, args.rounds),
        "input": partial(loading, args.dataset, args.rounds),
    }
    given = {"ranks": ("--epic", args.epic), "input": ("--dataset", args.dataset)}
    for name in args.parts:
        found = parts[name]()
        print(name, *found["rows"], sep="\n")
        option, path = given.get(name, ("", None))
        command = f"python -m benchmarks.scaling {name}" + (
            f" {option} {path.name}" if path else ""
        )
        document = {"command": command, "environment": environment()} | found
        if args.write:
            write_json(FOLDER / f"{name}.json", document)


# Spread of lengths


def spread(rounds: int) -> dict[str, Any]:
    """Return tokens a second in training against the spread of lengths, for each way to batch."""
    rows: Rows = []
    for sigma in SPREADS:
        durations = lognormal(sigma, SPREAD_CLIPS)
        calls, workloads = {}, {}
        for path, (attention, planner) in PATHS.items():
            workloads[path] = _small(durations, planner)
            calls[path] = _steps(workloads[path], attention)
        seconds = interleaved(calls, rounds, warmup_rounds=1, clock=time.process_time)
        for path, spent in seconds.items():
            tokens = sum(workloads[path].tokens)
            batches = workloads[path].batches(ATTENTION[PATHS[path][0]].padded_rows)
            token_indices = sum(batch.layout.stream_length for batch in batches)
            rows.append(
                {
                    "spread": sigma,
                    "path": path,
                    "tokens": tokens,
                    "longest": max(workloads[path].tokens),
                    "padding_share": 1 - tokens / token_indices,
                    "tokens_per_second": tokens / spent,
                    "speed_against_padded": seconds["padded"] / spent,
                }
            )
        print(f"spread {sigma}: done", flush=True)
    return {"clips": SPREAD_CLIPS, "mean_seconds": MEAN_SECONDS, "rounds": rounds, "rows": rows}


def lognormal(sigma: float, num_clips: int) -> Durations:
    """Return lengths with deviation ``sigma`` of their logarithm, in random order."""
    quantiles = (np.arange(num_clips) + 0.5) / num_clips
    seconds = np.exp(sigma * ndtri(quantiles))
    return Durations(MEAN_SECONDS * seconds / seconds.mean(), "stand-in", "lognormal").shuffled(0)


def _small(durations: Durations, planner: str) -> Workload:
    """Return a workload for a model of width 192 and two blocks, all clips in one batch."""
    packing = PackingConfig(planner=planner, batch_clips=len(durations.seconds))
    return build_workload(durations, "tiny", 2, packing)


def _steps(workload: Workload, attention: str) -> Callable[[], object]:
    model = workload.build_model(attention)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    batches = workload.batches(ATTENTION[attention].padded_rows)
    return partial(run_model, Bench(CPU, "fp32"), model, attention, batches, optimizer)


# Memory


def memory() -> dict[str, Any]:
    """Return bytes that a step keeps for its backward pass, against tokens."""
    some = epic_like(48).seconds[:6]
    sizes = {f"{6 * n} clips": np.tile(some, n) for n in (1, 2, 4, 8)}
    sizes |= {"one clip": np.array([15.0]), "one clip, twice as long": np.array([30.0])}
    rows: Rows = []
    for what, seconds in sizes.items():
        for attention in ("split", "reference"):
            workload = _small(Durations(seconds, "stand-in", what), "balanced")
            kept, tokens = kept_bytes(workload, attention), sum(workload.tokens)
            rows.append(
                {
                    "clips": what,
                    "tokens": tokens,
                    "attention": attention,
                    "kept_mb": kept / 1e6,
                    "kept_kb_per_token": kept / 1e3 / tokens,
                }
            )
    return {"model": {"size": "tiny", "depth": 2}, "rows": rows}


def kept_bytes(workload: Workload, attention: str) -> int:
    """Return the size of all tensors that autograd saves in a forward pass, without weights."""
    model = workload.build_model(attention)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, tuple[int, Tensor]] = {}  # a tensor that lives cannot lend its address

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = [model(batch) for batch in workload.batches(ATTENTION[attention].padded_rows)]
    del outputs
    return sum(size for size, _ in kept.values())


# Clips of an epoch


def epochs() -> dict[str, Any]:
    """Return the time and memory to plan an epoch, by its number of clips."""
    rows: Rows = []
    for clips in EPOCH_CLIPS:
        sampler = sampler_of(clips)
        times: dict[str, float] = {}
        peak = peak_memory_mb(partial(_plan_all, sampler, times), CPU)
        rows.append({"clips": clips, **times, "peak_memory_mb": peak})
        print(rows[-1], flush=True)
    return {"batch_clips": 48, "rows": rows}


def sampler_of(clips: int) -> TrainingSampler:
    """Return a run's sampler over clips with lengths like EPIC-SOUNDS."""
    frames = np.clip(frames_of(epic_like(clips)), 1, None)
    return TrainingSampler(
        clips=np.arange(clips),
        native_frames=frames,
        feature_extractor=feature_extractor(),
        augment=AugmentConfig(),
        packing=PackingConfig(planner="balanced", batch_clips=48),
        spec=feature_extractor().pack_spec(),
        seed=0,
    )


def _plan_all(sampler: TrainingSampler, times: dict[str, float]) -> None:
    begin = time.process_time()
    plans = sampler.epoch(0)
    next(plans)
    times["first_batch_s"] = time.process_time() - begin
    for _ in plans:
        pass
    times["all_batches_s"] = time.process_time() - begin


def feature_extractor() -> FeatureExtractor:
    """Return the default feature extractor, with arbitrary statistics."""
    return FeatureExtractor(FbankConfig(), LengthConfig(), (16, 16), (16, 16), -6.0, 4.0)


# Ranks


def ranks(epic: Path | None) -> dict[str, Any]:
    """Simulate how unevenly the tokens of global batches are divided among ranks."""
    durations = epic_like(20_000) if epic is None else read_durations(epic)
    tokens = TokenRule().tokens(frames_of(durations))
    rows: Rows = []
    for per_rank in CLIPS_PER_RANK:
        for count in RANKS:
            rng, size = np.random.default_rng(0), per_rank * count
            batches = [tokens[rng.integers(len(tokens), size=size)] for _ in range(STEPS)]
            for way, share in (("in turn", in_turn), ("balanced", balanced)):
                loads = np.array([share(batch, count) for batch in batches], dtype=np.float64)
                over = loads.max(axis=1) / loads.mean(axis=1) - 1
                rows.append(
                    {
                        "ranks": count,
                        "clips_per_rank": per_rank,
                        "shared": way,
                        "mean_imbalance": float(over.mean()),
                        "worst_imbalance": float(over.max()),
                    }
                )
    return {"simulated": True, "clips": durations.label, "steps": STEPS, "rows": rows}


def in_turn(batch: Counts, count: int) -> list[int]:
    """Return tokens of each rank when clips are assigned in turn."""
    return [int(batch[rank::count].sum()) for rank in range(count)]


def balanced(batch: Counts, count: int) -> list[int]:
    """Return tokens of each rank when clips are assigned as in training (LPT)."""
    return [int(batch[share].sum()) for share in assign_lpt(batch.tolist(), [0] * count)]


# Loading


def loading(dataset: Path, rounds: int) -> dict[str, Any]:
    """Measure the stages of the loader, and loading ahead on a CPU."""
    store = PreparedStore.open(dataset)
    return {
        "dataset": store.info.name,
        "clips": len(store),
        "rows": stages(store, rounds),
        "ahead": ahead(store, rounds),
        "sides": sides(store),
    }


def stages(store: PreparedStore, rounds: int, most: int = 96) -> Rows:
    """Return the processor time of each stage for 10 s of audio."""
    data = ClipDataset(store, feature_extractor(), AugmentConfig(), cache_mb=0)
    spent: dict[str, float] = {}

    def timed(stage: str, call: Callable[[], Any]) -> Any:
        begin = time.process_time()
        result = call()
        spent[stage] = spent.get(stage, 0.0) + time.process_time() - begin
        return result

    frames, spec = 0, data.feature_extractor.pack_spec()
    for _ in range(rounds):
        examples, raw = [], []
        for view in _views(data)[:most]:
            frames += view.num_frames
            _stages_of_clip(data, view, timed)
            examples.append(timed("host: whole clip", partial(data.load, view)))
            raw.append(timed("device: whole clip", partial(data.load, view, on_device=True)))
        for first in range(0, len(examples), 12):
            timed("host: packing", partial(collate, [examples[first : first + 12]], spec))
            timed("device: packing", partial(collate_raw, [raw[first : first + 12]], spec))
    seconds = frames * data.feature_extractor.fbank.shift_ms * 1e-3
    return [{"stage": stage, "ms_per_10_s": 1e4 * s / seconds} for stage, s in spent.items()]


def _stages_of_clip(data: ClipDataset, view: Crop, timed: Callable[..., Any]) -> None:
    end = data.feature_extractor
    stop = end.fbank.samples_for(view.num_frames)
    waveform = timed("reading and decoding", partial(data.store.waveform, view.clip, 0, stop))
    found = timed("filterbank", partial(end.frames, waveform))
    spectrogram = end.spectrogram(found, view)
    rng = timed("SpecAugment: generator", partial(clip_rng, 0, 0, view.clip, "spec-augment-0"))
    masked = timed(
        "SpecAugment: masks", partial(spectrogram.augmented, AugmentConfig(), lambda _: rng)
    )
    timed("rows", masked.computed)


def _views(data: ClipDataset) -> list[Crop]:
    frames = data.native_frames
    return [data.feature_extractor.crop(clip, int(frames[clip])) for clip in range(len(frames))]


def ahead(store: PreparedStore, rounds: int, batches: int = 6) -> Rows:
    """Return the wall time of training steps of a small model, loading when asked for and ahead."""
    width, heads = SIZES["tiny"]
    config = ModelConfig(width=width, heads=heads, depth=2, grid=(8, 192), num_classes=10)
    workload = replace(_small(epic_like(6), "balanced"), model=config)
    model = workload.build_model("split")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
    data = ClipDataset(store, feature_extractor(), AugmentConfig(), cache_mb=0)
    views = _views(data)[: 12 * batches]
    spec = data.feature_extractor.pack_spec()
    plans = [BatchPlan(0, (tuple(views[i : i + 12]),), spec) for i in range(0, len(views), 12)]

    def steps(prefetch: int) -> None:
        for batch in load_batches(plans, data, transfer=DeviceTransfer(CPU, prefetch=prefetch)):
            run_model(Bench(CPU, "fp32"), model, "split", [batch], optimizer)

    def load() -> None:
        for _ in load_batches(plans, data):
            pass

    calls: dict[str, Callable[[], object]] = {
        "when asked for": partial(steps, 0),
        "ahead": partial(steps, 2),
        "loading alone": load,
    }
    seconds = interleaved(calls, rounds, warmup_rounds=1)
    return [{"batches": name, "seconds": spent} for name, spent in seconds.items()]


def sides(store: PreparedStore) -> Rows:
    """Return the validation loss of a short run with features from host and device."""
    from elastictool.training.run import train_run

    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        for side in ("host", "device"):
            sets = [
                "model.width=64", "model.heads=2", "model.depth=1", "train.epochs=1",
                "length.max_frames=64", f"train.fbank_on={side}", "data.validation_fraction=0.1",
            ]  # fmt: skip
            result = train_run(load_run_config(None, sets), store, Path(folder) / side)
            rows.append({"fbank_on": side, "validation_loss": result.validation["loss"]})
    return rows


if __name__ == "__main__":
    main()
