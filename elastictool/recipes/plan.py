"""From a recipe at one scale to its graph of steps: prep, train, eval, sweep, tokens, plot.

Every step has a fingerprint of all that its result depends on: its settings (those that are not
the defaults, so that a new option with a default changes nothing), the results that it reads, the
contents of files that it starts from, and a version of the code that makes it. The fingerprint is
part of the folder's name. So a finished step is one whose folder says so, other settings never
overwrite anything, and two figures that need the same run share it.

What a prepared dataset holds is known only once it is prepared; until then its place is taken by
what is asked for, and the plan is made again after each step.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from elastictool.config import RunConfig
from elastictool.config.conflicts import check_together
from elastictool.config.loader import merged, run_config
from elastictool.recipes.spec import (
    DataSpec,
    Recipe,
    Repeats,
    RunSpec,
    Scale,
    SweepSpec,
    TokensSpec,
)
from elastictool.reporting.runs import changed_settings
from elastictool.utils.errors import UsageError

Kind = Literal["prep", "train", "eval", "sweep", "tokens", "durations", "plot"]
VERSIONS: Mapping[Kind, int] = {
    "prep": 1,
    "train": 1,
    "eval": 1,
    "sweep": 1,
    "tokens": 1,
    "durations": 1,
    "plot": 2,
}
"""Raised when a change of the code changes the results of a kind of step."""
MARKER = "step.json"
"""In a step's folder: it is finished, and what it took."""


@dataclass(frozen=True)
class Paths:
    """Where the user's data lie, and where everything goes (one folder below it a scale)."""

    data: Path
    out: Path


