"""Settings that nobody meant: whatever YAML holds ends with one message, and at once."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from elastictool.checkpoint.find import require_run
from elastictool.cli.ranges import parse_fractions, parse_lengths, parse_numbers_or_zero
from elastictool.config.loader import load_run_config
from elastictool.config.yaml_text import read_yaml
from elastictool.data.store import PreparedStore
from elastictool.recipes import library
from elastictool.training.run import describe
from elastictool.utils.errors import UsageError
from tests.helpers.command_line import run_command
from tests.helpers.training import small

_LETTERS = "bcdefghij"
TEXTS = {
    "date": "seed: 2001-99-99",
    "year": "seed: 0000-00-00",
    "zone": "seed: 2001-12-14t21:59:43.10-99:00",
    "no whole number": "seed: !!int abc",
    "empty number": "seed: !!int ''",
    "no number": "seed: !!float abc",
    "no truth value": "seed: !!bool abc",
    "no hexadecimal": "seed: 0x_",
    "no binary": "seed: 0b_",
    "not base64": "seed: !!binary ===",
    "bytes": "name: !!binary aGVsbG8=",
    "set": "seed: !!set {a, b}",
    "object": "seed: !!python/object/apply:os.system [exit]",
    "tag": "seed: !foo 3",
    "brackets": "seed: " + "[" * 3000 + "]" * 3000,
    "open brackets": "[" * 3000,
    "braces": "{a: " * 3000,
    "digits": "seed: " + "9" * 5000,
    "hexadecimal digits": "seed: 0x" + "f" * 6000,
    "sexagesimal": "seed: 1" + ":59" * 3000,
    "sexagesimal fraction": "seed: 1" + ":59" * 3000 + ".5",
    "float of many digits": "train: {lr: " + "9" * 380 + "}",
    "keys": "".join(f"k{i}: 1\n" for i in range(20_000)),
    "long list": "seed: [" + "1," * 20_000 + "1]",
    "long text": "name: " + "x" * 10_000_000,
    "long name": "name: " + "x" * 300,
    "key twice": "seed: 1\nseed: 2",
    "key of a list": "? [a]\n: b",
    "key of a mapping": "? {a: b}\n: b",
    "number as key": "1: 2",
    "nothing as key": "train: {~: 2}",
    "date as key": "2001-01-01: 2",
    "merged number": "<<: 3",
    "itself": "train: &a {x: *a}",
    "itself in a list": "seed: &a [*a]",
    "unknown alias": "seed: *z",
    "many laughs": "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{n}: &{n} [{', '.join(['*' + chr(ord(n) - 1)] * 9)}]\n" for n in _LETTERS),
    "many merges": "a: &a {a: 1}\n"
    + "".join(f"{n}: &{n} {{<<: [{', '.join(['*' + chr(ord(n) - 1)] * 9)}]}}\n" for n in _LETTERS),
    "many mappings": "a: &a {x: 1}\n"
    + "".join(
        f"{n}: &{n} {{{', '.join(f'k{i}: *{chr(ord(n) - 1)}' for i in range(9))}}}\n"
        for n in _LETTERS
    ),
    "tab": "train:\n\tlr: 1",
    "NUL": "seed: \0",
    "escape beyond Unicode": 'name: "\\U00110000"',
    "escape beyond integers": 'name: "\\UFFFFFFFF"',
    "half a letter": 'name: "\\ud800"',
    "NUL in a name": 'name: "a\\0b"',
    "two documents": "seed: 1\n---\nseed: 2",
    "not a number": "train: {lr: .nan}",
    "infinite": "train: {lr: .inf}",
    "beyond floats": "train: {lr: 1e400}",
    "list as size": "model: {size: [tiny]}",
    "mapping as size": "model: {size: {a: b}}",
    "mapping as preset": "model: {preset: {}}",
    "list as preset": "model: {preset: [ast]}",
    "text as section": "train: abc",
    "list as section": "train: [1]",
    "extends a date": "extends: 2001-01-01",
    "extends a long name": "extends: " + "x" * 5000,
    "extends NUL": 'extends: "a\\0b"',
    "epochs": "train: {epochs: 1e308}",
    "depth": "model: {depth: 1e9}",
    "width": "model: {width: 3e8}",
    "frames": "length: {max_frames: 1e15}",
    "window": "fbank: {window_ms: 1e308}",
    "negative window": "fbank: {window_ms: -1e308}",
    "shift": "fbank: {shift_ms: 1e-300}",
    "workers": "train: {loader_workers: 1e9}",
    "padding": "packing: {pad_to_multiple_of: 1e12}",
    "grid": "model: {grid: 1e18}",
    "hidden layer": "model: {mlp_ratio: 1e308}",
}


def one_message(caught: pytest.ExceptionInfo[UsageError]) -> str:
    error = caught.value
    assert error.message and len(error.message) < 700 and "Traceback" not in error.message
    return f"{error.message} {error.hint}"


@pytest.mark.parametrize("name", TEXTS)
def test_whatever_a_file_of_settings_holds_ends_with_one_message_at_once(
    name: str, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(TEXTS[name], encoding="utf-8")
    began = time.process_time()
    with pytest.raises(UsageError) as caught:
        load_run_config(file)
    one_message(caught)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("name", [name for name in TEXTS if len(TEXTS[name]) < 100_000])
def test_a_value_on_the_command_line_is_read_like_one_in_a_file(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_run_config(None, [f"train.schedule={TEXTS[name]}"])
    one_message(caught)


@pytest.mark.parametrize("name", ["date", "brackets", "digits", "keys", "itself", "many laughs"])
def test_recipes_of_figures_and_configurations_of_runs_are_read_alike(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "recipes_root", lambda: tmp_path)
    (tmp_path / "elasticast").mkdir()
    (tmp_path / "elasticast" / f"{name}.yaml").write_text(TEXTS[name])
    with pytest.raises(UsageError, match=name):
        library.load_recipe(f"elasticast/{name}")
    (tmp_path / "config.yaml").write_text(TEXTS[name])
    with pytest.raises(UsageError) as caught:
        require_run(tmp_path)
    assert "config.yaml" in one_message(caught)


def test_a_fault_in_a_file_of_settings_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("seed: 1\ntrain:\n  lr: 2001-99-99\n")
    with pytest.raises(UsageError, match=r"settings\.yaml is not valid YAML, line 3: .2001-99-99"):
        load_run_config(file)


def test_aliases_and_merged_sections_of_usual_size_are_read(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("train: &a {lr: 1e-3}\nmodel: {size: tiny}\n")
    assert read_yaml(file)["train"] == {"lr": "1e-3"}
    file.write_text("a: &a {b: 1, c: 2}\nd: {<<: *a, c: 3}\ne: [*a, *a]\n")
    assert read_yaml(file)["d"] == {"b": 1, "c": 3}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_or_a_device_is_no_file_of_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for file in (tmp_path / "pipe.yaml", "/dev/zero", tmp_path):
        assert run_command(monkeypatch, "train", "--recipe", file, "--print-config") == 2
        assert "not a file" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["1:1000000000", "1:999999999:1", "7:999999999:3", "1" * 5000])
def test_ranges_of_too_many_numbers_are_refused_before_they_are_built(text: str) -> None:
    for parse in (parse_lengths, parse_numbers_or_zero):
        with pytest.raises(UsageError, match="--option"):
            parse(text.replace("1000000000", "900000000"), "--option")
    with pytest.raises(UsageError, match="--option"):
        parse_fractions([text.replace("1000000000", "10:0.000000001")], "--option")


@pytest.mark.parametrize("option", ["--capacity", "--window", "--max-frames", "--patch", "--clips"])
def test_numbers_that_overflow_are_refused_by_the_option(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(monkeypatch, "tokens", option, "9" * 30) == 2
    assert option in capsys.readouterr().err


@pytest.mark.parametrize("value", ["1e308", "inf"])
@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("prep", "--max-seconds"),
        ("predict", "--window"),
        ("embed", "--hop"),
        ("eval", "--resolution"),
    ],
)
def test_fractions_that_overflow_are_refused_by_the_option(
    command: str,
    option: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(monkeypatch, command, option, value) == 2
    assert f"{option} is " in capsys.readouterr().err


def test_a_dry_run_of_many_epochs_answers_at_once(toy_store: PreparedStore) -> None:
    plan = describe(small("train.epochs=1000000"), toy_store)
    assert plan["optimizer_steps"] == 3_000_000
    few = describe(small("train.epochs=100", "packing.batch_tokens=100"), toy_store)
    many = describe(small("train.epochs=1000000", "packing.batch_tokens=100"), toy_store)
    assert many["optimizer_steps"] == 10_000 * few["optimizer_steps"]
    assert "estimate" in many["notes"][-1] and few["notes"] == many["notes"][:-1]


def test_a_model_larger_than_the_memory_is_refused_with_its_size(toy_store: PreparedStore) -> None:
    large = small("model.width=65536", "model.heads=64", "model.depth=1000")
    with pytest.raises(UsageError, match=r"parameters takes .* GB in training"):
        describe(large, toy_store)
