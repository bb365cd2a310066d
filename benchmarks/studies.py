"""Define the studies on real recordings: models, seeds, folds and columns.

``benchmarks/study.py`` runs them. Every model is a committed training recipe and the few settings
that vary within the study, so each number can be reproduced with ``elastictool train`` too. The
claims with their thresholds were written before a study was run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elastictool.config import PatchAxes, Resize
from elastictool.reporting.claims import Claim

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


@dataclass(frozen=True)
class Entry:
    """One model of a study.

    Attributes:
        label: Its name in tables and figures.
        recipe: File name in ``recipes/``.
        sets: Settings over those of the recipe.
        evaluate_natively: Evaluate a model of a fixed input length at native lengths.
        start: Label of the entry whose run of the same seed and fold the weights come from.
        distilled: Whether that run is the teacher, too.
        axis: What is swept, a key of ``AXES``; empty for the study's.
        resizings: Kernel resizings to evaluate patch sizes with, each a curve of its own.
        along: Axes along which patch sizes are evaluated, each a curve of its own.
    """

    label: str
    recipe: str
    sets: tuple[str, ...] = ()
    evaluate_natively: bool = False
    start: str = ""
    distilled: bool = False
    axis: str = ""
    resizings: tuple[Resize, ...] = ()
    along: tuple[PatchAxes, ...] = ()


@dataclass(frozen=True)
class Study:
    """One data set, several models, many runs.

    Attributes:
        title: For headings.
        corpus: Name of the corpus for ``prep``.
        task: Task of the corpus, if it has several.
        root: Folder or file of the data below the shared data folder.
        dataset: Name of the prepared dataset.
        entries: The models.
        columns: Where each is evaluated: frames, patch sizes or compressions.
        axis: What is swept, a key of ``AXES``.
        base_shift_ms: Frame shift of compression 1, where resolutions are swept.
        seeds: Runs of each entry, per fold.
        folds: Test folds; 0 is the data's own test split.
        paired: Seed by seed another fold, instead of every seed on every fold.
        marks: Scores by column that an elastic model should reach.
        claims: Claims of the papers.
    """

    title: str
    corpus: str
    root: str
    dataset: str
    entries: tuple[Entry, ...]
    columns: tuple[float, ...]
    axis: str = "length"
    base_shift_ms: float = 0.0
    task: str = ""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    folds: tuple[int, ...] = (0,)
    paired: bool = False
    marks: dict[str, float] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()

    def runs(self) -> list[tuple[int, int]]:
        """Return the seed and fold of every run of an entry."""
        if self.paired:
            return list(zip(self.seeds, self.folds, strict=True))
        return [(seed, fold) for seed in self.seeds for fold in self.folds]


FSDD: dict[str, Any] = {"corpus": "fsdd", "root": "fsdd"}
DIGITS = FSDD | {"task": "digit", "dataset": "fsdd-digit"}
SPEAKERS = FSDD | {"task": "speaker", "dataset": "fsdd-speaker"}
INSTRUMENTS: dict[str, Any] = {
    "corpus": "csv", "root": "instruments/clips.csv", "dataset": "instruments",
}  # fmt: skip
SHORTER_VIEWS = ("augment.length_diversity.share=1",)
"""Setting of "diverse lengths", also for a standard AST, to separate the crops' effect.

