"""Schema of recipe files: one figure or table of a paper at three scales.

A recipe names data, runs and sweeps; ``plan.py`` derives the steps and their order. A file holds
settings only: no machine paths, commands or code. Scale ``paper`` is the paper's experiment,
``small`` asks the same question on small real data, and ``smoke`` runs the same steps on rendered
clips within seconds to test them. Unknown keys are errors that name the nearest valid key.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
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
RENAMED_KEYS = {"says": "description", "takes": "deviations"}
"""Old keys of recipe files and their present names."""


@dataclass(frozen=True)
class ClipCounts:
    """Size of a complete corpus, for cost estimates before it is prepared.

    ``train`` and ``test`` are clips, ``seconds`` the mean length of a clip after the cap.
    """

    train: int = 0
    test: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class DataSpec:
    """Clips: a corpus to prepare, a table of durations, or the stand-in for VoxCeleb's durations.

    ``root`` and ``durations`` are paths below the user's data folder. Every run is trained once
    for each test fold in ``folds``; without folds the corpus's own split is used.
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
        if sum(map(bool, (self.corpus, self.durations, self.stand_in > 0))) != 1:
            raise UsageError(
                f"data {self.title!r}: set exactly one of corpus, durations and stand_in"
            )


@dataclass(frozen=True)
class WeightsSpec:
    """A checkpoint that runs start from; ``path`` lies below the user's data folder."""

    title: str
    source: str = field(metadata={"key": "from"})
    path: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunSpec:
    """One training run.

    Attributes:
        label: Name of its curve in figure, table and claims.
        data: Name of its data.
        recipe: Training recipe (``recipes/NAME.yaml``) below ``settings``; empty for none.
        settings: Sections and keys as in a training recipe.
        weights: Entry of ``weights`` that it starts from.
        start: Run that it starts from.
        teacher: Run that it is distilled from.
        stands_for: Published curve to compare with, if its label differs.
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
        """Label of the published curve."""
        return self.stands_for or self.label


@dataclass(frozen=True)
class SweepSpec:
    """Runs evaluated at a series of values, and each at its own setting.

    Attributes:
        axis: What is swept.
        values: Frames, patch sizes or compressions.
        runs: Names of runs.
        resize: Kernel resizing methods, one curve each; empty for each run's own.
        positions: How position grids are fitted to other lengths.
        axes: Axes along which patch sizes change.
        base_shift_ms: Frame shift of compression 1; 0 for each run's own.
        native: Evaluate runs of a fixed input length at native lengths.
    """

    axis: SweepAxis
    values: tuple[float, ...]
    runs: tuple[str, ...]
    resize: tuple[Resize, ...] = ()
    positions: PositionFit = "interpolate"
    axes: SweepAxes = "auto"
    base_shift_ms: float = 0.0
    native: bool = False

    def __post_init__(self) -> None:
        if not self.values or not self.runs:
            raise UsageError("a sweep needs values and runs")
        if self.resize and self.axis != "patch_size":
            raise UsageError("sweep.resize belongs to axis: patch_size")
        if self.base_shift_ms and self.axis != "resolution":
            raise UsageError("sweep.base_shift_ms belongs to axis: resolution")


@dataclass(frozen=True)
class TokensSpec:
    """Padding and cut of standard ASTs of ``frames`` and of ``planners`` (empty for all)."""

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
        description: One sentence: the data, and what the scale can show.
        include: Recipes whose data, weights and runs of the same scale can be referred to here;
            runs with equal settings are trained once for all recipes.
        settings: Settings shared by all runs of this file.
        seeds: Every run is trained with each seed.
        checkpoint: Checkpoint to evaluate; ``best`` is the last one without a validation split.
        precision: Precision of evaluation.
        split: Split to evaluate on.
        histograms: Data whose durations are drawn.
        claims: Claims to judge.
    """

    description: str
    include: tuple[str, ...] = ()
    data: Mapping[str, DataSpec] = field(default_factory=dict)
    weights: Mapping[str, WeightsSpec] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    runs: Mapping[str, RunSpec] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    checkpoint: Checkpoint = "best"
    precision: Literal["fp32", "bf16"] = "fp32"
    split: Literal["test", "validation"] = "test"
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
        """Checks that every name that is referred to exists.

        Raises:
            UsageError: One does not; the hint names the nearest.
        """
        for name, run in self.runs.items():
            _require(run.data, self.data, f"runs.{name}.data")
            parts = {"weights": self.weights, "start": self.runs, "teacher": self.runs}
            for key, known in parts.items():
                if getattr(run, key):
                    _require(getattr(run, key), known, f"runs.{name}.{key}")
        for name in (run for sweep in self.sweeps for run in sweep.runs):
            _require(name, self.runs, "sweeps.runs")
        for name in (*self.histograms, *(spec.data for spec in self.tokens)):
            _require(name, self.data, "data of histograms and tokens")


