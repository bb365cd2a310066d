"""Nothing in a label, file name or message is obeyed or hidden by a terminal; data stay exact."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from typer.testing import CliRunner

import elastictool
from elastictool.cli import console
from elastictool.cli.app import app
from elastictool.config.comments import commented_yaml
from elastictool.config.loader import load_run_config
from elastictool.data.options import PrepOptions
from elastictool.data.prepare import prepare
from elastictool.data.store import PreparedStore
from elastictool.reporting.audio_figures import save_timeline
from elastictool.reporting.figures import plain_text
from elastictool.reporting.html_page import page, table
from elastictool.utils.errors import ElasticToolError
from elastictool.utils.text import json_text, printable
from tests.helpers.command_line import run_command
from tests.helpers.corpus_trees import write_audio
from tests.helpers.saved_runs import save_run

LABELS = [
    "\x1b[31mred\x1b]8;;http:x\x07y",
    "[red]bold[bold] :warning: [link=http:x]\\",
    "rl\u202eo\u2066x\u061c\u200f",
    "zero\u200bwidth\ufeff\u2060\u00ad\U000e0041",
    "c1\u009b31m\u0085\x7f",
    "tab\tand\rreturn",
    "$a_{$ \\frac{",
]
FILE_NAME = "a\x1b]52;c;AAAA\x07\n[bold]\u202e.wav"
HARMLESS_FORMATS = {"Zs", "Co", "Cn"}
NUMBER_SIGNS = (
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)


def dangerous(text: str) -> set[str]:
    """Characters that no reader should meet; line breaks are ours."""
    return {
        letter
        for letter in text
        if not letter.isprintable()
        and unicodedata.category(letter) not in HARMLESS_FORMATS
        and letter not in f"\n{NUMBER_SIGNS}"
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PreparedStore:
    folder = tmp_path_factory.mktemp("nasty")
    for number, label in enumerate(LABELS):
        for split in ("train", "val", "test"):
            write_audio(folder / "clips" / split / label / f"{number}{FILE_NAME}", seed=number)
    (folder / "clips" / "train" / LABELS[0] / f"bad{FILE_NAME}").write_bytes(b"RIFF no audio")
    options = PrepOptions("folder", folder / "clips", folder / "data", name="nasty")
    return prepare(options)


@pytest.fixture(scope="module")
def run(store: PreparedStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("runs") / "red[bold]", store)


@given(st.text())
def test_shown_text_has_only_letters_that_are_seen(text: str) -> None:
    shown = printable(text)
    assert not dangerous(shown) and "\n" not in shown
    assert printable(shown) == shown


@given(st.dictionaries(st.text(), st.text()))
def test_json_reads_back_equal_and_is_safe_to_show(document: dict[str, str]) -> None:
    text = json_text(document)
    if not any("\ud800" <= letter <= "\udfff" for letter in str(document)):
        assert not dangerous(text)
    assert json.loads(text) == document


def test_letters_of_all_scripts_are_shown_as_they_are() -> None:
    for text in (
        "Grüße",
        "日本語\u3000全角",
        "עברית",
        "हिन्दी",
        "ё é e\u0301",
        "🐶 ❤\ufe0f",
        "a\u00a0b",
    ):
        assert printable(text) == text


@pytest.mark.parametrize(
    "command",
    [
        ["data", "show", "DATA"],
        ["data", "show", "DATA", "--clip", "CLIP"],
        ["data", "show", "DATA", "--clip", "\x1b[31mnone"],
        ["data", "show", "DATA", "--json"],
        ["predict", "FILE", "none\x1b[2J\u202e.wav", "--run", "RUN"],
        ["predict", "FILE", "--run", "RUN", "--json"],
        ["predict", "FILE", "--run", "RUN", "--timeline", "pictures\x1b[31m"],
        ["embed", "FILE", "--run", "RUN", "--out", "\x1b[31m.npz"],
        ["embed", "--dataset", "DATA", "--run", "RUN"],
        ["eval", "RUN"],
        ["sweep", "RUN", "--lengths", "32,64"],
        ["tokens", "--dataset", "DATA", "--out", "tokens"],
        ["runs", "show", "RUN"],
        ["export", "RUN", "--out", "\u202e.safetensors"],
        ["train", "--dataset", "DATA", "--set", "model.preset=\x1b[31m\u202e", "--dry-run"],
        ["train", "--recipe", "\x1b[31m\u202e.yaml"],
        ["train", "--dataset", "\x1b[31m\u202e"],
        ["train", "--\x1b[31m\u202e"],
        ["\x1b[31m\u202e"],
        ["prep", "--dataset", "csv", "--root", "\x1b[31m\u202e"],
    ],
    ids=lambda words: " ".join(words).encode("unicode_escape").decode(),
)
def test_no_command_shows_what_a_terminal_obeys(
    command: list[str],
    store: PreparedStore,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    sound = write_audio(tmp_path / FILE_NAME, 0.5)
    places = {"DATA": store.path, "RUN": run, "FILE": sound, "CLIP": store.ids[0]}
    run_command(monkeypatch, *(places.get(word, word) for word in command))
    shown = capfd.readouterr()
    assert shown.out or shown.err
    assert not dangerous(shown.out + shown.err)


def test_names_are_no_markup(
    store: PreparedStore,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run_command(monkeypatch, "data", "show", store.path)
    assert "[red]bold[bold] :warning: [link=http:x]\\" in capfd.readouterr().out
    console.print_error(ElasticToolError("[red]what[/] :bee:", "[link=x]do[/link]\\"))
    console.print_table("[b]title[/b]\\", ["[i]head[/i]", ":bee:"], [["[u]cell[/u]\\", 1]])
    shown = capfd.readouterr()
    assert "error: [red]what[/] :bee:\nhint:  [link=x]do[/link]\\\n" in shown.err
    for text in ("[b]title[/b]\\\n", "[i]head[/i]", ":bee:", "[u]cell[/u]\\"):
        assert text in shown.out


def test_a_line_break_in_a_name_makes_no_line_of_its_own(capfd: pytest.CaptureFixture[str]) -> None:
    console.log("left out: a\nerror: forged\x1b[A")
    assert capfd.readouterr().err == "left out: a\\nerror: forged\\x1b[A\n"


def in_terminal(*arguments: object) -> str:
    """What a command shows on a terminal, without the sequences that rich itself writes."""
    here, there = pty.openpty()
    words = [sys.executable, "-m", "elastictool", *map(str, arguments)]
    env = os.environ | {"TERM": "xterm", "COLUMNS": "200", "NO_COLOR": "1"}
    process = subprocess.Popen(words, stdout=there, stderr=there, stdin=there, env=env)
    os.close(there)
    shown = b""
    try:
        while block := os.read(here, 65_536):
            shown += block
    except OSError:  # the other end is closed
        pass
    os.close(here)
    process.wait()
    return shown.decode().replace("\r\n", "\n")


def test_csv_is_exact_in_a_pipe_and_escaped_on_a_terminal(run: Path, tmp_path: Path) -> None:
    sound = write_audio(tmp_path / "a.wav", 0.5)
    command = ("predict", sound, "--run", run, "--format", "csv", "--top", len(LABELS))
    piped = CliRunner().invoke(app, [*map(str, command)]).stdout
    assert LABELS[0] in piped and LABELS[2] in piped and LABELS[4] in piped
    shown = in_terminal(*command)
    assert printable(LABELS[0]) in shown and "\x1b]8" not in shown
    assert not dangerous(shown.replace("\x1b[?25l", "").replace("\x1b[?25h", "")) - {"\x1b", "\r"}


def test_labels_are_exact_in_json(run: Path, tmp_path: Path) -> None:
    sound = write_audio(tmp_path / FILE_NAME, 0.5)
    command = ["predict", str(sound), "--run", str(run), "--json", "--top", str(len(LABELS))]
    (item,) = json.loads(CliRunner().invoke(app, command).stdout)["predictions"]
    assert sorted(entry["label"] for entry in item["labels"]) == sorted(LABELS)
    assert item["recording"] == str(sound)
    assert set(elastictool.load(run).label_names) == set(LABELS)


def test_settings_print_as_yaml_that_reads_back(tmp_path: Path) -> None:
    name = "rl\u202eo\x1b[31m\u200b é"
    text = commented_yaml(load_run_config(None, [f"data.dataset={json.dumps(name)}"]), {})
    assert not dangerous(text)
    assert yaml.safe_load(text)["data"]["dataset"] == name


def test_progress_bars_show_names_as_they_are(run: Path, tmp_path: Path) -> None:
    sounds = [write_audio(tmp_path / f"{number}{FILE_NAME}", 0.5) for number in range(3)]
    shown = in_terminal("predict", *sounds, "--run", run)
    assert "\\x1b]52;c;AAAA\\x07\\n[bold]\\u202e.wav" in shown
    assert "\x1b]" not in shown and not dangerous(shown) - {"\x1b", "\r"}


def test_figures_show_any_label_and_stay_sound_xml(run: Path, tmp_path: Path) -> None:
    title = "".join(LABELS)
    shares = np.full((2, len(LABELS)), 0.5, np.float32)
    starts = np.array([0.0, 1.0])
    _, drawing = save_timeline(tmp_path / "x", title, starts, starts + 1, shares, LABELS)
    assert ElementTree.parse(drawing).getroot().tag.endswith("svg")
    assert CliRunner().invoke(app, ["eval", str(run), "--out", str(tmp_path)]).exit_code == 0
    for label in LABELS:
        text = plain_text(f"{label}$x$")
        assert not is_math_text(text) and text.replace("\\$", "$").endswith("$x$")
    for drawing in (tmp_path / "figures").glob("*.svg"):
        ElementTree.parse(drawing)


def test_legends_keep_names_that_begin_with_an_underscore() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1], [1], label=plain_text("_draft"))
    assert [text.get_text().strip() for text in axes.legend().get_texts()] == ["_draft"]


def test_reports_show_no_characters_that_turn_text_or_are_not_seen() -> None:
    page_of_names = page("a\u202eb", [table(["\x1b[31m"], [["c\u200bd & <e>"]])])
    assert not re.search("[\x1b\u202e\u200b]", page_of_names)
    assert "a\\u202eb" in page_of_names and "c\\u200bd &amp; &lt;e&gt;" in page_of_names
