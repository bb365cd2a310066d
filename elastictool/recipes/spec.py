"""What a recipe file may say: one figure or table of a paper, at three scales.

A recipe names data, runs and sweeps; which steps follow from that, and in which order, is worked
out in ``plan.py``. So a file holds settings and nothing else: no paths of machines, no commands,
no code. ``paper`` is the paper's own experiment, ``small`` the same question on small real data,
``smoke`` the same steps on rendered clips within seconds, which shows that they work and nothing
more. Unknown keys are errors that name the nearest valid one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from elastictool.config import PositionFit, Resize
from elastictool.reporting.claims import Claim
from elastictool.utils.errors import UsageError
from elastictool.utils.registry import nearest_hint

ScaleName = Literal["paper", "small", "smoke"]
SCALES: tuple[ScaleName, ...] = ("paper", "small", "smoke")
SweepAxis = Literal["length", "patch_size", "resolution", "average_pooling", "max_pooling"]
SweepAxes = Literal["auto", "both", "time", "frequency"]
Checkpoint = Literal["best", "last", "averaged"]


@dataclass(frozen=True)
class ClipCounts:
    """How much a corpus has when it is complete, for costs before it is prepared.

    ``train`` and ``test`` are clips, ``seconds`` the mean length of one after the cap.
    """

    train: int = 0
    test: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class DataSpec:
    """Clips: a corpus to prepare, a table of durations, or the stand-in for VoxCeleb's durations.

    ``root`` and ``durations`` are paths below the user's data folder. ``folds`` are test folds,
    each of which every run is trained for; none is the corpus's own split. ``Repeats`` puts them
    into the title.
    """

    title: str
    corpus: str = ""
    root: str = ""
    task: str = ""
    subset: str = ""
    frontend: str = "kaldi"
    limit: int = 0
    folds: tuple[int, ...] = ()
    durations: str = ""
    stand_in: int = 0
    counts: ClipCounts = field(default_factory=ClipCounts)

    def __post_init__(self) -> None:
        kinds = [bool(self.corpus), bool(self.durations), self.stand_in > 0]
        if sum(kinds) != 1:
            raise UsageError(
                f"data {self.title!r}: set exactly one of corpus, durations and stand_in"
            )


@dataclass(frozen=True)
class WeightsSpec:
    """A checkpoint that runs start from: ``path`` lies below the user's data folder."""

    title: str
    source: str = field(metadata={"key": "from"})
    path: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunSpec:
    """One training run.

    Attributes:
        label: Its curve's name in figure, table and claims.
        data: Which data.
        recipe: Training recipe (``recipes/NAME.yaml``) that ``settings`` go over; empty is none.
        settings: Sections and keys as in a training recipe.
        weights: Entry of ``weights`` that it starts from.
        start: Run that it starts from.
        teacher: Run that teaches it.
        stands_for: The published curve that it is shown beside, where that has another name.
    """

    label: str
    data: str
    recipe: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: str = ""
    start: str = ""
    teacher: str = ""
    stands_for: str = ""

    def __post_init__(self) -> None:
        if self.weights and self.start:
            raise UsageError(f"run {self.label!r} starts from both {self.weights} and {self.start}")

    @property
    def published_label(self) -> str:
        """The name of its published curve."""
        return self.stands_for or self.label


@dataclass(frozen=True)
class SweepSpec:
    """Runs at a series of values, each also at its own setting.

    ``resize`` names ways of resizing kernels, each a curve of its own; none takes each run's own.
    ``axes`` says where a patch size counts, ``base_shift_ms`` what compressions are relative to.
    """

    axis: SweepAxis
    values: tuple[float, ...]
    runs: tuple[str, ...]
    resize: tuple[Resize, ...] = ()
    positions: PositionFit = "interpolate"
    axes: SweepAxes = "auto"
    base_shift_ms: float = 0.0

    def __post_init__(self) -> None:
        if not self.values or not self.runs:
            raise UsageError("a sweep needs values and runs")
        if self.resize and self.axis != "patch_size":
            raise UsageError("sweep.resize belongs to axis: patch_size")
        if self.base_shift_ms and self.axis != "resolution":
            raise UsageError("sweep.base_shift_ms belongs to axis: resolution")


@dataclass(frozen=True)
class TokensSpec:
    """Padding and cut of standard ASTs of ``frames`` and of ``planners`` (none: all)."""

    data: str
    frames: tuple[int, ...] = (1_024,)
    batch_sizes: tuple[int, ...] = (12, 24, 48)
    planners: tuple[str, ...] = ()
    max_frames: int = 3_072
    edge: Literal["pad", "drop"] = "pad"
    split: str = ""


