"""The configuration of a run: frozen typed dataclasses.

Each class rejects values that make no sense when it is built, so later code never checks them
again. ``settings.py`` makes them out of recipes and the command line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from elastictool.errors import UsageError

Edge = Literal["pad", "drop"]
PositionFit = Literal["interpolate", "slice"]
Resize = Literal["pi", "bl", "bl-plain"]
PatchAxes = Literal["both", "time", "frequency"]
PoolKind = Literal["average", "max"]
Reduction = Literal["shift", "average", "max"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


@dataclass(frozen=True)
class FrontendTraits:
    """What a front end fixes; ``audio/frontends.py`` has the arithmetic.

    ``centred`` frames have zeros beyond the clip's ends, and frame k has its middle k shifts into
    the clip; others lie wholly within the clip, from its first sample on. Clips of fewer than
    ``min_frames`` frames repeat their last one. ``fft_size`` 0 is the next power of two.
    ``defaults`` replace those of ``FbankConfig``.
    """

    centred: bool = False
    min_frames: int = 0
    fft_size: int = 0
    defaults: Mapping[str, float] = field(default_factory=dict)


FRONTENDS: Mapping[str, FrontendTraits] = {
    "kaldi": FrontendTraits(),
    "epic-librosa": FrontendTraits(
        centred=True,
        min_frames=192,
        fft_size=2_048,
        defaults={
            "sample_rate_hz": 24_000,
            "window_ms": 10.0,
            "shift_ms": 5.0,
            "low_frequency_hz": 0.0,
            "preemphasis": 0.0,
        },
    ),
}


@dataclass(frozen=True)
class FbankConfig:
    """Log-mel filterbank: ``kaldi``, or ``epic-librosa`` as in the public EPIC-SOUNDS code.

    Source: ElasticAST Section 3.2 (25 ms window, 10 ms shift, 128 bins); the rest is Kaldi's.
    ``high_frequency_hz`` at or below zero counts down from the Nyquist frequency, as in Kaldi.
    """

    sample_rate_hz: int = 16_000
    num_mel_bins: int = 128
    window_ms: float = 25.0
    shift_ms: float = 10.0
    low_frequency_hz: float = 20.0
    high_frequency_hz: float = 0.0
    preemphasis: float = 0.97
    frontend: Literal["kaldi", "epic-librosa"] = "kaldi"

    def __post_init__(self) -> None:
        _require(self.sample_rate_hz > 0, "fbank.sample_rate_hz must be above 0")
        _require(self.num_mel_bins > 3, "fbank.num_mel_bins must be above 3")
        _require(self.shift_ms > 0, "fbank.shift_ms must be above 0")
        _require(self.window_samples >= 2, "fbank.window_ms is shorter than two samples")
        nyquist = self.sample_rate_hz / 2
        top = (
            self.high_frequency_hz
            if self.high_frequency_hz > 0
            else nyquist + self.high_frequency_hz
        )
        _require(
            0 <= self.low_frequency_hz < top <= nyquist,
            f"fbank frequencies {self.low_frequency_hz}..{top} Hz do not lie within 0..{nyquist}",
        )
        _require(0 <= self.preemphasis < 1, "fbank.preemphasis must be in 0..1")
        _require(
            self.frontend == "kaldi" or self.preemphasis == 0,
            f"fbank.frontend = {self.frontend} has no fbank.preemphasis: set it to 0",
        )
        _require(
            self.window_samples <= self.fft_size, f"fbank.window_ms exceeds {self.fft_size} samples"
        )

    @property
    def traits(self) -> FrontendTraits:
        """What the front end fixes."""
        return FRONTENDS[self.frontend]

    @property
    def window_samples(self) -> int:
        """Length of the analysis window in samples."""
        return int(self.sample_rate_hz * self.window_ms * 0.001)

    @property
    def fft_size(self) -> int:
        """Length of the Fourier transform in samples; the window is padded to it."""
        return self.traits.fft_size or 1 << (self.window_samples - 1).bit_length()

    @property
    def lead(self) -> int:
        """Samples of a frame before the place that it is counted from: 0, or half a window."""
        return -(-self.window_samples // 2) if self.traits.centred else 0

    @property
    def context_frames(self) -> int:
        """Frames to read before a wanted one: they reach over the beginning of what is read."""
        return -(-self.lead // max(self.frame_place(1), 1))

    @property
    def whole_steps(self) -> bool:
        """Whether the shift is a whole number of samples."""
        return (self.shift_ms * 0.001 * self.sample_rate_hz).is_integer()

    def frame_place(self, frame: int) -> int:
        """Start or middle of ``frame``: round(frame x shift x rate), so any real shift is exact."""
        return math.floor(frame * self.shift_ms * 0.001 * self.sample_rate_hz + 0.5)

    def frame_start(self, frame: int) -> int:
        """First sample of ``frame``; below 0 where a centred frame begins before the clip."""
        return self.frame_place(frame) - self.lead

    @property
    def reach(self) -> int:
        """Samples of the clip that a frame needs from its place on.

        Source: Kaldi's ``snip_edges``, or librosa's ``center``.
        """
        return 0 if self.traits.centred else self.window_samples

    def own_frames(self, num_samples: int) -> int:
        """Frames of a clip before its last one is repeated."""
        last_place = num_samples - self.reach
        if last_place < 0 or num_samples == 0:
            return 0
        frames = int((last_place + 0.5) / (self.shift_ms * 0.001 * self.sample_rate_hz)) + 1
        while self.frame_place(frames) <= last_place:
            frames += 1
        while frames > 0 and self.frame_place(frames - 1) > last_place:
            frames -= 1
        return frames

    def num_frames(self, num_samples: int) -> int:
        """Frames of a clip; 0 where it is too short for one."""
        own = self.own_frames(num_samples)
        return max(own, self.traits.min_frames) if own else 0

    def samples_for(self, num_frames: int) -> int:
        """Samples of a clip's beginning that its first ``num_frames`` frames need."""
        return self.frame_start(num_frames - 1) + self.window_samples if num_frames > 0 else 0

    def excerpt(self, first: int, num_frames: int, native_frames: int) -> tuple[int, int, int]:
        """What to read of a clip of ``native_frames`` for ``num_frames`` frames from ``first``.

        Reading begins ``context_frames`` earlier; where frames are not whole samples apart, or are
        repeated, at the clip's beginning.

        Returns:
            First sample, sample after the last (it may lie beyond the clip), and how many frames
            of what is read precede the wanted ones.
        """
        begin = 0
        if self.whole_steps and native_frames > self.traits.min_frames:
            begin = max(first - self.context_frames, 0)
        return self.frame_place(begin), self.samples_for(first + num_frames), first - begin


