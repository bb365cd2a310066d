"""Settings of training: optimiser, learning rate, teacher, and use of the machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from elastictool.config.check import require, within


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over a run: a linear warm-up to ``train.lr``, then its decay."""

    kind: Literal["constant", "cosine", "multistep"] = "cosine"
    """Shape of the decay after the warm-up: ``constant`` has none, ``cosine`` follows half a cosine
    to the last step, ``multistep`` goes down epoch by epoch (as the published scripts)."""
    warmup_steps: float = 0.1
    """Optimiser steps of the warm-up, at most those of the run; below 1 a share of all steps; 0 is
    off. A longer warm-up helps if training diverges at its start."""
    decay_from: int = 5
    """Epochs before ``multistep`` begins to decay."""
    decay_factor: float = 0.75
    """What ``multistep`` multiplies the rate by after ``decay_from`` epochs and after each further
    one, above 0 and at most 1."""
    final_factor: float = 0.0
    """End of ``cosine``, as a share of ``train.lr``, 0 to 1."""

    def __post_init__(self) -> None:
        require(self.warmup_steps >= 0, "train.schedule.warmup_steps must not be negative")
        require(self.decay_from >= 0, "train.schedule.decay_from must not be negative")
        require(0 < self.decay_factor <= 1, "train.schedule.decay_factor must be in 0..1")
        require(0 <= self.final_factor <= 1, "train.schedule.final_factor must be in 0..1")


@dataclass(frozen=True)
class DistillConfig:
    """Knowledge distillation: ``(1 - weight) * loss + weight * T^2 * KL(teacher || student)``.

    Source: FlexiAST Section 3.4 (KL alone: weight 1); T^2 keeps the gradient's size (Hinton et al.
        2015).
    """

    teacher: str = ""
    """Teacher run, used at its own patch size and on the same clips: its directory or its name
    under ``runs/``. Empty: none."""
    temperature: float = 1.0
    """Temperature T, above 0, that divides both models' logits. Higher values weigh the teacher's
    unlikely classes more."""
    weight: float = 1.0
    """Share of the teacher in the loss, above 0 and at most 1; at 1 labels are not used."""

    def __post_init__(self) -> None:
        require(self.temperature > 0, "train.distill.temperature must be above 0")
        require(0 < self.weight <= 1, "train.distill.weight must be above 0 and at most 1")