@dataclass(frozen=True)
class Scale:
    """A recipe at one scale.

    Attributes:
        says: On what it runs and what that can show, in a sentence.
        include: Recipes whose data, weights and runs of the same scale can be used as if they
            stood here; runs with the same settings are trained once, whoever names them.
        settings: What all runs of this file have in common.
        seeds: Each run is trained with each of them; none takes 0.
        checkpoint: Of the runs; ``best`` is the last where there is no validation split.
        precision: Of evaluation.
        histograms: Data whose durations are drawn.
        claims: What is judged.
    """

    says: str
    include: tuple[str, ...] = ()
    data: Mapping[str, DataSpec] = field(default_factory=dict)
    weights: Mapping[str, WeightsSpec] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    runs: Mapping[str, RunSpec] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    checkpoint: Checkpoint = "best"
    precision: Literal["fp32", "bf16"] = "fp32"
    sweeps: tuple[SweepSpec, ...] = ()
    tokens: tuple[TokensSpec, ...] = ()
    histograms: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()

    def __post_init__(self) -> None:
        if sum(map(bool, (self.sweeps, self.tokens, self.histograms))) != 1:
            raise UsageError("a scale has exactly one of sweeps, tokens and histograms")
        if len({sweep.axis for sweep in self.sweeps}) > 1:
            raise UsageError("the sweeps of a figure share one axis")

    def check_names(self) -> None:
        """Everything that is referred to is there.

        Raises:
            UsageError: It is not; the hint names the nearest.
        """
        for name, run in self.runs.items():
            self._require(run.data, self.data, f"runs.{name}.data")
            for key in ("weights", "start", "teacher"):
                known = self.weights if key == "weights" else self.runs
                if getattr(run, key):
                    self._require(getattr(run, key), known, f"runs.{name}.{key}")
        for sweep in self.sweeps:
            for name in sweep.runs:
                self._require(name, self.runs, "sweeps.runs")
        for name in (*self.histograms, *(spec.data for spec in self.tokens)):
            self._require(name, self.data, "data of histograms and tokens")

    @staticmethod
    def _require(name: str, known: Mapping[str, Any], where: str) -> None:
        if name not in known:
            raise UsageError(f"{where}: there is no {name!r}", nearest_hint(name, list(known)))


@dataclass(frozen=True)
class PublishedSpec:
    """Where the published numbers are: a table of ``reporting/published``, the rows of ``dataset``
    in it where it holds several, and on which data they are (``title``)."""

    table: str
    title: str
    dataset: str = ""


@dataclass(frozen=True)
class Recipe:
    """One figure or table.

    Attributes:
        title: Paper, number and data, as the figure's heading.
        shows: What the paper says that it shows.
        published: Its numbers; None is published as a picture only.
        sources: For each setting of scale ``paper`` in this file, by dotted name, where it is from;
            "ours" where neither paper nor published script gives it.
        takes: Where paper and published code differ: which of them is taken.
        scales: The three scales.
        name: PAPER/FILE, set by the reader.
    """

    title: str
    shows: str
    scales: Mapping[str, Scale]
    published: PublishedSpec | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    takes: tuple[str, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        for name in self.scales:
            if name not in SCALES:
                raise UsageError(f"unknown scale {name!r}", nearest_hint(name, list(SCALES)))
        missing = [name for name in SCALES if name not in self.scales]
        if missing:
            raise UsageError(f"recipe {self.title!r} has no scale {', '.join(missing)}")

    def scale(self, name: str) -> Scale:
        """The scale called ``name``.

        Raises:
            UsageError: There is no such scale.
        """
        if name not in self.scales:
            raise UsageError(f"unknown scale {name!r}", nearest_hint(name, list(SCALES)))
        return self.scales[name]


@dataclass(frozen=True)
class Repeats:
    """How often every run is trained, where the user wants it otherwise than the scale does.

    Neither changes a training's fingerprint: a few folds now and the others later are one result.

    Attributes:
        seeds: Replace the scale's own; none leaves them.
        folds: Test folds out of those of the data; none takes all.
    """

    seeds: tuple[int, ...] = ()
    folds: tuple[int, ...] = ()

    def options(self) -> str:
        """As the command line says it, with a space before."""
        chosen = {"--seeds": self.seeds, "--folds": self.folds}
        return "".join(f" {name} {','.join(map(str, v))}" for name, v in chosen.items() if v)

    def of(self, scale: Scale) -> Scale:
        """The scale with these repeats.

        Raises:
            UsageError: A fold that the data lack.
        """
        there = {fold for spec in scale.data.values() for fold in spec.folds}
        if lacking := [str(fold) for fold in self.folds if fold not in there]:
            has = f"its folds are {', '.join(map(str, sorted(there)))}" if there else "it has none"
            raise UsageError(f"--folds: no fold {', '.join(lacking)}", has)
        data = {name: self._of(spec) for name, spec in scale.data.items()}
        return dataclasses.replace(scale, data=data, seeds=self.seeds or scale.seeds)

    def _of(self, spec: DataSpec) -> DataSpec:
        if not spec.folds:
            return spec
        folds = tuple(fold for fold in spec.folds if not self.folds or fold in self.folds)
        title = f"{spec.title}, {_told(folds, spec.folds)}"
        return dataclasses.replace(spec, folds=folds, title=title)


def _told(folds: Sequence[int], there: Sequence[int]) -> str:
    """``five folds``, ``fold 1 of five``, ``folds 1, 2 of five``."""
    words = dict(enumerate(("two", "three", "four", "five", "six", "seven", "eight", "nine"), 2))
    number = words.get(len(there), str(len(there)))
    if len(folds) == len(there):
        return f"{number} folds"
    return f"fold{'s' if len(folds) > 1 else ''} {', '.join(map(str, folds))} of {number}"