@dataclass(frozen=True)
class LengthConfig:
    """Which frames of a clip reach the model.

    ``fixed_frames`` 0 keeps native lengths (ElasticAST); above 0 every clip is trimmed and padded
    to it (standard AST). ``max_frames`` caps native lengths (paper: 30 s, 3,072 frames). Of a
    longer clip training takes the ``start``, or with ``crop`` random another part in each epoch.
    ``edge`` decides on the incomplete last patch: ``pad`` it, or ``drop`` it as the published
    code does. ``padding`` is ``floor`` (the filterbank's floor: silence) or ``zero`` (published:
    zero before normalisation, a loud constant).
    """

    max_frames: int = 3_072
    fixed_frames: int = 0
    crop: Literal["start", "random"] = "start"
    edge: Edge = "pad"
    padding: Literal["floor", "zero"] = "floor"

    def __post_init__(self) -> None:
        _require(self.max_frames > 0, "length.max_frames must be above 0")
        _require(self.fixed_frames >= 0, "length.fixed_frames must be 0 (native) or above")

    @property
    def most_frames(self) -> int:
        """Frames of a clip that are used at most."""
        return self.fixed_frames or self.max_frames


@dataclass(frozen=True)
class LengthDiversityConfig:
    """Random shorter views of training clips, so that one model serves shorter inputs too.

    A clip gets a shorter view with probability ``share``: a ``prefix`` with probability
    ``prefix_share``, else an ``excerpt`` from anywhere. Its length is drawn log-uniformly
    between ``min_frames`` and the clip's own. ``mode`` says whether the view replaces the clip
    or is added to the batch beside it (``add``: the same clips a step, more tokens).

    Source: ours (the published code's ``random_len_cut`` is ``replace`` with prefixes only).
    """

    share: float = 0.0
    mode: Literal["replace", "add"] = "add"
    prefix_share: float = 0.5
    min_frames: int = 32

    def __post_init__(self) -> None:
        _require(0 <= self.share <= 1, "augment.length_diversity.share must be in 0..1")
        _require(
            0 <= self.prefix_share <= 1, "augment.length_diversity.prefix_share must be in 0..1"
        )
        _require(self.min_frames > 0, "augment.length_diversity.min_frames must be above 0")


