"""Recipes: every file parses and plans at every scale; small graphs run, resume and are judged."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import elastictool
from elastictool.config.coerce import flat_settings
from elastictool.config.loader import read_settings, run_config
from elastictool.config.recipe_file import recipes_root, training_recipe
from elastictool.evaluation.points import SweepPoint
from elastictool.recipes import library, steps
from elastictool.recipes.cost import Cost, finished_throughput, measured_throughput, plan_costs
from elastictool.recipes.library import full_name, load_recipe, own_settings, recipe_names
from elastictool.recipes.plan import MARKER, Paths, Plan, Step, make_plan
from elastictool.recipes.result import mean_point
from elastictool.recipes.run import run_plan
from elastictool.recipes.spec import SCALES, Recipe, Repeats, Scale
from elastictool.reporting.claims import Claim, judge, statement
from elastictool.reporting.published import own_score, published_curves
from elastictool.reporting.tables import RESIZE_LABELS
from elastictool.utils.errors import Interrupted, UsageError
from tests.helpers.children import Child
from tests.helpers.command_line import run_command

POINT = SweepPoint(
    model="AST",
    run="ast",
    length_frames=128,
    length_s=1.28,
    metric="top1",
    value=0.5,
    low=0.4,
    high=0.6,
    clips=10,
    tokens=640,
    seconds=1.0,
    gflops=2.0,
    positions="",
    native=False,
    axis="length",
    x=128.0,
    resize="",
)
CHEAP = (
    "elasticast/fig2",
    "elasticast/table1_pooling",
    "elasticast/table1_token_usage",
    "flexiast/fig4b_vggsound",
)
"""Run in CI; together they have every kind of step, starts from runs, and includes."""
PARTLY_PUBLISHED = {("elasticast/fig4_voxceleb", "ElasticAST, own")}
"""Claims of the text that the authors' own numbers miss: 59.40 against AST-1600's 59.67."""


def plan_of(name: str, scale: str, out: Path, data: Path = Path("nowhere")) -> Plan:
    return make_plan(load_recipe(full_name(name)), scale, Paths(data, out))


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the cheap recipes were run."""
    out = tmp_path_factory.mktemp("recipes")
    for name in CHEAP:
        run_plan(lambda name=name: plan_of(name, "smoke", out))  # type: ignore[misc]
    return out


def result_of(name: str, out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "smoke" / name / "result.json").read_text("utf-8"))
    return found


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_plans_at_every_scale(name: str, scale: str, tmp_path: Path) -> None:
    plan = plan_of(name, scale, tmp_path)
    done: set[str] = set()
    for step in plan.steps:
        assert done.issuperset(step.inputs.values()), f"{step.name} comes before what it reads"
        done.add(step.name)
    assert plan.steps[-1].kind == "plot"
    assert plan.result == tmp_path / scale / name
    assert len({step.path for step in plan.steps}) == len(plan.steps)
    assert not (scale == "smoke" and plan.missing), "smoke needs nothing"
    assert plan.waiting() == list(plan.steps)
    assert not (scale == "smoke" and plan.scale.runs and plan.scale.claims), (
        "its scores say nothing"
    )
    for claim in plan.scale.claims:
        assert {claim.curve, claim.other or claim.curve} <= curve_names(plan.scale), claim
        assert claim.source or not plan.scale.runs
        assert " 0 points" not in statement(claim), "say it so that it can be read"


def curve_names(scale: Scale) -> set[str]:
    """What the curves of a scale are called."""
    from elastictool.evaluation.tokens import table_planners

    names = {f"AST-{n}" for tokens in scale.tokens for n in tokens.frames}
    names |= set(table_planners()) if scale.tokens else set()
    for sweep in scale.sweeps:
        for run in sweep.runs:
            suffixes = [f", {RESIZE_LABELS[kind]}" for kind in sweep.resize]
            suffixes = suffixes if len(suffixes) > 1 else [""]
            names |= {scale.runs[run].label + suffix for suffix in suffixes}
    return names | {f"{name}, own" for name in names}


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_opens_with_its_command_and_says_where_settings_are_from(name: str) -> None:
    text = library.recipe_file(name).read_text("utf-8")
    assert text.startswith(f"# elastictool recipe run {name} --scale ")
    recipe = load_recipe(name)
    assert set(own_settings(name)) == set(recipe.sources)
    assert all(recipe.sources.values())


