"""Settings of the filterbank, and where the frames of a clip begin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from elastictool.config.check import require, within

if TYPE_CHECKING:  # settings are read without numpy, which takes a while to load
    import numpy as np
    import numpy.typing as npt

Count = TypeVar("Count", int, "npt.NDArray[np.int64]")
"""One number, or an array of them."""


@dataclass(frozen=True)
class FrontendTraits:
    """Fixed properties of a kind of filterbank.

    Attributes:
        module: Has the arithmetic, see ``audio.fbank.Frontend``.
        centred: Frame k has its middle k shifts into the clip, with zeros beyond the clip's ends;
            other frames lie within the clip, the first at its first sample.
        min_frames: Clips with fewer frames repeat their last one.
        fft_size: Length of the Fourier transform in samples; 0 is the next power of two.
        defaults: Replace those of ``FbankConfig``.
    """

    module: str
    centred: bool = False
    min_frames: int = 0
    fft_size: int = 0
    defaults: Mapping[str, float] = field(default_factory=dict)


FRONTENDS: Mapping[str, FrontendTraits] = {
    "kaldi": FrontendTraits("elastictool.audio.kaldi_fbank"),
    "epic-librosa": FrontendTraits(
        "elastictool.audio.epic_fbank",
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
    """Log-mel filterbank: how recordings become frames.

    Source: ElasticAST Section 3.2 (25 ms window, 10 ms shift, 128 bins); the rest is Kaldi's.
    """

    sample_rate_hz: int = 16_000
    """Samples per second, those of the prepared data, which ``prep --frontend`` decides."""
    num_mel_bins: int = 128
    """Mel bands of a frame, at least 4; ``model.num_mel_bins`` must be the same."""
    window_ms: float = 25.0
    """Length of the analysis window in milliseconds. Longer windows resolve frequencies better and
    times worse."""
    shift_ms: float = 10.0
    """Time from frame to frame in milliseconds. Shorter shifts give more frames and so more tokens,
    which help short clips; limits in frames then mean less time."""
    low_frequency_hz: float = 20.0
    """Lower end of the lowest mel band in hertz."""
    high_frequency_hz: float = 0.0
    """Upper end of the highest mel band in hertz; at or below 0 it counts down from half the sample
    rate, as in Kaldi."""
    preemphasis: float = 0.97
    """Share of the previous sample that is subtracted from each sample, from 0 (off) to below 1.
    Only for ``kaldi``."""
    frontend: Literal["kaldi", "epic-librosa"] = "kaldi"
    """How frames are computed: ``kaldi`` as in AST and ElasticAST, or ``epic-librosa`` as in the
    public EPIC-SOUNDS code, with its own rate, window and shift. Data must be prepared with the
    same one (``prep --frontend``)."""

    def __post_init__(self) -> None:
        require(self.sample_rate_hz > 0, "fbank.sample_rate_hz must be above 0")
        within("fbank.num_mel_bins", self.num_mel_bins, 4, 4_096)
        within("fbank.shift_ms", self.shift_ms, 0.01, 10_000)
        within("fbank.window_ms", self.window_ms, 0, 10_000)
        require(self.window_samples >= 2, "fbank.window_ms is shorter than two samples")
        nyquist = self.sample_rate_hz / 2
        top = self.high_frequency_hz + (nyquist if self.high_frequency_hz <= 0 else 0)
        require(
            0 <= self.low_frequency_hz < top <= nyquist,
            f"fbank frequencies {self.low_frequency_hz}..{top} Hz do not lie within 0..{nyquist}",
        )
        require(0 <= self.preemphasis < 1, "fbank.preemphasis must be in 0..1")
        require(
            self.frontend == "kaldi" or self.preemphasis == 0,
            f"fbank.frontend = {self.frontend} has no fbank.preemphasis: set it to 0",
        )
        require(
            self.window_samples <= self.fft_size, f"fbank.window_ms exceeds {self.fft_size} samples"
        )

    @property
    def traits(self) -> FrontendTraits:
        """Fixed properties of this kind of filterbank."""
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
        """Samples of a frame before its ``frame_position``: 0, or half a window."""
        return -(-self.window_samples // 2) if self.traits.centred else 0

    @property
    def context_frames(self) -> int:
        """Frames to read before a wanted one, because they reach beyond the first sample read."""
        return -(-self.lead // max(self.frame_position(1), 1))

    @property
    def whole_steps(self) -> bool:
        """Whether the shift is a whole number of samples."""
        return (self.shift_ms * 0.001 * self.sample_rate_hz).is_integer()

    def frame_position(self, frame: Count) -> Count:
        """Returns first or middle sample of ``frame``: round(frame x shift x rate), exact.

        All code that reads, plans or cuts frames calls this, so all agree to the sample.
        """
        position: Count = _floor(frame * self.shift_ms * 0.001 * self.sample_rate_hz + 0.5)
        return position

    def frame_start(self, frame: int) -> int:
        """Returns the first sample of ``frame``; below 0 where it begins before the clip."""
        return self.frame_position(frame) - self.lead

    def own_frames(self, num_samples: Count) -> Count:
        """Returns the number of frames of a clip before its last one is repeated.

        Source: Kaldi's ``snip_edges``, or librosa's ``center``.
        """
        last_position = num_samples - (0 if self.traits.centred else self.window_samples)
        step = self.shift_ms * 0.001 * self.sample_rate_hz
        frames: Count = _floor((last_position + 0.5) / step) + 1
        # The quotient can be rounded across a frame's position, either way.
        frames = frames + (self.frame_position(frames) <= last_position)
        frames = frames - (self.frame_position(frames - 1) > last_position)
        return frames * ((last_position >= 0) & (num_samples > 0))

    def num_frames(self, num_samples: Count) -> Count:
        """Returns the number of frames of a clip; 0 if it is too short for one."""
        own = self.own_frames(num_samples)
        repeated = (self.traits.min_frames - own) * ((own > 0) & (own < self.traits.min_frames))
        return own + repeated

    def samples_for(self, num_frames: int) -> int:
        """Returns the number of samples that the first ``num_frames`` frames of a clip need."""
        return self.frame_start(num_frames - 1) + self.window_samples if num_frames > 0 else 0

    def excerpt(self, first: int, num_frames: int, native_frames: int) -> tuple[int, int, int]:
        """Returns the samples to read of a clip of ``native_frames`` for frames from ``first`` on.

        Reading begins ``context_frames`` earlier; where frames are not whole samples apart, or are
        repeated, at the clip's beginning.

        Returns:
            First sample, sample after the last (it may lie beyond the clip), and how many frames
            of what is read precede the wanted ones.
        """
        begin = 0
        if self.whole_steps and native_frames > self.traits.min_frames:
            begin = max(first - self.context_frames, 0)
        return self.frame_position(begin), self.samples_for(first + num_frames), first - begin


def _floor(values: Any) -> Any:
    """Rounds down to ``int``, or to an array of int64."""
    whole = values // 1
    return int(whole) if isinstance(whole, float) else whole.astype("int64")
