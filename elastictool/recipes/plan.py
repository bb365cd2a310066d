"""Plan a recipe at one scale: its steps (prep, train, eval, sweep, tokens, plot) in order.

Each step has a fingerprint of everything that its result depends on: settings that are not the
defaults (so that a new option with a default changes nothing), the results and file contents that
it reads, and the version of the code. The fingerprint is part of the folder's name. A step is
finished if the marker in its folder has its fingerprint; other settings never overwrite a result,
and recipes that need the same run share it.

The contents of a prepared dataset are known only after preparation; until then its settings stand
for them, and the plan is made again after each step.
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
from elastictool.config.coerce import merged
from elastictool.config.conflicts import check_together
from elastictool.config.loader import run_config
from elastictool.recipes.spec import (
    Recipe,
    Repeats,
    RunSpec,
    Scale,
    SweepSpec,
    TokensSpec,
)
from elastictool.reporting.runs import changed_settings
from elastictool.utils.errors import UsageError
from elastictool.utils.io import parse_record

Kind = Literal["prep", "train", "eval", "sweep", "tokens", "durations", "plot"]
VERSIONS: Mapping[Kind, int] = {"plot": 2, "eval": 2, "sweep": 2}
"""Version of the code of a kind of step (1 by default); raised when its results change."""
MARKER = "step.json"
"""Written last into a step's folder: the step is finished, with its cost."""
POINTS, EVALUATION, TOKENS, DURATIONS = "points.csv", "eval.json", "tokens.json", "durations.json"
"""Result files of the steps."""


@dataclass(frozen=True)
class Paths:
    """The folder of the user's data, and the folder of results (with one subfolder a scale)."""

    data: Path
    out: Path


@dataclass(frozen=True)
class SeedFold:
    """Seed and test fold of one of several trainings of a run."""

    seed: int = 0
    fold: int = 0

    def suffix(self) -> str:
        """Returns what is appended to the run's name."""
        return f"-seed{self.seed}" * (self.seed > 0) + f"-fold{self.fold}" * (self.fold > 0)