def test_the_papers_figures_and_tables_are_all_there() -> None:
    elastic = ("fig1", "fig2", "fig4_voxceleb", "fig4_epic_sounds", "fig5_audioset")
    elastic += ("fig5_vggsound", "table1_token_usage", "table1_pooling")
    flexi = ("fig1", "table1_audioset", "table1_vggsound", "table1_esc50", "fig4a_voxceleb")
    flexi += ("table1_speech_commands", "fig4b_vggsound", "fig5")
    wanted = {f"elasticast/{n}" for n in elastic} | {f"flexiast/{n}" for n in flexi}
    assert set(recipe_names()) == wanted


@pytest.mark.parametrize("scale", SCALES)
def test_a_run_is_the_same_in_every_recipe_that_names_it(scale: str) -> None:
    known: dict[str, Any] = {}
    for name in recipe_names():
        for run, spec in load_recipe(name).scale(scale).runs.items():
            assert known.setdefault(run, spec) == spec, f"{run} in {name}"


@pytest.mark.parametrize("name", recipe_names())
def test_published_curves_are_those_of_runs_and_keep_the_papers_claims(name: str) -> None:
    recipe = load_recipe(name)
    if recipe.published is None or "token" in recipe.published.table:
        return
    curves = published_curves(recipe.published.table, recipe.published.dataset)
    paper = recipe.scale("paper")
    swept = {paper.runs[run].published_label for sweep in paper.sweeps for run in sweep.runs}
    assert swept == set(curves)
    shown = dict(curves)
    for model, points in curves.items():
        own = own_score(model, sorted(points.items()))
        shown |= {f"{model}, own": {0.0: own}} if own is not None else {}
    for claim in paper.claims:
        verdict = judge(claim, shown)
        assert verdict.holds is ((name, claim.curve) not in PARTLY_PUBLISHED), verdict.words


def test_options_that_the_docs_name_exist() -> None:
    text = (Path(__file__).parents[1] / "docs" / "reproducing.md").read_text("utf-8")
    rows = text.partition("## Where papers and published code differ")[2]
    cells = [line.rsplit("|", 2)[-2] for line in rows.splitlines() if line.startswith("| ")][2:]
    section, named = "", []
    for setting in re.findall(r"`([a-z_]*\.[a-z_.]+)(?:=([\w.-]+))?`", " ".join(cells)):
        key, value = setting
        key = section + key if key.startswith(".") else key
        section = key.rpartition(".")[0]
        named.append((key, value))
    assert len(named) > 15
    for key, value in named:
        sets = [f"{key}={value}"] if value else []
        config = run_config(read_settings(None, sets), complete=False)
        assert key in flat_settings(config)