@dataclass(frozen=True)
class SeedFold:
    """One of several trainings of the same run."""

    seed: int = 0
    fold: int = 0

    def suffix(self) -> str:
        """What its name has beside the run's."""
        return f"-seed{self.seed}" * (self.seed > 0) + f"-fold{self.fold}" * (self.fold > 0)


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Attributes:
        name: Unique within the plan, for people.
        kind: What is done.
        settings: All that its result depends on beside its inputs, as plain values.
        inputs: The steps that it reads, by role.
        reads: Where those lie, and files of the user that it reads, by role.
        path: Its folder.
        fingerprint: Of settings, inputs and version.
        config: Of a training, complete but for paths.
    """

    name: str
    kind: Kind
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    reads: Mapping[str, Path]
    path: Path
    fingerprint: str
    config: RunConfig | None = None

    def marker(self) -> dict[str, Any] | None:
        """What the step left when it finished; None where it has not, or was another."""
        try:
            found: dict[str, Any] = json.loads((self.path / MARKER).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return found if found.get("fingerprint") == self.fingerprint else None

    @property
    def state(self) -> Literal["done", "begun", "to do"]:
        """Whether it is finished, stopped half-way, or not begun."""
        if self.marker():
            return "done"
        begun = self.kind in ("prep", "train") and self.path.is_dir() and any(self.path.iterdir())
        return "begun" if begun else "to do"


@dataclass(frozen=True)
class Plan:
    """The steps of a recipe in an order in which they can be done.

    Attributes:
        recipe: Which.
        scale_name: At which scale.
        steps: Each after those that it reads.
        missing: Data and weights that are not there: what, where, what to do about it.
    """

    recipe: Recipe
    scale_name: str
    steps: tuple[Step, ...]
    missing: tuple[tuple[str, Path, str], ...] = ()

    @property
    def scale(self) -> Scale:
        """What is planned."""
        return self.recipe.scale(self.scale_name)

    @property
    def result(self) -> Path:
        """The folder of figure and table."""
        return self.steps[-1].path

    def ready(self, running: Sequence[str] = ()) -> list[Step]:
        """Steps that can be done now."""
        done = {step.name for step in self.steps if step.state == "done"}
        return [
            step
            for step in self.steps
            if step.name not in done
            and step.name not in running
            and done.issuperset(step.inputs.values())
        ]

    def check_inputs(self) -> None:
        """Everything that unfinished steps read from the user is there.

        Raises:
            UsageError: Something is not; the message names all of it.
        """
        if self.missing:
            what = "; ".join(f"{title} ({path})" for title, path, _ in self.missing)
            hints = dict.fromkeys(hint for _, _, hint in self.missing if hint)
            raise UsageError(
                f"{self.recipe.name} at scale {self.scale_name} needs what is not there: {what}",
                "\n".join(("--data names the folder that these lie in", *hints)),
            )


def make_plan(
    recipe: Recipe, scale_name: str, places: Paths, repeats: Repeats | None = None
) -> Plan:
    """The graph of ``recipe`` at a scale, with what is finished already.

    Args:
        recipe: What to make.
        scale_name: ``paper``, ``small`` or ``smoke``.
        places: Data and results.
        repeats: Seeds and folds in place of the scale's own.

    Raises:
        UsageError: There is no such scale or fold, or a run's settings are wrong.
    """
    repeats = repeats or Repeats()
    scale = repeats.of(recipe.scale(scale_name))
    recipe = dataclasses.replace(recipe, scales={**recipe.scales, scale_name: scale})
    graph = _Graph(scale, dataclasses.replace(places, out=places.out / scale_name))
    parts: dict[str, Step] = {}
    for number, sweep in enumerate(scale.sweeps, 1):
        for seed_fold in graph.seed_folds(sweep):
            step = graph.sweep(number, sweep, seed_fold)
            parts[f"sweep:{number}{seed_fold.suffix()}"] = step
            for run in sweep.runs:
                parts[f"eval:{run}{seed_fold.suffix()}"] = graph.evaluation(run, seed_fold)
    for tokens in scale.tokens:
        parts[f"tokens:{tokens.data}"] = graph.tokens(tokens)
    if scale.histograms:
        parts["durations"] = graph.durations(scale.histograms)
    parts |= {f"train:{s.name}": s for s in graph.steps.values() if s.kind == "train"}
    graph.plot(recipe, scale_name, parts, repeats)
    return Plan(recipe, scale_name, tuple(graph.steps.values()), tuple(graph.missing()))


@dataclass
class _Graph:
    """Steps by name, each made when it is first asked for, after what it reads."""

    scale: Scale
    places: Paths
    steps: dict[str, Step] = field(default_factory=dict)
    wanted: dict[Path, tuple[str, str]] = field(default_factory=dict)

    def seed_folds(self, sweep: SweepSpec) -> list[SeedFold]:
        """Every seed on every fold of the sweep's data."""
        data = {self.scale.runs[run].data for run in sweep.runs}
        if len(data) > 1:
            raise UsageError(f"a sweep's runs share their data, these have {', '.join(data)}")
        folds = self.scale.data[data.pop()].folds or (0,)
        return [SeedFold(seed, fold) for seed in self.scale.seeds for fold in folds]

    def prep(self, name: str) -> Step:
        """A prepared dataset."""
        spec = self.scale.data[name]
        settings = {
            "corpus": spec.corpus,
            "task": spec.task,
            "subset": spec.subset,
            "frontend": spec.frontend,
            "limit": spec.limit,
        }
        root = self._root(spec)
        settings["root"] = str(root or "")
        return self._add(f"prep {name}", "prep", settings, {}, {"root": root} if root else {})

    def train(self, name: str, seed_fold: SeedFold) -> Step:
        """A trained run."""
        spec = self.scale.runs[name]
        if seed_fold.fold not in (self.scale.data[spec.data].folds or (0,)):
            seed_fold = dataclasses.replace(seed_fold, fold=0)
        label = f"train {name}{seed_fold.suffix()}"
        if label in self.steps:
            return self.steps[label]
        inputs = {"dataset": self.prep(spec.data)}
        inputs |= {
            role: self.train(other, seed_fold)
            for role, other in (("start", spec.start), ("teacher", spec.teacher))
            if other
        }
        files = {"weights": self._weights(spec.weights)} if spec.weights else {}
        config = self._config(name, spec, seed_fold)
        settings = {"config": changed_settings(config)}
        return self._add(label, "train", settings, inputs, files, config)

    def evaluation(self, name: str, seed_fold: SeedFold) -> Step:
        """All metrics of a run at its own setting."""
        run = self.train(name, seed_fold)
        inputs = {"run": run, "dataset": self.steps[run.inputs["dataset"]]}
        label = f"eval {name}{seed_fold.suffix()}"
        return self._add(label, "eval", self._how(), inputs, {})

    def sweep(self, number: int, spec: SweepSpec, seed_fold: SeedFold) -> Step:
        """All runs of a sweep at all values; each clip is decoded once."""
        runs = {f"run:{name}": self.train(name, seed_fold) for name in spec.runs}
        dataset = self.steps[next(iter(runs.values())).inputs["dataset"]]
        settings = self._how() | _plain(spec)
        name = f"sweep {number}{seed_fold.suffix()}"
        return self._add(name, "sweep", settings, {"dataset": dataset, **runs}, {})

    def tokens(self, spec: TokensSpec) -> Step:
        """Padding and cut."""
        inputs, files, settings = self._durations(spec.data)
        return self._add(f"tokens {spec.data}", "tokens", settings | _plain(spec), inputs, files)

    def durations(self, names: Sequence[str]) -> Step:
        """Histograms of clips' lengths."""
        inputs: dict[str, Step] = {}
        files: dict[str, Path] = {}
        settings: dict[str, Any] = {"data": {}}
        for name in names:
            found, read, how = self._durations(name)
            inputs |= {f"{name}:{role}": step for role, step in found.items()}
            files |= {f"{name}:{role}": path for role, path in read.items()}
            settings["data"][name] = how
        return self._add("durations", "durations", settings, inputs, files)

    def plot(
        self, recipe: Recipe, scale_name: str, parts: Mapping[str, Step], repeats: Repeats
    ) -> Step:
        """Figure, table and verdicts."""
        settings = {
            "recipe": recipe.name,
            "scale": scale_name,
            "options": repeats.options(),
            "title": recipe.title,
            "shows": recipe.shows,
            "says": self.scale.says,
            "published": _plain(recipe.published) if recipe.published else None,
            "claims": [_plain(claim) for claim in self.scale.claims],
            "labels": self._labels(),
            "data": {name: self.scale.data[name].title for name in self._data_used(parts)},
        }
        return self._add("plot", "plot", settings, parts, {}, path=self.places.out / recipe.name)

    def missing(self) -> list[tuple[str, Path, str]]:
        """What unfinished steps need of the user and is not there."""
        needed = {
            path
            for step in self.steps.values()
            if step.state != "done"
            for path in step.reads.values()
        }
        return [
            (title, path, hint)
            for path, (title, hint) in self.wanted.items()
            if path in needed and not path.exists()
        ]

    def _add(
        self,
        name: str,
        kind: Kind,
        settings: Mapping[str, Any],
        inputs: Mapping[str, Step],
        files: Mapping[str, Path],
        config: RunConfig | None = None,
        path: Path | None = None,
    ) -> Step:
        if name in self.steps:
            return self.steps[name]
        read = {role: _identity(step) for role, step in inputs.items()}
        read |= {role: _contents(file) for role, file in files.items() if not file.is_dir()}
        key = fingerprint({"kind": kind, "version": VERSIONS[kind], **settings, "reads": read})
        folder = {"prep": "data", "train": "runs"}.get(kind, "steps")
        slug = name.partition(" ")[2] if kind in ("prep", "train") else name.replace(" ", "-")
        self.steps[name] = Step(
            name=name,
            kind=kind,
            settings=dict(settings),
            inputs={role: step.name for role, step in inputs.items()},
            reads={role: step.path for role, step in inputs.items()} | dict(files),
            path=path or self.places.out / folder / f"{slug}-{key[:8]}",
            fingerprint=key,
            config=config,
        )
        return self.steps[name]

    def _config(self, name: str, spec: RunSpec, seed_fold: SeedFold) -> RunConfig:
        settings: Mapping[str, Any] = {}
        if spec.weights:
            weights = self.scale.weights[spec.weights]
            init = {"init": {"from": weights.source, "path": weights.path}}
            settings = merged(weights.settings, init)
        own = {
            "name": f"{name}{seed_fold.suffix()}",
            "seed": seed_fold.seed,
            **({"data": {"test_fold": seed_fold.fold}} if seed_fold.fold else {}),
        }
        try:
            config = run_config(merged(merged(settings, spec.settings), own), complete=False)
            check_together(_with_sources(config, spec))
        except UsageError as error:
            raise UsageError(f"run {name!r}: {error.message}", error.hint) from error
        return config

    def _how(self) -> dict[str, Any]:
        return {"checkpoint": self.scale.checkpoint, "precision": self.scale.precision}

    def _root(self, spec: DataSpec) -> Path | None:
        """Where a corpus lies; None for one that is rendered."""
        if not spec.root:
            return None
        path = self.places.data / spec.root
        self.wanted[path] = (spec.title, f"{spec.corpus}: elastictool prep --dataset {spec.corpus}")
        return path

    def _weights(self, name: str) -> Path:
        spec = self.scale.weights[name]
        path = self.places.data / spec.path
        self.wanted[path] = (spec.title, f"a checkpoint of format {spec.source}: docs/weights.md")
        return path

    def _durations(self, name: str) -> tuple[dict[str, Step], dict[str, Path], dict[str, Any]]:
        """Steps, files and settings that durations come from."""
        spec = self.scale.data[name]
        if spec.corpus:
            return {"dataset": self.prep(name)}, {}, {"title": spec.title}
        if spec.stand_in:
            return {}, {}, {"title": spec.title, "stand_in": spec.stand_in}
        path = self.places.data / spec.durations
        self.wanted[path] = (spec.title, "")
        return {}, {"durations": path}, {"title": spec.title}

    def _labels(self) -> dict[str, dict[str, str]]:
        """By name of a run: its label, and its published one."""
        used = dict.fromkeys(run for sweep in self.scale.sweeps for run in sweep.runs)
        return {
            name: {
                "label": self.scale.runs[name].label,
                "published": self.scale.runs[name].published_label,
            }
            for name in used
        }

    def _data_used(self, parts: Mapping[str, Step]) -> list[str]:
        swept = [self.scale.runs[run].data for sweep in self.scale.sweeps for run in sweep.runs]
        counted = [spec.data for spec in self.scale.tokens]
        return list(dict.fromkeys([*swept, *counted, *self.scale.histograms]))