Its shorter crops are not padded: positions are interpolated to their grid.
"""


def _fsdd(task: str, marks: dict[str, float]) -> Study:
    return Study(
        title={"digit": "Spoken digits", "speaker": "Six speakers"}[task]
        + " (FSDD), official split",
        **{"digit": DIGITS, "speaker": SPEAKERS}[task],
        entries=(
            Entry("ElasticAST", f"fsdd_{task}_elasticast.yaml"),
            Entry("ElasticAST, diverse lengths", f"fsdd_{task}_elasticast_diverse.yaml"),
            *(
                Entry(f"AST-{n}", f"fsdd_{task}_ast.yaml", (f"length.fixed_frames={n}",))
                for n in (48, 80, 160)
            ),
            Entry(
                "AST-160, diverse lengths",
                f"fsdd_{task}_ast.yaml",
                ("length.fixed_frames=160", *SHORTER_VIEWS),
            ),
        ),
        columns=FSDD_FRAMES,
        marks=marks,
    )


FSDD_FRAMES = (32, 48, 64, 80, 96, 128, 160, 192, 256)
PATCH_SIZES = (8, 10, 12, 16, 20, 24, 30, 32, 40, 48)
COMPRESSIONS = tuple(round(1 + 0.2 * k, 1) for k in range(16))
BOTH_RESIZINGS: tuple[Resize, ...] = ("pi", "bl")
ALONG: tuple[PatchAxes, ...] = ("both", "time", "frequency")
START, ALONG_TIME = "AST, patch 16", "FlexiAST, time only"
FIGURE = "FlexiAST Section 3.3, Figure 4 (a)"


def _flexi_entries(stem: str) -> tuple[Entry, ...]:
    """Return the standard AST and variants of FlexiAST: Table 1, Figures 3, 4 (b) and 5."""
    return (
        Entry(START, f"{stem}_ast.yaml", resizings=BOTH_RESIZINGS),
        Entry("FlexiAST", f"{stem}.yaml", start=START),
        Entry("FlexiAST, distilled", f"{stem}_distilled.yaml", start=START, distilled=True),
        Entry("FlexiAST, from new weights", f"{stem}_scratch.yaml"),
        Entry("FlexiAST, BL throughout", f"{stem}.yaml", ("model.resize=bl",), start=START),
    )


FINDING, TABLE = "FlexiAST Section 3.4, finding", "FlexiAST Section 3.3, Table 1"
SCRATCH = "FlexiAST, from new weights"
FLEXI_CLAIMS = (
    Claim("collapse", f"{START} (BL)", 20, at=16, source=TABLE),
    Claim("collapse", f"{START} (PI)", 10, at=16, source=f"{FINDING} 3"),
    Claim("above", f"{START} (PI)", 0, other=f"{START} (BL)", at=16, source=f"{FINDING} 3"),
    Claim("flat", "FlexiAST", 10, source=TABLE),
    Claim("above", "FlexiAST", 5, other=f"{START} (PI)", at=16, source="FlexiAST Section 3.3"),
    Claim("above", "FlexiAST, distilled", -3, other="FlexiAST", source=f"{FINDING} 1"),
    Claim("above", "FlexiAST", 0, other="FlexiAST, BL throughout", source=f"{FINDING} 2"),
    Claim("above", "FlexiAST", 0, other=SCRATCH, source=f"{FINDING} 4 (there against ViT weights)"),
)


def _resolution_entries(
    stem: str, shifts_ms: tuple[int, ...], frames: tuple[int, ...]
) -> tuple[Entry, ...]:
    """Return mixed resolutions, one AST per frame shift, and pooling: Figure 5, Table 1 right."""
    pooled, average = f"{stem}_elasticast_pooling.yaml", "augment.resolution.reduction=average"
    return (
        Entry("ElasticAST, mixed resolutions", f"{stem}_elasticast.yaml"),
        *(
            Entry(
                f"AST at {shift} ms",
                f"{stem}_ast.yaml",
                (f"fbank.shift_ms={shift}", f"length.fixed_frames={count}"),
            )
            for shift, count in zip(shifts_ms, frames, strict=True)
        ),
        Entry("ElasticAST, average pooling", pooled, (average,), axis="average_pooling"),
        Entry(
            "ElasticAST, max pooling",
            pooled,
            ("augment.resolution.reduction=max",),
            axis="max_pooling",
        ),
    )


def _resolution_claims(shifts_ms: tuple[int, ...]) -> tuple[Claim, ...]:
    elastic = "ElasticAST, mixed resolutions"
    first, last = (f"AST at {shift} ms" for shift in (shifts_ms[0], shifts_ms[-1]))
    figure = "ElasticAST Section 3.4, Figure 5"
    return (
        Claim("flat", elastic, 8, source=figure),
        Claim("collapse", first, 10, at=1.0, source=figure),
        Claim("collapse", last, 10, at=4.0, source=figure),
        Claim("above", elastic, -2, other=first, source=figure),
        Claim("above", elastic, -2, other=last, source=figure),
        Claim("flat", "ElasticAST, average pooling", 8, source="ElasticAST Section 3.5, Table 1"),
        Claim("flat", "ElasticAST, max pooling", 8, source="published code of ElasticAST"),
    )


STUDIES: dict[str, Study] = {
    "fsdd-digit": _fsdd("digit", {"native": 0.95, "48": 0.85}),
    "fsdd-speaker": _fsdd("speaker", {"native": 0.99}),
    "precision-digit": Study(
        title="bf16 against fp32, spoken digits (FSDD)",
        **DIGITS,
        entries=tuple(
            Entry(f"ElasticAST, {name}", "fsdd_digit_elasticast.yaml", (f"train.precision={name}",))
            for name in ("bf16", "fp32")
        ),
        columns=FSDD_FRAMES,
        seeds=(0, 1),
        claims=(
            Claim(
                "above",
                "ElasticAST, bf16",
                -2,
                other="ElasticAST, fp32",
                start=96,
                source="ours: bf16 must not cost accuracy",
            ),
        ),
    ),
    "instruments": Study(
        title="Ten instruments (FSDKaggle2018), five folds",
        **INSTRUMENTS,
        entries=(
            Entry("ElasticAST", "instruments_elasticast.yaml"),
            Entry("ElasticAST, diverse lengths", "instruments_elasticast_diverse.yaml"),
            *(
                Entry(f"AST-{n}", "instruments_ast.yaml", (f"length.fixed_frames={n}",))
                for n in (128, 400, 1024)
            ),
            Entry(
                "ElasticAST trained at 400, native at test",
                "instruments_elasticast.yaml",
                ("length.fixed_frames=400",),
                evaluate_natively=True,
            ),
        ),
        columns=(32, 64, 128, 256, 512, 1024, 1536),
        seeds=(0,),
        folds=(1, 2, 3, 4, 5),
        marks={"native": 0.75, "128": 0.70},
    ),
    "flexi-digit": Study(
        title="Patch sizes, spoken digits (FSDD)",
        **DIGITS,
        entries=_flexi_entries("flexi_digit"),
        columns=PATCH_SIZES,
        axis="patch_size",
        seeds=(0, 1),
        claims=FLEXI_CLAIMS,
    ),
    "flexi-speaker": Study(
        title="Patch sizes, six speakers (FSDD)",
        **SPEAKERS,
        entries=(
            Entry(START, "flexi_digit_ast.yaml", resizings=("pi",), along=ALONG),
            Entry("FlexiAST, both axes", "flexi_digit.yaml", start=START),
            Entry(ALONG_TIME, "flexi_digit_time.yaml", start=START),
            Entry("FlexiAST, frequency only", "flexi_digit_frequency.yaml", start=START),
        ),
        columns=PATCH_SIZES,
        axis="patch_size",
        seeds=(0, 1),
        claims=(
            Claim("flat", ALONG_TIME, 10, source=FIGURE),
            Claim("above", ALONG_TIME, 5, other="FlexiAST, both axes", at=16, source=FIGURE),
            Claim("collapse", "FlexiAST, frequency only", 20, at=16, source=FIGURE),
        ),
    ),
    "flexi-instruments": Study(
        title="Patch sizes, ten instruments (FSDKaggle2018)",
        **INSTRUMENTS,
        entries=_flexi_entries("flexi_instruments"),
        columns=PATCH_SIZES,
        axis="patch_size",
        seeds=(0, 1),
        folds=(1, 2),
        paired=True,
        claims=FLEXI_CLAIMS,
    ),
    "resolution-digit": Study(
        title="Temporal resolution, spoken digits (FSDD)",
        **DIGITS,
        entries=_resolution_entries("resolution_digit", (5, 10, 15, 20), (96, 48, 32, 24)),
        columns=COMPRESSIONS,
        axis="resolution",
        base_shift_ms=5.0,
        seeds=(0, 1),
        claims=_resolution_claims((5, 10, 15, 20)),
    ),
    "resolution-instruments": Study(
        title="Temporal resolution, ten instruments (FSDKaggle2018)",
        **INSTRUMENTS,
        entries=_resolution_entries(
            "resolution_instruments", (10, 20, 30, 40), (384, 192, 128, 96)
        ),
        columns=COMPRESSIONS,
        axis="resolution",
        base_shift_ms=10.0,
        seeds=(0, 1),
        folds=(1, 2),
        paired=True,
        claims=_resolution_claims((10, 20, 30, 40)),
    ),
}
