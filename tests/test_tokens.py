"""Token accounting against the plain planners, hand counts and known shares."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.patches import Rectangle

from elastictool.cli import tokens as command
from elastictool.config import FbankConfig, PackingConfig
from elastictool.config.loader import frontend_config
from elastictool.evaluation.durations import (
    Durations,
    frames_of,
    prepared_durations,
    read_durations,
    stand_in,
)
from elastictool.evaluation.tokens import (
    FLAT,
    TokenReport,
    TokenRule,
    TokenSettings,
    TokenUse,
    count_tokens,
    fixed_use,
    packed_use,
    table_planners,
)
from elastictool.packing.grid import grid_shape
from elastictool.packing.stream import WINDOW_PLANNERS, known_planners, plan_stream
from elastictool.reporting import token_table
from elastictool.utils.errors import UsageError
from tests.helpers.plain_planners import lower_bound, processed_tokens

streams = st.lists(st.integers(1, 60), min_size=1, max_size=80)


def _durations(*seconds: float) -> Durations:
    return Durations(np.array(seconds, dtype=np.float64), "file", "test")


def _uses(report: TokenReport, planner: str) -> list[TokenUse]:
    return [use for use in report.uses if use.planner == planner]


# Counting


@pytest.mark.parametrize("planner", known_planners())
@given(
    stream=streams,
    clips=st.integers(1, 15),
    capacity=st.integers(1, 90),
    window=st.integers(1, 60),
)
def test_accounting_on_arrays_equals_counting_the_rows_one_by_one(
    planner: str, stream: list[int], clips: int, capacity: int, window: int
) -> None:
    native = np.array(stream, dtype=np.int64)
    plans = plan_stream(native, PackingConfig(planner, capacity, clips, window=window)).batches()
    use = packed_use(native, planner, clips, capacity, window)
    assert use.rows == sum(len(plan) for plan in plans)
    assert use.processed_tokens == sum(processed_tokens(native, plan) for plan in plans)
    bound = [lower_bound([int(native[p]) for row in plan for p in row], capacity) for plan in plans]
    assert use.excess_rows == use.rows - sum(bound)


@given(stream=streams, clips=st.integers(1, 15), capacity=st.integers(1, 90))
def test_shares_are_consistent(stream: list[int], clips: int, capacity: int) -> None:
    native = np.array(stream, dtype=np.int64)
    for planner in table_planners():
        use = packed_use(native, planner, clips, capacity)
        assert use.processed_tokens - use.padding_tokens == use.native_tokens == sum(stream)
        assert use.padding_tokens >= 0 == use.cut_tokens
    fixed = fixed_use(native, 64, TokenRule(num_mel_bins=16))
    processed_native = fixed.processed_tokens - fixed.padding_tokens
    assert processed_native + fixed.cut_tokens == fixed.native_tokens


def test_flat_streams_have_no_padding_and_no_rows() -> None:
    use = packed_use(np.array([3, 900, 40]), FLAT, 2, 2048)
    assert (use.padding_tokens, use.rows, use.excess_rows) == (0, None, None)


def test_a_standard_ast_pads_short_and_cuts_long_clips() -> None:
    rule = TokenRule(max_frames=3072)
    native = rule.tokens(np.array([512, 1024, 1536, 5000]))
    use = fixed_use(native, 1024, rule)
    assert native.tolist() == [256, 512, 768, 1536]
    assert (use.padding_tokens, use.processed_tokens) == (256, 4 * 512)
    assert (use.cut_tokens, use.native_tokens) == (256 + 1024, 256 + 512 + 768 + 1536)


@pytest.mark.parametrize(("edge", "padding"), [("pad", 0), ("drop", 8)])
def test_an_incomplete_patch_is_a_token_only_where_the_edge_is_padded(
    edge: Any, padding: int
) -> None:
    rule = TokenRule(edge=edge)
    assert fixed_use(rule.tokens(np.array([1010])), 1024, rule).padding_tokens == padding


@given(
    frames=st.integers(0, 4000),
    patch=st.integers(1, 40),
    edge=st.sampled_from(["pad", "drop"]),
    cap=st.integers(1, 4000),
)
def test_tokens_are_those_of_the_patch_grid(frames: int, patch: int, edge: Any, cap: int) -> None:
    bands, columns = grid_shape(min(frames, cap), 128, (patch, patch), (patch, patch), edge)
    tokens = TokenRule(cap, patch, edge).tokens(np.array([frames]))
    assert tokens.tolist() == [bands * columns]


@given(
    samples=st.lists(st.integers(0, 600_000), min_size=1, max_size=20),
    shift_ms=st.floats(0.5, 60) | st.sampled_from([5.0, 10.0, 12.5, 17.3, 30.0]),
    rate_hz=st.sampled_from([8_000, 16_000, 22_050, 44_100]),
)
def test_frames_on_arrays_equal_the_filterbank_s(
    samples: list[int], shift_ms: float, rate_hz: int
) -> None:
    config = FbankConfig(sample_rate_hz=rate_hz, shift_ms=shift_ms)
    expected = [config.num_frames(number) for number in samples]
    assert config.num_frames(np.array(samples, dtype=np.int64)).tolist() == expected


def test_frames_of_durations() -> None:
    assert frames_of(_durations(0.01, 0.025, 1.0, 10.0)).tolist() == [0, 1, 98, 998]


def test_a_report_counts_one_epoch_in_a_seeded_order() -> None:
    durations = stand_in(500)
    settings = TokenSettings(seed=1)
    assert count_tokens(durations, settings) == count_tokens(durations, settings)
    other = count_tokens(durations, TokenSettings(seed=2))
    assert _uses(other, "first-come") != _uses(count_tokens(durations, settings), "first-come")


def test_frames_beyond_the_cap_are_reported_and_count_nowhere_else() -> None:
    settings = TokenSettings(rule=TokenRule(max_frames=1024))
    report = count_tokens(_durations(10.255, 20.495), settings)
    assert report.beyond_cap_percent == pytest.approx(100 * 1024 / (1024 + 2048))
    assert [use.cut_tokens for use in report.uses] == [0] * len(report.uses)


def test_planners_are_all_taken_by_default_the_paper_s_first() -> None:
    planners = list(
        dict.fromkeys(use.planner for use in count_tokens(stand_in(50), TokenSettings()).uses)
    )
    assert planners[:2] == ["", "first-come"]
    assert set(planners) == {"", *known_planners(), FLAT}


def test_an_unknown_planner_is_a_usage_error_that_knows_flat() -> None:
    with pytest.raises(UsageError) as caught:
        TokenSettings(planners=["flatt"])
    assert "'flat'" in caught.value.hint


# Known shares


def test_the_stand_in_has_the_published_shares_of_voxceleb_by_time() -> None:
    (time_share,) = count_tokens(stand_in(), TokenSettings(planners=[FLAT])).times
    assert time_share.padding_percent == pytest.approx(31.1, abs=0.05)
    assert time_share.cut_percent == pytest.approx(15.2, abs=0.05)


def test_the_stand_in_by_tokens_is_near_the_measured_shares() -> None:
    report = count_tokens(stand_in(), TokenSettings())
    ast = report.uses[0]
    assert (ast.padding_percent, ast.cut_percent) == pytest.approx((31.1, 15.2), abs=0.6)
    first_come = [use.padding_percent for use in _uses(report, "first-come")]
    assert first_come == pytest.approx([19.5, 16.5, 15.1], abs=0.4)
    balanced = [use.padding_percent for use in _uses(report, "balanced")]
    assert balanced == pytest.approx([3.8, 4.3, 4.2], abs=0.4)


@pytest.mark.parametrize(("edge", "shares"), [("pad", (77.1, 24.0)), ("drop", (78.5, 24.9))])
def test_epic_sounds_annotations_give_the_measured_shares(
    shared_data: Path, edge: Any, shares: tuple[float, float]
) -> None:
    durations = read_durations(shared_data / "epic_sounds" / "EPIC_Sounds_validation.csv")
    report = count_tokens(durations, TokenSettings(rule=TokenRule(edge=edge)))
    assert len(durations.seconds) == report.clips == 8035
    ast = report.uses[0]
    assert (ast.padding_percent, ast.cut_percent) == pytest.approx(shares, abs=0.06)
    first_come = [use.padding_percent for use in _uses(report, "first-come")]
    assert first_come == pytest.approx([16.8, 22.9, 20.5], abs=2.5)
    balanced = [use.padding_percent for use in _uses(report, "balanced")]
    assert balanced == pytest.approx([3.9, 0.6, 0.2], abs=0.8)


def test_windows_lower_the_padding_to_about_the_measured_shares() -> None:
    uses = count_tokens(stand_in(), TokenSettings(planners=list(WINDOW_PLANNERS))).uses
    shares = {planner: [] for planner in WINDOW_PLANNERS}
    for use in uses[1:]:
        shares[use.planner].append(use.padding_percent)
    assert shares["sorted-window"] == pytest.approx([0.5, 1.4, 2.3], abs=0.7)
    assert max(shares["best-fit-decreasing"] + shares["first-fit-decreasing"]) < 2.2


def test_the_window_is_named_where_a_window_planner_is_counted() -> None:
    for planner, named in (("sorted-window", True), ("balanced", False)):
        report = count_tokens(stand_in(60), TokenSettings(planners=[planner], window=24))
        assert ("windows of 24 clips" in token_table.conditions(report)) == named


def test_two_million_durations_are_counted_in_under_ten_seconds_of_one_core() -> None:
    durations = stand_in(2_000_000)
    started = time.process_time()
    count_tokens(durations, TokenSettings(planners=["first-come", "balanced"]))
    assert time.process_time() - started < 10


# Sources


def _csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "clips.csv"
    path.write_bytes(text.encode())
    return path


def test_durations_are_read_from_a_column_called_seconds(tmp_path: Path) -> None:
    path = _csv(tmp_path, '\ufeffid, seconds\n"a,b",1.5\n\nc,2\n')
    durations = read_durations(path)
    assert durations.seconds.tolist() == [1.5, 2.0]
    assert "clips.csv" in durations.label


def test_durations_are_read_from_annotations(tmp_path: Path) -> None:
    text = "id,start_timestamp,stop_timestamp\n0,00:00:59.5,00:01:01.25\n1,01:00:00,02:00:00.000\n"
    assert read_durations(_csv(tmp_path, text)).seconds.tolist() == [1.75, 3600.0]


@pytest.mark.parametrize("value", ["x", "", "-1", "0", "nan", "inf", "1;5", "2,5"])
def test_a_duration_that_is_none_is_named_with_its_line(tmp_path: Path, value: str) -> None:
    with pytest.raises(UsageError, match=r"clips\.csv, line 4"):
        read_durations(_csv(tmp_path, f"id,seconds\n0,1\n\n1,{value}\n2,3\n"))


@pytest.mark.parametrize(
    "row", ["00:00:02,00:00:01", "00:00:01,00:00:01", "1,2", "00:00:01", "00:00:01,x:00:02"]
)
def test_a_wrong_pair_of_timestamps_is_named_with_its_line(tmp_path: Path, row: str) -> None:
    with pytest.raises(UsageError, match=r"clips\.csv, line 2"):
        read_durations(_csv(tmp_path, f"start_timestamp,stop_timestamp\n{row}\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'seconds'"),
        ("seconds\n", "no durations"),
        ("duration\n1\n", "no column 'seconds'"),
        ("start_timestamp\n00:00:01\n", "no column 'seconds'"),
    ],
)
def test_a_file_without_durations_is_a_usage_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        read_durations(_csv(tmp_path, text))
    assert caught.value.hint


def test_a_missing_or_binary_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read_durations(tmp_path / "none.csv")
    with pytest.raises(UsageError, match="cannot read"):
        read_durations(tmp_path)
    (tmp_path / "audio.wav").write_bytes(b"RIFF\xff\xfe\x00\x80")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_durations(tmp_path / "audio.wav")


def _store(num_samples: list[int], splits: list[str], fbank: FbankConfig | None = None) -> Any:
    fbank = fbank or FbankConfig(sample_rate_hz=8_000)

    class Store(SimpleNamespace):
        def __len__(self) -> int:
            return len(num_samples)

    return Store(
        path=Path("data/toy"),
        info=SimpleNamespace(
            name="toy", sample_rate_hz=fbank.sample_rate_hz, fbank_config=asdict(fbank)
        ),
        num_samples=np.array(num_samples, dtype=np.int64),
        splits=np.array(splits, dtype=np.str_),
    )


def test_prepared_data_give_exact_frames_of_one_split_or_all() -> None:
    store = _store([8_000, 12_345, 80_000], ["train", "train", "test"])
    config = FbankConfig(sample_rate_hz=8_000)
    whole = prepared_durations(store)
    assert frames_of(whole).tolist() == [
        config.num_frames(number) for number in (8_000, 12_345, 80_000)
    ]
    assert prepared_durations(store, "test").seconds.tolist() == [10.0]


def test_prepared_data_are_counted_by_their_own_frontend_unless_set() -> None:
    epic = frontend_config("epic-librosa")
    whole = prepared_durations(_store([24_000, 240_000], ["train", "train"], epic))
    assert frames_of(whole).tolist() == [epic.num_frames(24_000), epic.num_frames(240_000)]
    own, overridden = (
        count_tokens(whole, TokenSettings(planners=[FLAT], shift_ms=shift)) for shift in (None, 10)
    )
    assert (own.shift_ms, overridden.shift_ms) == (5.0, 10.0)
    assert own.uses[-1].native_tokens > overridden.uses[-1].native_tokens


def test_clips_without_a_frame_and_clips_longer_than_a_row_are_reported() -> None:
    report = count_tokens(
        _durations(0.001, 1.0, 10.0), TokenSettings(planners=["first-come"], capacity=100)
    )
    assert (report.clips, report.too_short, report.longer_than_row) == (2, 1, 1)
    assert report.uses[-1].native_tokens == 8 * (7 + 63)
    said = "\n".join(token_table.notes(report))
    assert "one frame, not counted: 1" in said and "more tokens than a row: 1;" in said
    with pytest.raises(UsageError, match="no clip is long enough"):
        count_tokens(_durations(0.001), TokenSettings())


def test_a_split_without_clips_is_a_usage_error_that_lists_the_splits() -> None:
    with pytest.raises(UsageError) as caught:
        prepared_durations(_store([8_000], ["train"]), "val")
    assert "train" in caught.value.hint


# Tables and figures


def test_published_numbers_stand_only_below_the_stand_in() -> None:
    settings = TokenSettings(batch_sizes=[4])
    note = token_table.notes(count_tokens(stand_in(40), settings))[-1]
    assert "AST-1024: padding 31.1 %, cut 15.2 %" in note
    assert "ElasticAST: padding figure only, cut 0.0 %" in note
    notes = token_table.notes(count_tokens(_durations(1.0, 2.0), settings))
    assert not [line for line in notes if "published" in line]


def test_small_token_counts_are_shown_in_full() -> None:
    report = count_tokens(_durations(1.0, 1.0), TokenSettings(planners=[FLAT]))
    _, rows = token_table.table(report)
    assert [row[-1] for row in rows] == ["1,024", "112"]


def test_files_hold_the_table_and_are_the_same_twice(tmp_path: Path) -> None:
    report = count_tokens(stand_in(60), TokenSettings())
    first = token_table.write_files(report, tmp_path / "a")
    second = token_table.write_files(report, tmp_path / "b")
    assert [path.name for path in first] == ["tokens.csv", "tokens.png", "tokens.svg"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    rows = list(csv.DictReader(first[0].read_text().splitlines()))
    assert len(rows) == len(report.uses)
    assert float(rows[0]["padding_percent"]) == report.uses[0].padding_percent


def test_the_figure_draws_every_row_in_both_panels() -> None:
    report = count_tokens(stand_in(60), TokenSettings(fixed_frames=[400, 1024]))
    padding, cut = token_table.draw(report).axes
    for axes, shares in (
        (padding, [use.padding_percent for use in report.uses]),
        (cut, [use.cut_percent for use in report.uses]),
    ):
        assert [
            bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)
        ] == pytest.approx(shares)


def test_where_nothing_is_cut_the_figure_says_so_and_has_no_empty_panel() -> None:
    figure = token_table.draw(count_tokens(_durations(1.0, 2.0), TokenSettings()))
    assert len(figure.axes) == 1
    assert str(figure.get_supxlabel()).endswith("nothing is cut")


# The command


def test_the_command_uses_the_stand_in_where_nothing_is_prepared_and_reports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command.tokens(planner=["flat"])
    shown = capsys.readouterr()
    assert "no prepared dataset" in shown.err
    assert "source: stand-in for VoxCeleb" in shown.err
    assert "stand-in" in shown.out


def test_the_command_counts_a_file_and_writes_one_json_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _csv(tmp_path, "seconds\n" + "1.5\n" * 30)
    command.tokens(
        durations=path, batch_size=["12", "24"], planner=["flat"], out=tmp_path, json_output=True
    )
    document = json.loads(capsys.readouterr().out)
    assert document["source_kind"] == "file"
    assert document["clips"] == 30
    assert [use["model"] for use in document["uses"]] == ["AST-1024", "ElasticAST"]
    assert all(Path(name).is_file() for name in document["files"])
    assert "published" not in document


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": ["0"]},
        {"frames": ["x"]},
        {"edge": "cut"},
        {"planner": ["best"]},
        {"shift_ms": 0.0},
        {"split": "train"},
        {"durations": Path("none.csv")},
        {"durations": Path("none.csv"), "dataset": "synth"},
        {"dataset": "nowhere"},
        {"dataset": "synth", "stand_in": True},
        {"dataset": "synth", "clips": 10},
    ],
    ids=lambda options: "-".join(options),
)
def test_wrong_options_are_usage_errors(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        command.tokens(**({"stand_in": not {"dataset", "durations"} & set(options)} | options))
    assert caught.value.exit_code == 2
    assert caught.value.message


def test_batch_sizes_are_written_as_in_the_readme() -> None:
    line = "tokens --stand-in --clips 300 --json --planner flat first-come --batch-size 12 24 48"
    run = subprocess.run(
        [sys.executable, "-m", "elastictool", *line.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["settings"]["batch_sizes"] == [12, 24, 48]
    assert "stand-in" in run.stderr