def _require(name: str, known: Mapping[str, Any], where: str) -> None:
    if name not in known:
        raise UsageError(f"{where}: there is no {name!r}", nearest_hint(name, list(known)))


@dataclass(frozen=True)
class PublishedSpec:
    """Published numbers: ``table`` of ``reporting/published``, the ``dataset`` whose rows are used
    if it has several, and the ``title`` of the data they were measured on."""

    table: str
    title: str
    dataset: str = ""


@dataclass(frozen=True)
class Recipe:
    """One figure or table.

    Attributes:
        title: Paper, number and data, as the figure's heading.
        shows: What the figure shows according to the paper.
        published: Its numbers; None if they are published as a picture only.
        sources: Source of each setting of scale ``paper`` in this file, by dotted name; "ours" if
            neither the paper nor the published scripts give it.
        deviations: Where paper and published code differ, and which one the recipe follows.
        scales: The three scales.
        name: PAPER/FILE, set by the reader.
    """

    title: str
    shows: str
    scales: Mapping[str, Scale]
    published: PublishedSpec | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    deviations: tuple[str, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        for name in self.scales:
            _require_scale(name)
        missing = [name for name in SCALES if name not in self.scales]
        if missing:
            raise UsageError(f"recipe {self.title!r} has no scale {', '.join(missing)}")

    def scale(self, name: str) -> Scale:
        """Returns the scale called ``name``.

        Raises:
            UsageError: There is no such scale.
        """
        _require_scale(name)
        return self.scales[name]


def _require_scale(name: str) -> None:
    if name not in SCALES:
        raise UsageError(f"unknown scale {name!r}", nearest_hint(name, list(SCALES)))


@dataclass(frozen=True)
class Repeats:
    """The seeds and folds that a user asks for instead of the scale's own.

    Neither changes a training's fingerprint, so folds can be trained a few at a time.

    Attributes:
        seeds: Replace the scale's seeds; empty keeps them.
        folds: Some of the data's test folds; empty for all.
    """

    seeds: tuple[int, ...] = ()
    folds: tuple[int, ...] = ()

    def options(self) -> str:
        """Returns them as command-line options, with a leading space."""
        chosen = {"--seeds": self.seeds, "--folds": self.folds}
        return "".join(f" {name} {','.join(map(str, v))}" for name, v in chosen.items() if v)

    def apply(self, scale: Scale) -> Scale:
        """Returns the scale with these seeds and folds.

        Raises:
            UsageError: The data do not have such a fold.
        """
        known = {fold for spec in scale.data.values() for fold in spec.folds}
        if lacking := [str(fold) for fold in self.folds if fold not in known]:
            has = f"its folds are {', '.join(map(str, sorted(known)))}" if known else "it has none"
            raise UsageError(f"--folds: no fold {', '.join(lacking)}", has)
        data = {name: self._with_folds(spec) for name, spec in scale.data.items()}
        return dataclasses.replace(scale, data=data, seeds=self.seeds or scale.seeds)

    def _with_folds(self, spec: DataSpec) -> DataSpec:
        """Returns the data with the chosen folds, which its title lists: ``folds 1, 2 of five``."""
        if not spec.folds:
            return spec
        folds = tuple(fold for fold in spec.folds if not self.folds or fold in self.folds)
        words = ("two", "three", "four", "five", "six", "seven", "eight", "nine")
        number = dict(enumerate(words, 2)).get(len(spec.folds), str(len(spec.folds)))
        listed = f"fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))} of {number}"
        if len(folds) == len(spec.folds):
            listed = f"{number} folds"
        return dataclasses.replace(spec, folds=folds, title=f"{spec.title}, {listed}")