@dataclass(frozen=True)
class Step:
    """One step of a plan.

    Attributes:
        name: Unique within the plan.
        kind: What is done.
        settings: Plain values that its result depends on, in addition to its inputs.
        inputs: Names of the steps that it reads, by role.
        reads: Folders of those steps and files of the user, by role.
        path: Its folder.
        fingerprint: Of settings, inputs and version.
        config: Configuration of a training, without the paths that ``reads`` has.
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
        """Returns the marker of the finished step; None if it is unfinished or has changed."""
        try:
            found = parse_record((self.path / MARKER).read_bytes())
        except OSError:
            return None
        return found if found and found.get("fingerprint") == self.fingerprint else None

    @property
    def state(self) -> Literal["done", "begun", "to do"]:
        """Whether the step is finished, was stopped half-way, or has not begun."""
        if self.marker():
            return "done"
        begun = self.kind in ("prep", "train") and self.path.is_dir() and any(self.path.iterdir())
        return "begun" if begun else "to do"


@dataclass(frozen=True)
class Plan:
    """The steps of a recipe, each after those that it reads.

    Attributes:
        recipe: The recipe, with the seeds and folds that are asked for.
        scale_name: Name of the scale.
        steps: The steps in order.
        missing: Data and weights that do not exist: title, path, hint.
    """

    recipe: Recipe
    scale_name: str
    steps: tuple[Step, ...]
    missing: tuple[tuple[str, Path, str], ...] = ()

    @property
    def scale(self) -> Scale:
        """The scale that is planned."""
        return self.recipe.scale(self.scale_name)

    @property
    def result(self) -> Path:
        """The folder of figure and table."""
        return self.steps[-1].path

    def document(self) -> dict[str, Any]:
        """Returns the plan for JSON."""
        return {
            "recipe": self.recipe.name,
            "title": self.recipe.title,
            "scale": self.scale_name,
            "description": self.scale.description,
            "steps": [
                {name: getattr(step, name) for name in ("name", "kind", "state")}
                | {"inputs": sorted(set(step.inputs.values())), "folder": str(step.path)}
                for step in self.steps
            ],
            "missing": [
                {"what": title, "path": str(path), "hint": hint}
                for title, path, hint in self.missing
            ],
        }

    def waiting(self) -> list[Step]:
        """Returns the steps that are not finished; the first one can be done now."""
        return [step for step in self.steps if step.state != "done"]

    def check_inputs(self) -> None:
        """Checks that everything exists that unfinished steps read from the user.

        Raises:
            UsageError: Something is missing; the message names all of it.
        """
        if self.missing:
            what = "; ".join(f"{title} ({path})" for title, path, _ in self.missing)
            hints = dict.fromkeys(hint for _, _, hint in self.missing if hint)
            raise UsageError(
                f"{self.recipe.name} at scale {self.scale_name} needs what is not there: {what}",
                "\n".join(("--data names the folder that these lie in", *hints)),
            )


def make_plan(
    recipe: Recipe, scale_name: str, paths: Paths, repeats: Repeats | None = None
) -> Plan:
    """Plans ``recipe`` at a scale, with the finished steps marked as done.

    Args:
        recipe: The recipe.
        scale_name: ``paper``, ``small`` or ``smoke``.
        paths: Folders of data and results.
        repeats: Seeds and folds instead of the scale's own.

    Raises:
        UsageError: There is no such scale or fold, or a run's settings are wrong.
    """
    repeats = repeats or Repeats()
    scale = repeats.apply(recipe.scale(scale_name))
    recipe = dataclasses.replace(recipe, scales={**recipe.scales, scale_name: scale})
    graph = _Graph(scale, dataclasses.replace(paths, out=paths.out / scale_name))
    parts: dict[str, Step] = {}
    for number, sweep in enumerate(scale.sweeps, 1):
        for seed_fold in graph.seed_folds(sweep):
            suffix = seed_fold.suffix()
            parts[f"sweep:{number}{suffix}"] = graph.sweep(
                f"sweep {number}{suffix}", sweep, seed_fold
            )
            for run in sweep.runs:
                parts[f"eval:{run}{suffix}"] = graph.evaluation(run, seed_fold)
    for tokens in scale.tokens:
        parts[f"tokens:{tokens.data}"] = graph.tokens(tokens)
    if scale.histograms:
        parts["durations"] = graph.durations(scale.histograms)
    parts |= {f"train:{s.name}": s for s in graph.steps.values() if s.kind == "train"}
    graph.plot(recipe, scale_name, parts, repeats)
    return Plan(recipe, scale_name, tuple(graph.steps.values()), tuple(graph.missing()))


@dataclass
class _Graph:
    """Steps by name in order of creation: each is made on demand, after those that it reads."""

    scale: Scale
    paths: Paths
    steps: dict[str, Step] = field(default_factory=dict)
    wanted: dict[Path, tuple[str, str]] = field(default_factory=dict)

    def seed_folds(self, sweep: SweepSpec) -> list[SeedFold]:
        """Returns every seed on every fold of the sweep's data."""
        data = {self.scale.runs[run].data for run in sweep.runs}
        if len(data) > 1:
            raise UsageError(f"a sweep's runs share their data, these have {', '.join(data)}")
        folds = self.scale.data[data.pop()].folds or (0,)
        return [SeedFold(seed, fold) for seed in self.scale.seeds for fold in folds]

    def prep(self, name: str) -> Step:
        """Prepares a dataset."""
        spec = self.scale.data[name]
        keys = ("corpus", "task", "subset", "frontend", "limit")
        settings = {key: getattr(spec, key) for key in keys} | {"root": ""}
        files = {}
        if spec.root:  # rendered corpora have none
            files["root"] = self.paths.data / spec.root
            settings["root"] = str(files["root"])
            how = f"{spec.corpus}: elastictool prep --dataset {spec.corpus}"
            self.wanted[files["root"]] = (spec.title, how)
        return self._add(f"prep {name}", "prep", settings, {}, files)

    def train(self, name: str, seed_fold: SeedFold) -> Step:
        """Trains a run."""
        spec = self.scale.runs[name]
        if seed_fold.fold not in (self.scale.data[spec.data].folds or (0,)):
            seed_fold = dataclasses.replace(seed_fold, fold=0)
        label = f"train {name}{seed_fold.suffix()}"
        if label in self.steps:
            return self.steps[label]
        inputs = {"dataset": self.prep(spec.data)}
        for role in ("start", "teacher"):
            if getattr(spec, role):
                inputs[role] = self.train(getattr(spec, role), seed_fold)
        files = {}
        if spec.weights:
            weights = self.scale.weights[spec.weights]
            files["weights"] = self.paths.data / weights.path
            how = f"a checkpoint of format {weights.source}: docs/weights.md"
            self.wanted[files["weights"]] = (weights.title, how)
        config = self._config(name, spec, seed_fold)
        settings = {"config": changed_settings(config)}
        return self._add(label, "train", settings, inputs, files, config)

    def evaluation(self, name: str, seed_fold: SeedFold) -> Step:
        """Computes all metrics of a run at its own setting."""
        run = self.train(name, seed_fold)
        inputs = {"run": run, "dataset": self.steps[run.inputs["dataset"]]}
        return self._add(f"eval {name}{seed_fold.suffix()}", "eval", self._evaluation, inputs, {})

    def sweep(self, name: str, spec: SweepSpec, seed_fold: SeedFold) -> Step:
        """Evaluates all runs of a sweep at all values, decoding each clip once."""
        runs = {f"run:{run}": self.train(run, seed_fold) for run in spec.runs}
        dataset = self.steps[next(iter(runs.values())).inputs["dataset"]]
        settings = self._evaluation | plain(spec)
        return self._add(name, "sweep", settings, {"dataset": dataset, **runs}, {})

    def tokens(self, spec: TokensSpec) -> Step:
        """Counts padding and cut."""
        inputs, files, settings = self._durations(spec.data)
        return self._add(f"tokens {spec.data}", "tokens", settings | plain(spec), inputs, files)

    def durations(self, names: Sequence[str]) -> Step:
        """Makes histograms of clip lengths."""
        inputs: dict[str, Step] = {}
        files: dict[str, Path] = {}
        settings: dict[str, Any] = {"data": {}}
        for name in names:
            found, read, settings["data"][name] = self._durations(name)
            inputs |= {f"{name}:{role}": step for role, step in found.items()}
            files |= {f"{name}:{role}": path for role, path in read.items()}
        return self._add("durations", "durations", settings, inputs, files)

    def plot(
        self, recipe: Recipe, scale_name: str, parts: Mapping[str, Step], repeats: Repeats
    ) -> Step:
        """Makes figure, table and verdicts."""
        runs = dict.fromkeys(run for sweep in self.scale.sweeps for run in sweep.runs)
        specs = {name: self.scale.runs[name] for name in runs}
        data = [spec.data for spec in specs.values()]
        data += [spec.data for spec in self.scale.tokens]
        settings = {
            "recipe": recipe.name,
            "scale": scale_name,
            "options": repeats.options(),
            "title": recipe.title,
            "shows": recipe.shows,
            "description": self.scale.description,
            "published": plain(recipe.published) if recipe.published else None,
            "claims": [plain(claim) for claim in self.scale.claims],
            "labels": {
                name: {"label": spec.label, "published": spec.published_label}
                for name, spec in specs.items()
            },
            "data": {
                name: self.scale.data[name].title
                for name in dict.fromkeys([*data, *self.scale.histograms])
            },
        }
        return self._add("plot", "plot", settings, parts, {}, path=self.paths.out / recipe.name)

    def missing(self) -> list[tuple[str, Path, str]]:
        """Returns the user's files that unfinished steps need and that do not exist."""
        waiting = [step for step in self.steps.values() if step.state != "done"]
        needed = {path for step in waiting for path in step.reads.values()}
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
        # An input counts by the hash of its output if that is known, else by its own fingerprint.
        read = {
            role: str((step.marker() or {}).get("output") or step.fingerprint)
            for role, step in inputs.items()
        }
        read |= {role: _contents(file) for role, file in files.items() if not file.is_dir()}
        version = VERSIONS.get(kind, 1)
        document = {"kind": kind, "version": version, **settings, "reads": read}
        text = json.dumps(document, sort_keys=True, ensure_ascii=False, default=str)
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        folder = {"prep": "data", "train": "runs"}.get(kind, "steps")
        slug = name.partition(" ")[2] if kind in ("prep", "train") else name.replace(" ", "-")
        self.steps[name] = Step(
            name=name,
            kind=kind,
            settings=dict(settings),
            inputs={role: step.name for role, step in inputs.items()},
            reads={role: step.path for role, step in inputs.items()} | dict(files),
            path=path or self.paths.out / folder / f"{slug}-{key[:8]}",
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
            config = run_config(merged(settings, spec.settings, own), complete=False)
            check_together(with_sources(config, start=spec.start, teacher=spec.teacher))
        except UsageError as error:
            raise UsageError(f"run {name!r}: {error.message}", error.hint) from error
        return config

    @property
    def _evaluation(self) -> dict[str, Any]:
        scale = self.scale
        return {"checkpoint": scale.checkpoint, "precision": scale.precision, "split": scale.split}

    def _durations(self, name: str) -> tuple[dict[str, Step], dict[str, Path], dict[str, Any]]:
        """Returns the steps, files and settings that durations come from."""
        spec = self.scale.data[name]
        if spec.corpus:
            return {"dataset": self.prep(name)}, {}, {"title": spec.title}
        if spec.stand_in:
            return {}, {}, {"title": spec.title, "stand_in": spec.stand_in}
        path = self.paths.data / spec.durations
        self.wanted[path] = (spec.title, "")
        return {}, {"durations": path}, {"title": spec.title}


def with_sources(
    config: RunConfig, start: str = "", weights: str = "", teacher: str = ""
) -> RunConfig:
    """Returns ``config`` with the runs or files that its start, weights and teacher come from."""
    init, distill = config.init, config.train.distill
    if start:
        init = dataclasses.replace(init, source="run", path=start)
    if weights:
        init = dataclasses.replace(init, path=weights)
    distill = dataclasses.replace(distill, teacher=teacher or distill.teacher)
    train = dataclasses.replace(config.train, distill=distill)
    return dataclasses.replace(config, init=init, train=train)


def _contents(path: Path) -> str:
    """Returns the hash of a user's file; its name if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return f"not there: {path.name}"
    return _hash(path, found.st_size, found.st_mtime_ns)


@cache
def _hash(path: Path, size: int, changed_ns: int) -> str:
    """Returns the SHA-256 of a file; it is read again only if its size or time have changed."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def plain(value: Any) -> dict[str, Any]:
    """Returns a dataclass as JSON values, without infinities."""
    plain = dataclasses.asdict(value)
    return {
        key: item
        for key, item in plain.items()
        if not (isinstance(item, float) and abs(item) == float("inf"))
    }
