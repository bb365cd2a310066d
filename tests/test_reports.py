"""Figures of evaluations and runs, and the page of a run: made from result files alone."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from elastictool.checkpoint.weights import load_run
from elastictool.data.store import PreparedStore
from elastictool.evaluation.confusions import Confusion, most_confused, write_confusions
from elastictool.evaluation.evaluate import evaluate_run, save_evaluation
from elastictool.metrics.classification import classification_metrics, confusion_matrix
from elastictool.metrics.weighted import ScoredClips
from elastictool.reporting.evaluation_figures import (
    MOST_CLASSES,
    class_values,
    draw_confusions,
    plot_classes,
    plot_confusions,
)
from elastictool.reporting.evaluations import evaluation_stems, notes, read_evaluation, score_rows
from elastictool.reporting.figures import plain_text
from elastictool.reporting.learning_curves import (
    binned,
    curve,
    draw_learning_curves,
    epoch_positions,
    plot_learning_curves,
)
from elastictool.reporting.run_log import read_log
from elastictool.reporting.run_report import report_evaluation, write_report
from elastictool.utils.io import finite
from tests.helpers.saved_runs import save_run, write_run

NASTY = '<script>alert("x")</script> & $a_b$'


def write_evaluation(
    run_dir: Path, classes: int, clips: int, multi_label: bool = False, seed: int = 0
) -> list[str]:
    """Result files of a random model; some classes have no clip. Returns the class names."""
    rng = np.random.default_rng(seed)
    names = [NASTY, *(f"a class with a long name, number {i}" for i in range(1, classes))]
    truth = rng.integers(0, max(2, classes - 2), clips)
    targets = np.eye(classes)[truth]
    if multi_label:
        targets = np.maximum(targets, rng.random(targets.shape) < 0.02)
        targets[:, -1] = 0
    scores = rng.normal(size=targets.shape) + 2 * targets
    metrics = classification_metrics(ScoredClips(scores, targets))
    table = {name: getattr(metrics.per_class, name) for name in metrics.per_class.__annotations__}
    rows = [
        {"class": name} | {key: finite(values[i]) for key, values in table.items()}
        for i, name in enumerate(names)
    ]
    for row in rows:
        row |= (
            {"threshold": 0.25, "decided": 3, "f1": 0.5, "f1_at_default": 0.4}
            if multi_label
            else {}
        )
    document = {
        "run": NASTY,
        "model": "ElasticAST",
        "split": "test",
        "length": "own",
        "multi_label": multi_label,
        "clips": clips,
        "metrics": {name: finite(value) for name, value in metrics.values.items()},
        "intervals": {},
        "left_out": metrics.left_out,
        "per_class": rows,
    }
    results = run_dir / "results"
    results.mkdir(parents=True, exist_ok=True)
    (results / "eval_test.json").write_text(json.dumps(document))
    if not multi_label:
        matrix = confusion_matrix(scores, targets)
        write_confusions(results / "confusions_test.csv", matrix, names)
    return names


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")


@pytest.mark.parametrize(("classes", "clips"), [(10, 60), (44, 200), (527, 800)])
def test_confusions_and_classes_are_drawn_whatever_their_number(
    classes: int, clips: int, tmp_path: Path
) -> None:
    write_evaluation(tmp_path, classes, clips)
    evaluation = read_evaluation(tmp_path, "test")
    files = [*plot_confusions(evaluation), *plot_classes(evaluation)]
    assert [file.name for file in files] == [
        f"{kind}_test.{suffix}" for kind in ("confusions", "per_class") for suffix in ("png", "svg")
    ]
    for file in files[::2]:
        width, height = png_size(file)
        assert 500 < width < 4_000 and 300 < height < 4_000
    names = files[1].read_text("utf-8")
    assert ("true class" in names) and ("$" in names)  # dollar signs are text, not formulas


def test_with_many_classes_pairs_stand_for_the_matrix(tmp_path: Path) -> None:
    matrix = np.diag(np.full(MOST_CLASSES + 1, 9))
    matrix[3, 5] = 4
    names = [f"c{index}" for index in range(len(matrix))]
    axes = draw_confusions(matrix, names).axes
    assert len(axes) == 1 and [text.get_text() for text in axes[0].get_yticklabels()] == ["c3 → c5"]
    assert "4 of 13 (31 %)" in [text.get_text() for text in axes[0].texts]
    few = draw_confusions(matrix[:10, :10], names[:10]).axes
    assert few[0].get_images() and "9" in [text.get_text() for text in few[0].texts]


def test_a_model_without_any_confusion_can_be_drawn() -> None:
    for classes in (2, 30, MOST_CLASSES + 1):
        draw_confusions(np.eye(classes, dtype=np.int64), [str(i) for i in range(classes)])


def test_the_largest_confusions_are_brute_force() -> None:
    rng = np.random.default_rng(2)
    matrix = rng.integers(0, 6, (7, 7))
    names = list("abcdefg")
    cells = [
        Confusion(names[i], names[j], int(matrix[i, j]))
        for i in range(7)
        for j in range(7)
        if i != j and matrix[i, j]
    ]
    expected = sorted(cells, key=lambda cell: -cell.clips)
    assert most_confused(matrix, names, 100) == expected
    assert most_confused(matrix, names, 5) == expected[:5]


def test_the_confusions_file_is_the_matrix(tmp_path: Path, toy_store: PreparedStore) -> None:
    run = load_run(save_run(tmp_path / "run", toy_store))
    result = evaluate_run(run, toy_store)
    save_evaluation(run.path, result, {})
    read = read_evaluation(run.path, "test").confusions()
    assert read is not None
    assert np.array_equal(read, confusion_matrix(result.scores.logits, result.scores.targets))


def test_classes_are_drawn_best_first_and_those_without_clips_are_counted(tmp_path: Path) -> None:
    write_evaluation(tmp_path, 12, 60)
    values = class_values(read_evaluation(tmp_path, "test"))
    assert len(values.names) == 10 and values.left_out == 2
    assert (np.diff(values.shares) <= 0).all()
    assert (values.low <= values.shares + 1e-9).all() and (
        values.shares <= values.high + 1e-9
    ).all()


@pytest.mark.parametrize("classes", [8, MOST_CLASSES + 40])
def test_multi_label_classes_are_drawn_by_ap_and_nothing_is_confused(
    classes: int, tmp_path: Path
) -> None:
    write_evaluation(tmp_path, classes, 400, multi_label=True)
    evaluation = read_evaluation(tmp_path, "test")
    assert plot_confusions(evaluation) == []
    values = class_values(evaluation)
    assert values.multi_label and values.axis.startswith("average precision")
    assert np.allclose(values.f1, 50) and (values.chance < 100).all()
    svg = plot_classes(evaluation)[1].read_text("utf-8")
    assert "F1 at the threshold" in svg and "has them: 1 class<" in svg
    rows = dict(score_rows(evaluation.document))
    assert "mAP, %" in rows and "Mean class accuracy, %" not in rows
    assert any("classes without positives" in note for note in notes(evaluation.document))


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_evaluation(tmp_path / name, 5, 50)
        plot_confusions(read_evaluation(tmp_path / name, "test"))
    for suffix in ("png", "svg"):
        one, two = (tmp_path / n / "figures" / f"confusions_test.{suffix}" for n in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_steps_lie_between_the_epochs_of_the_log() -> None:
    epochs = [{"epoch": 1, "step": 10}, {"epoch": 2, "step": 30}]
    steps = np.array([0.0, 5.0, 10.0, 20.0, 30.0, 40.0])
    assert epoch_positions(steps, epochs).tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]


def test_bins_keep_the_mean_and_a_missing_loss_is_no_point() -> None:
    records = [{"step": step, "loss": float(step % 7)} for step in range(1_000)]
    full = curve([*records, {"step": 1_001, "loss": float("nan")}, {"step": 1_002}], "loss")
    assert len(full.steps) == 1_000
    short = binned(full, bins=100)
    assert len(short.steps) == 100
    assert short.values.mean() == pytest.approx(full.values.mean())


def test_learning_curves_of_a_run_before_in_and_after_its_epochs(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", 3, 3)
    svg = plot_learning_curves(path, "title")[1].read_text("utf-8")
    for words in ("validation, after the epoch", "best weights", "learning rate", ">epoch<"):
        assert words in svg
    (path / "metrics.jsonl").write_text('{"kind": "step", "step": 1, "loss": 2.0, "lr": 0.1}\n')
    svg = plot_learning_curves(path, "title")[1].read_text("utf-8")
    assert ">step<" in svg and "best weights" not in svg
    (path / "metrics.jsonl").write_text("")
    assert plot_learning_curves(path, "title") == []


def test_no_legend_covers_a_curve(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", 3, 3)
    figure = draw_learning_curves(read_log(path, "step"), read_log(path, "epoch"), "title")
    figure.savefig(tmp_path / "figure.png")
    legends = [panel.get_legend() for panel in figure.axes if panel.get_legend()]
    assert len(legends) == 2
    for legend in legends:
        assert legend.get_window_extent().x0 >= legend.axes.get_window_extent().x1
        assert legend.get_window_extent().x1 <= figure.bbox.x1


class _Page(HTMLParser):
    """Tags, and every address in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_of_a_run_needs_nothing_else_and_escapes_everything(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", 2, 2)
    write_evaluation(path, 6, 60)
    (path / "environment.json").write_text(json.dumps({"command": NASTY, "cuda": None}))
    (path / "results" / "eval_validation.json").write_text("{}")
    (path / "results" / "sweep.csv").write_text("no sweep\n1\n")
    files = report_evaluation(path, "test")
    assert files[-1].name == "report.html"
    text = files[-1].read_text("utf-8")
    page = _Page(text)
    assert page.open == [] and "script" not in page.tags and "link" not in page.tags
    assert len(page.addresses) == 3  # learning curves, confusions, classes
    for address in page.addresses:
        kind, data = address.split(",", 1)
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data)[:4] == b"\x89PNG"
    outside = re.sub(r'src="data:[^"]*"', "", text)
    assert "http:" not in outside and "https:" not in outside and "url(" not in outside
    words = " ".join(page.words)
    assert words.count(NASTY) >= 2  # as a class, as a command
    assert "eval_validation.json lacks" in re.sub(r"\S*/", "", words) and "sweep CSV" in words


def test_the_page_grows_with_the_log_and_a_lone_checkpoint_gets_none(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run", 2, 2)
    assert [file.name for file in write_report(path)][-1] == "report.html"
    assert [file.name for file in write_report(path)] == ["report.html"]  # nothing new to draw
    with (path / "metrics.jsonl").open("a") as log:
        log.write('{"kind": "step", "step": 9, "loss": 2.0, "lr": 0.1}\n')
    assert len(write_report(path)) == 3
    (tmp_path / "lone").mkdir()
    assert write_report(tmp_path / "lone") == []


def test_evaluations_are_ordered_test_first_and_own_length_first(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    for stem in ("train", "test_64", "test_1024", "test", "validation", "test_native"):
        (tmp_path / "results" / f"eval_{stem}.json").touch()
    order = ["test", "test_native", "test_64", "test_1024", "validation", "train"]
    assert evaluation_stems(tmp_path) == order


def test_long_names_lose_their_middle() -> None:
    assert plain_text("abcdefghij", 7) == "abcd…ij"
    assert plain_text("short") == "short" and plain_text("a$b") == r"a\$b"