@dataclass(frozen=True)
class ResolutionConfig:
    """Temporal resolutions drawn in training, one for each clip; none trains at the run's own.

    At compression C the frames of a clip are C times as far apart: by C times ``fbank.shift_ms``
    (``shift``), or by pooling C frames into one after the filterbank (``average``, ``max``; whole
    numbers only). Length limits keep their seconds.
    Source: ElasticAST Section 3.4 (shifts, 1.0, 1.2, ... 4.0) and 3.5 (average pooling, 1, 2, 3,
        4; the published code pools the maximum).
    """

    compressions: tuple[float, ...] = ()
    reduction: Reduction = "shift"

    def __post_init__(self) -> None:
        name = "augment.resolution.compressions"
        _require(all(value > 0 for value in self.compressions), f"{name} must be above 0")
        _require(
            len(set(self.compressions)) == len(self.compressions), f"{name} names a value twice"
        )
        _require(
            self.reduction == "shift" or all(value == int(value) for value in self.compressions),
            f"{name} must be whole numbers where frames are pooled",
        )


@dataclass(frozen=True)
class AugmentConfig:
    """What happens to training clips, and to no others.

    ``frequency_mask`` in mel bins; ``time_mask`` in frames per 1,024 frames: the widest mask of
    a clip of T frames is ``time_mask * T / 1024``. 0 switches a mask off. Masked values become the
    data's ``mean``, or ``zero`` (published: zero before normalisation, a loud constant).
    ``token_dropout`` is the share of a view's patch tokens that the model does not see.
    ``mixup`` is the share of clips mixed with another one, by a ratio drawn from
    Beta(``mixup_beta``). ``noise`` is the highest amplitude of uniform noise on the normalised
    frames; ``roll`` the most frames by which they are rotated in time.

    Source: published scripts: masks 48 and 192 (time masks scale with the clip in the loaders of
        ElasticAST, not in those of fixed lengths at 10 ms); token dropout 0.1 (ElasticAST); mixup
        0.5 with Beta(10, 10), noise 0.1 and roll 10 (AST).
    """

    frequency_mask: int = 48
    time_mask: int = 192
    mask_value: Literal["mean", "zero"] = "mean"
    length_diversity: LengthDiversityConfig = field(default_factory=LengthDiversityConfig)
    token_dropout: float = 0.0
    mixup: float = 0.0
    mixup_beta: tuple[float, float] = (10.0, 10.0)
    noise: float = 0.0
    roll: int = 0
    resolution: ResolutionConfig = field(default_factory=ResolutionConfig)

    def __post_init__(self) -> None:
        _require(self.frequency_mask >= 0, "augment.frequency_mask must be 0 or above")
        _require(0 <= self.time_mask <= 1024, "augment.time_mask must be in 0..1024")
        _require(0 <= self.token_dropout < 1, "augment.token_dropout must be in 0..1, below 1")
        _require(0 <= self.mixup <= 1, "augment.mixup must be in 0..1")
        _require(min(self.mixup_beta) > 0, "augment.mixup_beta must be above 0")
        _require(self.noise >= 0, "augment.noise must be 0 (off) or above")
        _require(self.roll >= 0, "augment.roll must be 0 (off) or above")


COMPILED_MULTIPLE = 128
"""Slots that streams are filled up to a multiple of where code is compiled."""