@dataclass(frozen=True)
class TrainConfig:
    """Optimiser, loss, choice of the best epoch, and use of the machine."""

    epochs: int = 10
    """Passes over the training clips."""
    lr: float = 3e-4
    """Highest learning rate, above 0. Narrow models take more (the small recipes 7e-4), imported
    weights less (1e-5 to 1e-4)."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """``adam`` with weight decay in the gradient, as published, or ``adamw``, which keeps it out.
    """
    betas: tuple[float, float] = (0.95, 0.999)
    """Adam's betas, each from 0 to below 1. Default: the published scripts'."""
    weight_decay: float = 5e-7
    """Weight decay; 0 is off. Default: the published scripts'; usual for ``adamw``: 0.01 to 0.1."""
    weight_decay_on: Literal["auto", "all", "matrices", "kernels"] = "auto"
    """What decays: ``all`` parameters, ``matrices`` (two dimensions or more), or ``kernels``
    (matrices but positions and prefix tokens); ``auto`` is ``all`` for adam, ``matrices`` for
    adamw."""
    clip_norm: float = 0.0
    """Largest norm of a step's gradient (``max_grad_norm``); longer ones are scaled down to it; 0
    is off. The log has each step's norm (``grad_norm``): set it somewhat above the usual one."""
    layer_decay: float = 1.0
    """Factor on the rate from block to block downwards, above 0 and at most 1 (1: all alike). Block
    i of d, from 0, has ``lr * layer_decay ** (d - i)``, positions and patches one power more. For
    fine-tuning, 0.65 to 0.9 (BEiT)."""
    head_lr_factor: float = 1.0
    """Factor on the classifier's rate, above 0. Above 1 a new classifier learns faster than the
    imported weights below it (``head_lr`` of the SSAST and CAV-MAE scripts)."""
    freeze: tuple[str, ...] = ()
    """Module groups that do not learn: ``patch_embed``, ``pos_embed``, ``prefix_tokens``,
    ``blocks`` or ``blocks.0-5``, ``norm``, ``attn_pool``, ``head``, ``all_but_head``."""
    ema_decay: float = 0.0
    """Decay of a moving average of the weights (EMA), which is validated and saved instead of them;
    from 0 (off) to below 1, usually 0.999."""
    average_epochs: tuple[int, int] = (0, 0)
    """First and last epoch, from 1, whose mean weights become the checkpoint ``averaged`` (``wa``
    of the AST code); 0, 0 is off."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: Literal["ce", "bce"] = "ce"
    """Loss against the labels: ``ce`` where each clip has one class, ``bce`` where it may have
    several."""
    label_smoothing: float = 0.0
    """Share of a clip's target that is spread over all classes, from 0 (off) to below 1. Often
    0.1."""
    distill: DistillConfig = field(default_factory=DistillConfig)
    accumulate: int = 1
    """Gradient accumulation: number of batches for one optimiser step. More give larger batches in
    the same memory."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Number format of the model's arithmetic; ``auto`` is bf16 on a GPU that computes with it,
    fp32 elsewhere. A resumed run keeps its own."""
    attention: str = "auto"
    """Backend of the attention within clips; all compute the same. ``auto`` takes the fastest that
    works here; ``reference`` is the paper's rows and mask."""
    compile: bool = False
    """Whether the blocks are compiled at the first step, which needs a compiler and takes a while;
    steps may be faster afterwards."""
    selection_metric: Literal["auto", "top1", "map"] = "auto"
    """Validation metric by which the best epoch is chosen; ``auto`` is top1, or map where clips
    have several labels."""
    validate_every: int = 1
    """Epochs from one validation to the next; the last epoch always has one."""
    checkpoint_steps: int = 0
    """Steps from one save to the next within an epoch; 0 saves at the end of epochs only. Set it if
    epochs take long."""
    max_skipped_steps: int = 10
    """Steps in a row that may be left out because loss or gradient are not finite; one more stops
    the run."""
    loader_workers: int = -1
    """Processes that load clips (``num_workers``); 0 loads in the training process, -1 takes one
    for each core on CUDA (up to 16) and none on a CPU."""
    cache_mb: int = 512
    """Megabytes of log-mel frames that each loading process may keep; 0 keeps none."""
    fbank_on: Literal["auto", "host", "device"] = "auto"
    """Where log-mel frames are computed: on the ``host`` or on the training ``device``; ``auto`` is
    the device on CUDA, the host on a CPU."""
    prefetch: int = -1
    """Batches loaded ahead in the background where there are no loader processes; 0 is off, -1 is 2
    on CUDA and 0 on a CPU."""
    tensorboard: bool = False
    """Whether the log's numbers are also written for TensorBoard (``RUN/tensorboard``)."""
    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:1`` and so on; ``auto`` is CUDA where there is one."""

    def __post_init__(self) -> None:
        within("train.epochs", self.epochs, 1, 1_000_000)
        require(self.lr > 0, "train.lr must be above 0")
        require(all(0 <= beta < 1 for beta in self.betas), "train.betas must be in 0..1")
        require(self.weight_decay >= 0, "train.weight_decay must not be negative")
        require(self.clip_norm >= 0, "train.clip_norm must be 0 (off) or above")
        require(0 < self.layer_decay <= 1, "train.layer_decay must be above 0 and at most 1")
        require(self.head_lr_factor > 0, "train.head_lr_factor must be above 0")
        require(0 <= self.ema_decay < 1, "train.ema_decay must be 0 (off) or above, below 1")
        first, last = self.average_epochs
        require(
            first == last == 0 or 1 <= first <= last <= self.epochs,
            f"train.average_epochs = [{first}, {last}] must lie within epochs 1 to {self.epochs}",
        )
        require(0 <= self.label_smoothing < 1, "train.label_smoothing must be in 0..1")
        require(self.accumulate > 0, "train.accumulate must be above 0")
        require(self.validate_every > 0, "train.validate_every must be above 0")
        require(self.checkpoint_steps >= 0, "train.checkpoint_steps must not be negative")
        require(self.max_skipped_steps >= 0, "train.max_skipped_steps must not be negative")
        within("train.loader_workers", self.loader_workers, -1, 1_000)
        require(self.cache_mb >= 0, "train.cache_mb must not be negative")
        within("train.prefetch", self.prefetch, -1, 1_000)
