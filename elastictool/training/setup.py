"""Complete a configuration from data and machine: splits, statistics, classes, grid, device."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import Literal

import numpy as np
import torch

from elastictool.checkpoint.weights import feature_extractor_of
from elastictool.config import FbankConfig, ModelConfig, RunConfig, TrainConfig
from elastictool.data.balance import clip_weights
from elastictool.data.splits import Splits, require_frames, require_sound, select_clips
from elastictool.data.store import PreparedStore
from elastictool.models.attention.base import AttentionInputs, require_support
from elastictool.packing.stream import check_planner, plans_windows
from elastictool.training.compilation import check_compiler
from elastictool.training.optimizer import check_freeze
from elastictool.training.tensorboard import check_tensorboard
from elastictool.utils.errors import UsageError, first_line
from elastictool.utils.launch import launched


def resolve(config: RunConfig, store: PreparedStore) -> tuple[RunConfig, Splits]:
    """Fills in what the data decide: splits, mean and std, classes, position grid.

    Raises:
        UsageError: The data do not fit the configuration, or a planner is unknown.
    """
    check_planner(config.packing.planner)
    packing = config.packing
    if config.flexi.sizes and packing.batch_tokens and plans_windows(packing.planner):
        raise UsageError(
            f"packing.planner = {packing.planner} plans windows of clips before their patch sizes "
            "are drawn, so it cannot keep to packing.batch_tokens",
            "use packing.batch_clips, or a planner of single batches: packing.planner=balanced",
        )
    splits = select_clips(store, config.data, config.seed)
    measured = store.info.fbank_config.get("frontend", FbankConfig.frontend)
    same_front_end = measured == config.fbank.frontend
    if store.info.sample_rate_hz != config.fbank.sample_rate_hz:
        rate = f"fbank.sample_rate_hz={store.info.sample_rate_hz}"  # a front end implies it
        raise UsageError(
            f"{store.path} is at {store.info.sample_rate_hz} Hz, "
            f"fbank.sample_rate_hz is {config.fbank.sample_rate_hz}",
            f"--set {rate if same_front_end else f'fbank.frontend={measured}'}",
        )
    if store.info.multi_label and config.train.loss == "ce":
        raise UsageError(
            f"{store.path} has clips of several labels, which cross-entropy cannot train",
            "--set train.loss=bce",
        )
    check_machine(config)
    require_frames(store, np.concatenate([splits.train, splits.validation]), config.fbank)
    require_sound(store, splits.train)
    data = config.data
    if data.balanced_sampling:
        clip_weights(store, splits.train)  # refuses data without labels, before a run is touched
    if data.mean is None:
        if not same_front_end:  # their values are not comparable
            raise UsageError(
                f"the mean and deviation of {store.path} were measured with fbank.frontend = "
                f"{measured}, not {config.fbank.frontend}",
                f"elastictool prep --frontend {config.fbank.frontend}, or set data.mean and "
                "data.std",
            )
        clips = splits.train  # the statistics of the splits and folds that they are from
        used = set(zip(store.splits[clips].tolist(), store.folds[clips].tolist(), strict=True))
        mean, std = store.info.fbank_stats(lambda split, fold: (split, fold) in used)
        data = dataclasses.replace(data, mean=mean, std=std)
    train = dataclasses.replace(config.train, precision=pick_precision(config.train))
    config = dataclasses.replace(config, data=data, train=train)
    resolution = config.augment.resolution
    most = min((1.0, *resolution.compressions))
    finest = feature_extractor_of(config).at_compression(most, resolution.reduction)
    needed = finest.longest_grid()
    grid = (config.model.grid[0] or needed[0], config.model.grid[1] or needed[1])
    classes = len(store.info.label_names)
    model = dataclasses.replace(config.model, num_classes=classes, grid=grid)
    if config.model.num_classes not in (0, model.num_classes):
        raise UsageError(
            f"model.num_classes is {config.model.num_classes}, but {store.path} has "
            f"{model.num_classes} classes",
            "leave it out: the data say how many there are",
        )
    check_freeze(model, config.train.freeze)
    _require_memory(model, config.train)
    return dataclasses.replace(config, model=model), splits


def check_machine(config: RunConfig) -> None:
    """Checks that compiler, packages and attention work here, before anything is written.

    Raises:
        UsageError: A compiler or a package is missing, or the attention cannot be computed here.
    """
    train, model = config.train, config.model
    device = device_of(train)
    dtype = torch.bfloat16 if pick_precision(train) == "bf16" else torch.float32
    width = model.width // model.heads
    require_support(train.attention, AttentionInputs(torch.device(device), dtype, head_width=width))
    if train.compile:
        check_compiler(device)
    if train.tensorboard:
        check_tensorboard()


def _require_memory(model: ModelConfig, train: TrainConfig) -> None:
    """Refuses a model larger than the memory: on a CPU with its gradient and Adam's two moments.

    Allocating it would not fail: Linux promises any amount, and ends the process when it is used.
    """
    block = model.width**2 * (4 + 2 * model.mlp_ratio)
    grid = sum(model.grid) if model.pos_embed == "factorised" else math.prod(model.grid)
    others = model.width * (grid + math.prod(model.patch_size) + model.num_classes)
    parameters = int(model.depth * block) + others
    needed = parameters * (16 if device_of(train) == "cpu" else 4)
    if hasattr(os, "sysconf") and needed > (
        memory := os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    ):
        raise UsageError(
            f"a model of {parameters:,} parameters takes {needed / 1e9:,.0f} GB in training, "
            f"and this machine has {memory / 1e9:,.0f} GB",
            "take a smaller one: model.width, model.depth, model.grid, or length.max_frames, which "
            "decides the grid",
        )


def pick_precision(config: TrainConfig) -> Literal["fp32", "bf16"]:
    """Returns the precision: ``auto`` is bf16 on a GPU of compute capability 8.0, else fp32.

    On a CPU bf16 pays where the processor has matrix units only, so it is for the user to say.
    """
    if config.precision != "auto":
        return config.precision
    device = torch.device(device_of(config))
    fit = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return "bf16" if fit else "fp32"


def device_of(config: TrainConfig) -> str:
    """Returns the device that a run trains on.

    Raises:
        UsageError: See ``pick_device``.
    """
    return pick_device(config.device, "--set train.device=")


def pick_device(wanted: str, option: str = "--device ") -> str:
    """Returns a device: ``auto`` is CUDA where there is one; each of several processes has its own.

    Args:
        wanted: ``auto``, or torch's name of a device.
        option: How the user chose it, for the hint.

    Raises:
        UsageError: No such device here, or not one for each process.
    """
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not launched().is_single:
        here, gpus = launched(), torch.cuda.device_count()
        if wanted != "cuda":
            raise UsageError(
                f"train.device = {wanted!r} is one device for {here.world} processes",
                "use auto: each process takes a GPU of its own",
            )
        if here.local_world > gpus:
            raise UsageError(
                f"{here.local_world} processes share {gpus} GPUs",
                f"--nproc-per-node {gpus}, or --set train.device=cpu",
            )
        wanted = f"cuda:{here.local_rank}"
    try:
        if torch.device(wanted).type == "meta":
            raise RuntimeError("its tensors have no values")
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"the device {wanted!r} cannot be used here: {first_line(error)}",
            f"{option}cpu or {option}auto",
        ) from error
    return wanted