@dataclass(frozen=True)
class PackingConfig:
    """How clips become batches: ``planner`` fills rows of ``capacity`` tokens.

    A batch holds ``batch_clips`` clips, or as many as fit into ``batch_tokens`` if that is above
    0. Window planners also choose which clips share a batch, among ``window`` shuffled clips
    (rounded down to whole batches). Training fills each stream of tokens up to a multiple of
    ``token_multiple`` slots, so that batches come in few sizes; 0 is ``COMPILED_MULTIPLE`` with
    ``train.compile``, else 1 (no filler). Source: ElasticAST Section 2.2 (L' = 2048, first-come)
    and 3.2 (12 clips).
    """

    planner: str = "first-come"
    capacity: int = 2_048
    batch_clips: int = 12
    batch_tokens: int = 0
    window: int = 4_096
    token_multiple: int = 0

    def __post_init__(self) -> None:
        _require(self.token_multiple >= 0, "packing.token_multiple must be 0 (auto) or above")
        _require(self.capacity > 0, "packing.capacity must be above 0")
        _require(self.batch_clips > 0, "packing.batch_clips must be above 0")
        _require(self.batch_tokens >= 0, "packing.batch_tokens must be 0 (off) or above")
        _require(self.window > 0, "packing.window must be above 0")


SIZES: Mapping[str, tuple[int, int]] = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
"""Width and heads of the named model sizes (DeiT's Ti, S, B)."""


@dataclass(frozen=True)
class ModelConfig:
    """Everything that shapes a ``SpectrogramTransformer``; covers imported models too.

    Sizes are (frequency, time). ``grid`` is the trained position table in patches; 0 by 0 takes
    what the data needs. ``positions``: ``factorised`` (frequency + time tables, ElasticAST) or
    ``grid`` (one table over both, standard AST). ``pooling``: ``attention`` (ElasticAST),
    ``mean``, or ``prefix`` (the average of the prefix tokens; ``prefix_tokens`` 1 = cls, 2 = cls +
    distillation). ``head_norm`` puts a LayerNorm before the classifier, as both published models
    have it; attention pooling hardly learns without. ``attention_scale`` 0 means 1/sqrt(d).
    ``position_fit`` says how a grid serves a clip of another length, ``beyond_positions`` what
    happens past the end of a factorised table. ``resize`` says how the kernel serves patches of
    another size than ``patch_size``: ``pi`` (PI-resize), ``bl`` (bilinear, antialiased as
    published) or ``bl-plain`` (without antialiasing).
    """

    preset: Literal["elasticast", "ast", "flexiast"] = "elasticast"
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    num_mel_bins: int = 128
    patch_size: tuple[int, int] = (16, 16)
    patch_stride: tuple[int, int] = (16, 16)
    positions: Literal["factorised", "grid"] = "factorised"
    grid: tuple[int, int] = (0, 0)
    position_fit: PositionFit = "interpolate"
    beyond_positions: Literal["interpolate", "error"] = "interpolate"
    resize: Resize = "pi"
    prefix_tokens: int = 0
    pooling: Literal["attention", "mean", "prefix"] = "attention"
    norm_eps: float = 1e-6
    head_norm: bool = True
    head_norm_eps: float = 1e-6
    attention_scale: float = 0.0
    initialization: Literal["vit", "official", "scaled"] = "vit"
    dropout: float = 0.0
    num_classes: int = 0

    def __post_init__(self) -> None:
        _require(self.width > 0 and self.depth > 0, "model.width and model.depth must be positive")
        _require(
            self.heads > 0 and self.width % self.heads == 0,
            f"model.heads ({self.heads}) must divide model.width ({self.width})",
        )
        _require(min(self.patch_size) > 0, "model.patch_size must be positive")
        _require(min(self.patch_stride) > 0, "model.patch_stride must be positive")
        _require(min(self.grid) >= 0, "model.grid must not be negative")
        _require(0 <= self.prefix_tokens <= 2, "model.prefix_tokens must be 0, 1 or 2")
        _require(
            self.pooling != "prefix" or self.prefix_tokens > 0,
            "model.pooling = prefix needs model.prefix_tokens of 1 or 2",
        )
        _require(
            min(self.norm_eps, self.head_norm_eps) >= 0,
            "model.norm_eps and model.head_norm_eps must not be negative",
        )
        _require(self.attention_scale >= 0, "model.attention_scale must not be negative")
        _require(0 <= self.dropout < 1, "model.dropout must be in 0..1")
        _require(self.mlp_ratio > 0, "model.mlp_ratio must be above 0")
        _require(self.num_classes >= 0, "model.num_classes must not be negative")