def write_recipe(folder: Path, name: str, text: str) -> None:
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of its own, with one small recipe."""
    folder = tmp_path / "recipes"
    source = library.recipe_file("elasticast/table1_token_usage").read_text("utf-8")
    write_recipe(folder, "elasticast/tokens", source)
    monkeypatch.setattr(library, "recipes_root", lambda: folder)
    library.load_recipe.cache_clear()
    library._read.cache_clear()
    return folder


def test_shipped_recipes_are_found_by_name_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ours = recipes_root() / "small_data.yaml"
    for name in ("small_data", "small_data.yaml", "recipes/small_data.yaml"):
        assert training_recipe(Path(name)) == ours
    Path("small_data").write_text("seed: 3\n")
    assert training_recipe(Path("small_data")) == Path("small_data"), "a file goes first"
    with pytest.raises(UsageError, match="no recipe 'smalldata'") as caught:
        training_recipe(Path("smalldata"))
    assert "did you mean 'small_data'" in caught.value.hint


def test_an_unknown_key_names_the_nearest(shelf: Path) -> None:
    text = (shelf / "elasticast/tokens.yaml").read_text("utf-8")
    write_recipe(shelf, "elasticast/typo", text.replace("batch_sizes:", "batch_size:"))
    with pytest.raises(UsageError) as found:
        load_recipe("elasticast/typo")
    assert "typo.yaml" in found.value.message
    assert "batch_sizes" in found.value.hint


@pytest.mark.parametrize(("old", "new"), [("says", "description"), ("takes", "deviations")])
def test_an_old_key_is_an_error_that_names_the_new_one(shelf: Path, old: str, new: str) -> None:
    text = (shelf / "elasticast/tokens.yaml").read_text("utf-8")
    former = text.replace(f"{new}:", f"{old}:") if new in text else f"{old}: []\n{text}"
    write_recipe(shelf, "elasticast/former", former)
    with pytest.raises(UsageError, match=f"former.yaml: unknown key '{old}'") as found:
        load_recipe("elasticast/former")
    assert found.value.hint == f"it is now '{new}'"


def test_a_name_that_refers_to_nothing_names_the_nearest(shelf: Path) -> None:
    text = (shelf / "elasticast/tokens.yaml").read_text("utf-8")
    write_recipe(shelf, "elasticast/typo", text.replace("{data: stand-in,", "{data: stand-off,"))
    with pytest.raises(UsageError) as found:
        load_recipe("elasticast/typo")
    assert "stand-in" in found.value.hint


def test_recipes_that_include_one_another_are_refused(shelf: Path) -> None:
    text = (shelf / "elasticast/tokens.yaml").read_text("utf-8")
    for one, other in (("a", "b"), ("b", "a")):
        included = text.replace("    tokens:\n", f"    include: [{other}]\n    tokens:\n", 1)
        write_recipe(shelf, f"flexiast/{one}", included)
    with pytest.raises(UsageError, match="include one another"):
        load_recipe("flexiast/a")


def test_a_recipe_is_found_by_its_file_alone_where_that_is_clear() -> None:
    assert full_name("fig4_voxceleb") == "elasticast/fig4_voxceleb"
    assert full_name("recipes/flexiast/fig5.yaml") == "flexiast/fig5"
    with pytest.raises(UsageError) as found:
        full_name("fig1")
    assert "flexiast/fig1" in found.value.hint


def test_an_installation_finds_its_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "lib" / "python3" / "site-packages" / "elastictool"
    shared = tmp_path / "share" / "elastictool" / "recipes"
    (shared / "elasticast").mkdir(parents=True)
    package.mkdir(parents=True)
    monkeypatch.setattr(elastictool, "__file__", str(package / "__init__.py"))
    assert recipes_root() == shared.resolve()
    shutil.rmtree(shared)
    with pytest.raises(UsageError, match="no recipes"):
        recipes_root()


def test_a_smoke_run_writes_figure_table_and_result(smoke: Path) -> None:
    for name in CHEAP:
        folder = smoke / "smoke" / name
        stem = folder.name
        assert {f"{stem}.png", f"{stem}.svg", f"{stem}.md", "result.json"} <= {
            path.name for path in folder.iterdir()
        }
        page = (folder / f"{stem}.md").read_text("utf-8")
        published = load_recipe(name).published
        assert "figure only" in page or (published and "token" not in published.table)
    pooled = result_of("elasticast/table1_pooling", smoke)
    (panel,) = pooled["panels"]
    (curve,) = panel["curves"]
    assert [point["x"] for point in curve["points"]] == [1.0, 2.0, 4.0]
    assert pooled["evaluations"][curve["label"]]["top1"] == curve["own"]["value"]
    assert pooled["made"]["trainings"] == 1
    assert pooled["verdicts"] == []
    page = (smoke / "smoke" / "elasticast" / "table1_pooling" / "table1_pooling.md").read_text()
    assert page.count("scores mean nothing)") == 2 and "None is judged" in page


def test_finished_steps_are_left_alone(smoke: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(step: Step, progress: object) -> None:
        raise AssertionError(f"{step.name} is done again")

    monkeypatch.setattr("elastictool.recipes.run.execute", refuse)
    for name in CHEAP:
        finished = run_plan(lambda name=name: plan_of(name, "smoke", smoke))  # type: ignore[misc]
        assert all(step.state == "done" for step in finished.steps)


def test_other_settings_are_other_steps_and_data_alone_are_shared(smoke: Path) -> None:
    recipe = load_recipe("elasticast/table1_pooling")
    changed = with_run_setting(recipe, "smoke-pooling", {"train": {"lr": 5e-4}})
    plan = make_plan(changed, "smoke", Paths(Path("nowhere"), smoke))
    states = {step.kind: step.state for step in plan.steps}
    assert states == dict.fromkeys(("train", "sweep", "eval", "plot"), "to do") | {"prep": "done"}


def test_some_folds_now_and_the_others_later_train_nothing_twice(tmp_path: Path) -> None:
    def planned(*folds: int, seeds: tuple[int, ...] = ()) -> dict[str, Step]:
        recipe = load_recipe("elasticast/fig5_audioset")
        plan = make_plan(
            recipe, "small", Paths(Path("nowhere"), tmp_path), Repeats(seeds, tuple(folds))
        )
        return {step.name: step for step in plan.steps}

    some, every = planned(2, 1), planned()
    trainings = [name for name in some if name.startswith("train")]
    assert len(trainings) == 10 and len([n for n in every if n.startswith("train")]) == 25
    assert all(some[name].fingerprint == every[name].fingerprint for name in trainings)
    assert some["plot"].fingerprint != every["plot"].fingerprint
    assert some["plot"].settings["data"]["instruments"].endswith(", folds 1, 2 of five")
    assert planned(3)["plot"].settings["data"]["instruments"].endswith(", fold 3 of five")
    assert every["plot"].settings["data"]["instruments"].endswith("(FSDKaggle2018), five folds")
    assert some["plot"].settings["options"] == " --folds 2,1"
    assert every["plot"].settings["options"] == ""
    assert sum(name.startswith("train") for name in planned(1, seeds=(0, 1, 2))) == 15
    with pytest.raises(UsageError, match="no fold 7") as found:
        planned(1, 7)
    assert "1, 2, 3, 4, 5" in found.value.hint


def test_the_range_of_two_trainings_and_the_t_interval_of_more() -> None:
    def point(value: float) -> SweepPoint:
        return dataclasses.replace(POINT, value=value, low=0.0, high=1.0)

    assert (mean_point(1, [point(0.5)])["low"], mean_point(1, [point(0.5)])["high"]) == (0, 1)
    two = mean_point(1, [point(0.5), point(0.6)])
    assert (two["low"], two["high"], two["runs"]) == (0.5, 0.6, 2)
    three = mean_point(1, [point(0.5), point(0.6), point(0.7)])
    assert three["high"] - three["value"] == pytest.approx(4.302653 * 0.1 / 3**0.5, abs=1e-6)


def with_run_setting(recipe: Recipe, run: str, settings: dict[str, Any]) -> Recipe:
    from elastictool.config.coerce import merged

    scale = recipe.scale("smoke")
    spec = scale.runs[run]
    spec = dataclasses.replace(spec, settings=merged(spec.settings, settings))
    scale = dataclasses.replace(scale, runs={**scale.runs, run: spec})
    return dataclasses.replace(recipe, scales={**recipe.scales, "smoke": scale})


def test_a_stopped_training_continues(smoke: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "elasticast/table1_pooling"
    train = next(s for s in plan_of(name, "smoke", smoke).steps if s.kind == "train")
    marker = (train.path / MARKER).read_text("utf-8")
    (train.path / MARKER).unlink()
    assert train.state == "begun"
    called: list[str] = []
    monkeypatch.setattr("elastictool.training.run.train_run", lambda *a, **k: called.append("anew"))
    steps.execute(train)
    assert not called
    assert train.state == "done"
    (train.path / MARKER).write_text(marker, "utf-8")


def test_a_stopped_recipe_names_the_command_that_continues_it_and_not_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(step: Step, progress: object) -> None:
        raise Interrupted("stopped at epoch 1", "elastictool train --resume")

    monkeypatch.setattr("elastictool.recipes.run.execute", stopped)
    name = "elasticast/table1_pooling"
    with pytest.raises(Interrupted, match=f"{name} was interrupted") as found:
        run_plan(lambda: plan_of(name, "smoke", tmp_path))
    assert "the same command" in found.value.hint


def test_two_recipes_at_once_do_each_step_once(tmp_path: Path) -> None:
    line = ("recipe", "run", "elasticast/table1_pooling", "--scale", "smoke", "--out", "out")
    children = [Child(tmp_path, *line, "--json") for _ in range(2)]
    shown = [(child.wait(240), child.shown()) for child in children]
    assert [code for code, _ in shown] == [0, 0], shown
    done = Counter(step for _, text in shown for step in re.findall(r"step \d of \d: (\S+)", text))
    assert set(done.values()) == {1} and len(done) == len(list(tmp_path.rglob(MARKER)))
    assert any("waiting:" in text for _, text in shown)


def test_a_violating_curve_prints_does_not_hold(smoke: Path, capsys: Any) -> None:
    recipe = load_recipe("elasticast/table1_token_usage")
    claims = (
        Claim("above", "first-come", 0, other="AST-1024"),
        Claim("above", "AST-1024", 0, other="first-come"),
        Claim("flat", "nobody", 1),
    )
    scale = dataclasses.replace(recipe.scale("smoke"), claims=claims)
    recipe = dataclasses.replace(recipe, scales={**recipe.scales, "smoke": scale})
    finished = run_plan(lambda: make_plan(recipe, "smoke", Paths(Path("nowhere"), smoke)))
    result = json.loads((finished.result / "result.json").read_text("utf-8"))
    assert [verdict["holds"] for verdict in result["verdicts"]] == [False, True, None]
    page = (finished.result / "table1_token_usage.md").read_text("utf-8")
    assert "does not hold" in page and "not run (nobody)" in page
    svg = (finished.result / "table1_token_usage.svg").read_text("utf-8")
    assert "1 of 3 claims hold." in svg and "does not hold" not in svg
    assert "% of all frames lie beyond it" in page


def test_costs_are_those_of_the_training_sampler(smoke: Path) -> None:
    from elastictool.data.store import PreparedStore
    from elastictool.training.run import describe

    plan = plan_of("flexiast/fig4b_vggsound", "smoke", smoke)
    costs = plan_costs(plan)
    step = next(s for s in plan.steps if s.name == "train smoke-ast-b16")
    store = PreparedStore.open(step.reads["dataset"])
    assert step.config is not None
    found = describe(step.config, store)
    clips = found["train_clips"]
    assert costs[step.name].clips == clips
    assert costs[step.name].tokens == found["tokens_per_epoch"] - clips  # cls tokens
    assert costs["plot"] == Cost()
    assert costs["train smoke-flexi-sup"].gflops > costs["sweep 1"].gflops / 10


def test_a_plan_without_data_costs_what_the_complete_corpus_does(tmp_path: Path) -> None:
    plan = plan_of("elasticast/fig4_voxceleb", "paper", tmp_path)
    costs = plan_costs(plan)
    counts = plan.scale.data["voxceleb"].counts
    ast = costs["train voxceleb-ast-1024"]
    assert ast.clips == 40 * counts.train
    assert ast.tokens == 40 * counts.train * 8 * 64
    assert costs["prep voxceleb"].clips == counts.train + counts.test
    with pytest.raises(UsageError) as found:
        plan.check_inputs()
    assert "SSAST-Base-Patch-400.pth" in found.value.message
    assert "--data" in found.value.hint


def test_throughput_is_measured_here_or_taken_from_finished_trainings(smoke: Path) -> None:
    plan = plan_of("elasticast/table1_pooling", "smoke", smoke)
    measured = measured_throughput(plan)
    assert measured is not None and measured > 0
    assert measured_throughput(plan_of("elasticast/fig2", "smoke", smoke)) is None
    train = next(step for step in plan.steps if step.kind == "train")
    marker = json.loads((train.path / MARKER).read_text("utf-8"))
    (train.path / MARKER).write_text(json.dumps({**marker, "seconds": 2.0}), "utf-8")
    gflops = plan_costs(plan)[train.name].gflops
    assert finished_throughput(plan, plan_costs(plan)) == pytest.approx(gflops / 2)
    (train.path / MARKER).write_text(json.dumps(marker), "utf-8")


def test_the_command_lists_shows_runs_and_counts(
    smoke: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def document(*arguments: object) -> Any:
        assert run_command(monkeypatch, "recipe", *arguments, "--json") == 0
        return json.loads(capsys.readouterr().out)

    figures = [row["name"] for row in document("list") if row["kind"] == "figure"]
    assert figures == recipe_names()
    shown = document("show", "fig4_voxceleb", "--out", smoke)
    assert {row["kind"] for row in shown["steps"]} == {"prep", "train", "eval", "sweep", "plot"}
    assert shown["sources"]["train.lr"] == "ElasticAST Section 3.2"
    pooling = ("table1_pooling", "--scale", "smoke", "--out", smoke)
    planned = document("run", *pooling, "--dry-run", "--throughput", 10)
    assert planned["total"]["gflops"] == 0, "all of it is done"
    assert planned["costs"]["train smoke-pooling"]["gflops"] > 0
    assert document("run", *pooling)["recipe"] == "elasticast/table1_pooling"
    assert run_command(monkeypatch, "recipe", "run", *pooling, "--throughput", 10) == 2
    assert run_command(monkeypatch, "recipe", "show", "fig4_voxceleb") == 0
    told = capsys.readouterr()
    assert "ElasticAST Section 3.2" in told.out
    assert "is not there" in told.err
    missing = ("fig4_voxceleb", "--scale", "small", "--data", smoke / "none", "--out", smoke)
    assert run_command(monkeypatch, "recipe", "run", *missing) == 2
    assert "fsdd" in capsys.readouterr().err


@pytest.mark.slow
def test_every_recipe_runs_at_smoke_scale(tmp_path: Path) -> None:
    for name in recipe_names():
        finished = run_plan(lambda name=name: plan_of(name, "smoke", tmp_path))  # type: ignore[misc]
        assert (finished.result / "result.json").is_file()


@pytest.mark.slow
def test_a_recipe_killed_twice_ends_with_the_same_weights(smoke: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "elastictool", "recipe", "run", "elasticast/table1_pooling"]
    command += ["--scale", "smoke", "--out", str(tmp_path), "--data", "nowhere"]
    for file in ("config.yaml", "checkpoints/*"):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        while process.poll() is None and not list(tmp_path.glob(f"smoke/runs/*/{file}")):
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()[1]
        process.kill()
        process.communicate()
        assert not list(tmp_path.glob(f"smoke/runs/*/{MARKER}")), "it was killed too late"
    subprocess.run(command, check=True, capture_output=True)
    name = "elasticast/table1_pooling"
    assert result_of(name, smoke)["panels"] == result_of(name, tmp_path)["panels"]
    (one,) = smoke.glob("smoke/runs/smoke-pooling-*/checkpoints/last.safetensors")
    weights, again = load_file(one), load_file(tmp_path / one.relative_to(smoke))
    assert weights.keys() == again.keys()
    assert all(weights[key].equal(again[key]) for key in weights)