def _with_sources(config: RunConfig, spec: RunSpec) -> RunConfig:
    """``config`` as it will be once the runs that it starts from and learns from have places."""
    init, train = config.init, config.train
    if spec.start:
        init = dataclasses.replace(init, source="run", path=spec.start)
    distill = dataclasses.replace(train.distill, teacher=spec.teacher)
    train = dataclasses.replace(train, distill=distill)
    return dataclasses.replace(config, init=init, train=train)


def fingerprint(document: Any) -> str:
    """A short name of plain values: equal for equal ones."""
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _identity(step: Step) -> str:
    """What a step's result is known by: what it holds, where that is known, else what it is."""
    marker = step.marker() or {}
    return str(marker.get("output") or step.fingerprint)


def _contents(path: Path) -> str:
    """What a file of the user holds; where it is not there yet, what it is called."""
    try:
        found = path.stat()
    except OSError:
        return f"not there: {path.name}"
    return _hash(path, found.st_size, found.st_mtime_ns)


@cache
def _hash(path: Path, size: int, changed_ns: int) -> str:
    """SHA-256 of a file, read again only where its size or time have changed."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _plain(value: Any) -> dict[str, Any]:
    """A dataclass as JSON values; infinities are left out."""
    plain = dataclasses.asdict(value)
    return {
        key: item
        for key, item in plain.items()
        if not (isinstance(item, float) and abs(item) == float("inf"))
    }
