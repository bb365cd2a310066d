"""What the studies on real recordings compare: recipes, their variations, seeds, folds, lengths.

A study is a table; ``benchmarks/study.py`` runs it. Every entry is a committed recipe plus the few
settings that vary within the study, so that each number can be had by ``elastictool train`` too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


@dataclass(frozen=True)
class Entry:
    """One row of a study's table.

    Attributes:
        label: Its name in tables and figures.
        recipe: File name in ``recipes/``.
        sets: Settings beside the recipe.
        evaluate_natively: Evaluate at native lengths a model that was trained on a fixed one.
    """

    label: str
    recipe: str
    sets: tuple[str, ...] = ()
    evaluate_natively: bool = False


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
        lengths: Frames at which each is evaluated.
        seeds: Runs of each entry, per fold.
        folds: Test folds; 0 is the data's own test split.
        marks: (column, least value) pairs that the project has set itself, with the entry.
    """

    title: str
    corpus: str
    root: str
    dataset: str
    entries: tuple[Entry, ...]
    lengths: tuple[int, ...]
    task: str = ""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    folds: tuple[int, ...] = (0,)
    marks: dict[str, float] = field(default_factory=dict)


def _fsdd(task: str, marks: dict[str, float]) -> Study:
    return Study(
        title={"digit": "Spoken digits", "speaker": "Six speakers"}[task]
        + " (FSDD), official split",
        corpus="fsdd",
        task=task,
        root="fsdd",
        dataset=f"fsdd-{task}",
        entries=(
            Entry("ElasticAST", f"fsdd_{task}_elasticast.yaml"),
            Entry("ElasticAST, diverse lengths", f"fsdd_{task}_elasticast_diverse.yaml"),
            *(
                Entry(f"AST-{n}", f"fsdd_{task}_ast.yaml", (f"length.fixed_frames={n}",))
                for n in (48, 80, 160)
            ),
        ),
        lengths=(32, 48, 64, 80, 96, 128, 160, 192, 256),
        marks=marks,
    )


STUDIES: dict[str, Study] = {
    "fsdd-digit": _fsdd("digit", {"native": 0.95, "48": 0.85}),
    "fsdd-speaker": _fsdd("speaker", {"native": 0.99}),
    "instruments": Study(
        title="Ten instruments (FSDKaggle2018), five folds",
        corpus="csv",
        root="instruments/clips.csv",
        dataset="instruments",
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
        lengths=(32, 64, 128, 256, 512, 1024, 1536),
        seeds=(0,),
        folds=(1, 2, 3, 4, 5),
        marks={"native": 0.75, "128": 0.70},
    ),
}