PATCH_SIZES = (8, 10, 12, 16, 20, 24, 30, 32, 40, 48)
"""Patch sizes that FlexiAST trains with. Source: FlexiAST Section 2.3."""


@dataclass(frozen=True)
class FlexiConfig:
    """Patch sizes drawn in training, one for each optimiser step; ``sizes`` empty trains at
    ``model.patch_size`` only.

    ``weights`` are relative chances of the sizes, all alike where empty. ``axes`` says along
    which axes a size counts; the other axis keeps its size out of ``model.patch_size``.
    Source: FlexiAST Section 2.3; time only for speakers, Section 3.3.
    """

    sizes: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    axes: PatchAxes = "both"

    def __post_init__(self) -> None:
        _require(all(size > 0 for size in self.sizes), "flexi.sizes must be above 0")
        _require(len(set(self.sizes)) == len(self.sizes), "flexi.sizes names a size twice")
        _require(
            not self.weights or len(self.weights) == len(self.sizes),
            f"flexi.weights has {len(self.weights)} values for {len(self.sizes)} sizes",
        )
        _require(
            not self.weights or (min(self.weights) >= 0 and sum(self.weights) > 0),
            "flexi.weights must not be negative, nor all 0",
        )


@dataclass(frozen=True)
class DataConfig:
    """Which prepared clips train, validate and test.

    ``test_fold`` above 0 tests on that fold and trains on the others, whatever their split.
    ``validation_fraction`` takes a seeded, stratified part of the training clips where the data
    has no ``validation_split``. ``balanced_sampling`` draws an epoch's clips with replacement,
    rare classes more often: ``epoch_clips`` of them, 0 for as many as there are.
    """

    dataset: str = ""
    train_split: str = "train"
    validation_split: str = "val"
    test_split: str = "test"
    test_fold: int = 0
    validation_fraction: float = 0.0
    mean: float | None = None
    std: float | None = None
    balanced_sampling: bool = False
    epoch_clips: int = 0

    def __post_init__(self) -> None:
        _require(self.test_fold >= 0, "data.test_fold must be 0 (off) or above")
        _require(0 <= self.validation_fraction < 1, "data.validation_fraction must be in 0..1")
        _require(self.std is None or self.std > 0, "data.std must be above 0")
        _require((self.mean is None) == (self.std is None), "set data.mean and data.std together")
        _require(self.epoch_clips >= 0, "data.epoch_clips must be 0 (all) or above")
        _require(
            self.balanced_sampling or not self.epoch_clips,
            "data.epoch_clips needs data.balanced_sampling=true",
        )


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate over a run: linear warm-up, then ``constant``, ``cosine`` or ``multistep``.

    ``warmup_steps`` below 1 is a share of all steps. ``multistep`` multiplies by
    ``decay_factor`` after ``decay_from`` epochs and after each further one (the published scripts'
    schedule).
    """

    kind: Literal["constant", "cosine", "multistep"] = "cosine"
    warmup_steps: float = 0.1
    decay_from: int = 5
    decay_factor: float = 0.75
    final_factor: float = 0.0

    def __post_init__(self) -> None:
        _require(self.warmup_steps >= 0, "train.schedule.warmup_steps must not be negative")
        _require(self.decay_from >= 0, "train.schedule.decay_from must not be negative")
        _require(0 < self.decay_factor <= 1, "train.schedule.decay_factor must be in 0..1")
        _require(0 <= self.final_factor <= 1, "train.schedule.final_factor must be in 0..1")


@dataclass(frozen=True)
class DistillConfig:
    """Knowledge distillation: ``(1 - weight) * loss + weight * T^2 * KL(teacher || student)``.

    ``teacher`` is a run, at its own patch size and on the same clips; empty is none. Both sides'
    logits are divided by ``temperature`` T. Source: FlexiAST Section 3.4 (KL alone: weight 1);
    T^2 keeps the gradient's size (Hinton et al. 2015).
    """

    teacher: str = ""
    temperature: float = 1.0
    weight: float = 1.0

    def __post_init__(self) -> None:
        _require(self.temperature > 0, "train.distill.temperature must be above 0")
        _require(0 < self.weight <= 1, "train.distill.weight must be above 0 and at most 1")


@dataclass(frozen=True)
class TrainConfig:
    """The optimiser's side of a run. Betas and weight decay: published scripts.

    ``weight_decay_on``: ``all`` parameters, ``matrices`` (two dimensions or more) or ``kernels``
    (matrices but positions and prefix tokens); ``auto`` is ``all`` for adam, ``matrices`` for
    adamw. ``clip_norm`` caps the norm of a step's gradient (0: no cap). The rate of block i of
    depth d is ``lr * layer_decay ** (d - i)``; embedding and positions lie one below block 0, and
    all behind the last block has ``lr``. ``head_lr_factor`` multiplies the head's. ``freeze``
    names module groups that do not learn. ``ema_decay`` above 0 evaluates and saves a moving
    average of the weights; ``average_epochs`` is (first, last) of the epochs, counted from 1,
    whose mean becomes the ``averaged`` checkpoint, (0, 0) for none.

    ``precision`` auto is bf16 on a GPU that computes with it, fp32 elsewhere; a run keeps what it
    began with. ``loader_workers`` 0 loads in the training process, -1 takes one for each core on
    CUDA (up to 16), none on a CPU; ``cache_mb`` is what each loading process may keep of log-mel
    frames. ``fbank_on`` says where features are computed: ``auto`` is the
    ``device`` on CUDA, the ``host`` on a CPU; ``prefetch`` batches are loaded ahead in the
    background without workers (-1: 2 on CUDA, none on a CPU). ``checkpoint_steps`` saves within
    epochs too (0: at their ends). A step whose loss or gradient is not finite is left out; after
    more than ``max_skipped_steps`` in a row the run stops.
    """

    epochs: int = 10
    lr: float = 3e-4
    optimizer: Literal["adam", "adamw"] = "adam"
    betas: tuple[float, float] = (0.95, 0.999)
    weight_decay: float = 5e-7
    weight_decay_on: Literal["auto", "all", "matrices", "kernels"] = "auto"
    clip_norm: float = 0.0
    layer_decay: float = 1.0
    head_lr_factor: float = 1.0
    freeze: tuple[str, ...] = ()
    ema_decay: float = 0.0
    average_epochs: tuple[int, int] = (0, 0)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: Literal["ce", "bce"] = "ce"
    label_smoothing: float = 0.0
    distill: DistillConfig = field(default_factory=DistillConfig)
    accumulate: int = 1
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    attention: str = "auto"
    compile: bool = False
    selection_metric: Literal["auto", "top1", "map"] = "auto"
    validate_every: int = 1
    checkpoint_steps: int = 0
    max_skipped_steps: int = 10
    loader_workers: int = -1
    cache_mb: int = 512
    fbank_on: Literal["auto", "host", "device"] = "auto"
    prefetch: int = -1
    tensorboard: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        _require(self.epochs > 0, "train.epochs must be above 0")
        _require(self.lr > 0, "train.lr must be above 0")
        _require(all(0 <= beta < 1 for beta in self.betas), "train.betas must be in 0..1")
        _require(self.weight_decay >= 0, "train.weight_decay must not be negative")
        _require(self.clip_norm >= 0, "train.clip_norm must be 0 (off) or above")
        _require(0 < self.layer_decay <= 1, "train.layer_decay must be above 0 and at most 1")
        _require(self.head_lr_factor > 0, "train.head_lr_factor must be above 0")
        _require(0 <= self.ema_decay < 1, "train.ema_decay must be 0 (off) or above, below 1")
        first, last = self.average_epochs
        _require(
            first == last == 0 or 1 <= first <= last <= self.epochs,
            f"train.average_epochs = [{first}, {last}] must lie within epochs 1 to {self.epochs}",
        )
        _require(0 <= self.label_smoothing < 1, "train.label_smoothing must be in 0..1")
        _require(self.accumulate > 0, "train.accumulate must be above 0")
        _require(self.validate_every > 0, "train.validate_every must be above 0")
        _require(self.checkpoint_steps >= 0, "train.checkpoint_steps must not be negative")
        _require(self.max_skipped_steps >= 0, "train.max_skipped_steps must not be negative")
        _require(self.loader_workers >= -1, "train.loader_workers must be -1 (automatic) or above")
        _require(self.cache_mb >= 0, "train.cache_mb must not be negative")
        _require(self.prefetch >= -1, "train.prefetch must be -1 (automatic), 0 (off) or above")


Rgb = Literal["sum", "mean"]
GridFit = Literal["crop", "interpolate"]
PoolingStart = Literal["mean", "official", "random"]


@dataclass(frozen=True)
class InitConfig:
    """Weights that a run starts from; an empty ``source`` (YAML: ``from``) starts from new ones.

    ``path`` is a file, a folder, a run or a Hugging Face id. ``model`` says who decides about
    patches, positions and pooling: ``config`` (the ``model`` section) or ``weights`` (the file:
    exactly its model); width, depth, heads and eps are always the file's. ``head`` replace draws
    a new classifier, as new labels need. ``rgb`` joins colour channels. ``positions`` of another
    grid are cut out (``crop``: image and AST tables at their centre) or stretched.
    ``grid_mean`` twice keeps the mean that both factorised tables of one grid hold.
    ``pooling`` starts attention pooling, where the file has none, from the mean of the encoder's
    attention, from that ``official`` code's value, a sixth of it, or at random.
    ``source_stride`` says the file's patch stride where it cannot be inferred, ``heads`` its number
    of attention heads (0: as published models of its width have). ``compat`` official: the four
    before these as in the published ElasticAST code, and attention without scale.
    """

    source: str = field(default="", metadata={"key": "from"})
    path: str = ""
    model: Literal["config", "weights"] = "config"
    head: Literal["keep", "replace"] = "keep"
    rgb: Rgb = "sum"
    positions: GridFit = "crop"
    grid_mean: Literal["once", "twice"] = "once"
    pooling: PoolingStart = "mean"
    source_stride: tuple[int, int] = (0, 0)
    heads: int = 0
    compat: Literal["none", "official"] = "none"

    def __post_init__(self) -> None:
        _require(bool(self.source) == bool(self.path), "set init.from and init.path together")
        _require(min(self.source_stride) >= 0, "init.source_stride must not be negative")
        _require(self.heads >= 0, "init.heads must be 0 (inferred) or above")
        chosen = (self.rgb, self.positions, self.grid_mean, self.pooling)
        _require(
            self.compat == "none" or chosen == ("sum", "crop", "once", "mean"),
            "init.compat = official sets rgb, positions, grid_mean and pooling: leave them out",
        )


@dataclass(frozen=True)
class RunConfig:
    """One training run, complete: what ``config.yaml`` in the run directory holds."""

    name: str = ""
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    fbank: FbankConfig = field(default_factory=FbankConfig)
    length: LengthConfig = field(default_factory=LengthConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    packing: PackingConfig = field(default_factory=PackingConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    flexi: FlexiConfig = field(default_factory=FlexiConfig)
    init: InitConfig = field(default_factory=InitConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**63, "seed must be in 0..2^63-1")
        _require(
            not set("/\\") & set(self.name) and self.name not in (".", ".."),
            "name must be one name, not a path",
        )
        _require(
            self.model.num_mel_bins == self.fbank.num_mel_bins,
            f"model.num_mel_bins ({self.model.num_mel_bins}) and fbank.num_mel_bins "
            f"({self.fbank.num_mel_bins}) must be equal",
        )

    @property
    def token_multiple(self) -> int:
        """``packing.token_multiple``, or what it stands for."""
        return self.packing.token_multiple or (COMPILED_MULTIPLE if self.train.compile else 1)
