"""Preparing is repeatable to the byte: with any number of workers, killed, moved or repeated."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from elastictool.cli.prep import prep
from elastictool.config.loader import load_run_config
from elastictool.corpora.base import SourceClip
from elastictool.data.options import PrepOptions, StorageOptions
from elastictool.data.plan import cut_into_shards, limited
from elastictool.data.prepare import prepare
from elastictool.data.splits import select_clips
from elastictool.data.store import PreparedStore
from elastictool.data.summary import check_rejected
from elastictool.utils.errors import Interrupted, RejectedItemsError, UsageError
from elastictool.utils.io import PROGRESS_FOLDER
from elastictool.utils.progress import Task
from tests.helpers.children import Child
from tests.helpers.corpus_trees import csv_tree, write_audio, write_table
from tests.helpers.files import content

CLIPS = 320


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed run in one process writes."""
    out = tmp_path_factory.mktemp("whole")
    return content(prepare(PrepOptions("synth", out=out, limit=CLIPS)).path)


def clip(number: int, label: str, split: str = "train", fold: int = 0) -> SourceClip:
    return SourceClip(str(number), "", None, None, (label,), split, fold)


def test_any_number_of_workers_writes_the_same_bytes(
    whole: dict[str, bytes], tmp_path: Path
) -> None:
    assert (
        content(prepare(PrepOptions("synth", out=tmp_path, limit=CLIPS, workers=2)).path) == whole
    )


def test_a_killed_run_continues_to_the_same_bytes(whole: dict[str, bytes], tmp_path: Path) -> None:
    child = _start(tmp_path, "--workers", "1")
    _wait_for_shards(tmp_path, 3)
    child.process.kill()
    assert child.wait() == -signal.SIGKILL
    folder = tmp_path / "synth"
    assert not (folder / "dataset.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("shard-*.arrow")}
    (folder / ".shard-00019.arrow.1.tmp").write_bytes(b"half a shard of a killed worker")
    assert content(prepare(PrepOptions("synth", out=tmp_path, limit=CLIPS)).path) == whole
    sidecars = len(finished)
    untouched = sum(path.stat().st_mtime_ns == at for path, at in finished.items())
    assert untouched >= sidecars - 1  # the last one may lack its sidecar


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_stopped_run_says_how_to_continue_and_keeps_its_shards(
    stop: signal.Signals, whole: dict[str, bytes], tmp_path: Path
) -> None:
    child = _start(tmp_path, "--workers", "2")
    _wait_for_shards(tmp_path, 2)
    assert child.process.pid is not None
    os.killpg(child.process.pid, stop)
    assert child.wait(30) == 130
    assert "interrupted" in child.shown() and "run the same command again" in child.shown()
    assert "Traceback" not in child.shown()
    assert content(prepare(PrepOptions("synth", out=tmp_path, limit=CLIPS)).path) == whole


def _start(out: Path, *options: str) -> Child:
    return Child(out, "prep", "--out", out, "--limit", CLIPS, *options)


def _wait_for_shards(out: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list((out / "synth" / PROGRESS_FOLDER).glob("*.json"))) < count:
        assert time.monotonic() < deadline, "no shard was finished in a minute"
        time.sleep(0.005)


class _StoppingProgress:
    """Presses Ctrl-C when the bar moves for the third time."""

    @contextmanager
    def task(self, what: str, total: float | None) -> Iterator[Task]:
        yield self
        assert what and total

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.moves = getattr(self, "moves", 0) + 1
        if self.moves == 3:
            raise KeyboardInterrupt

    def log(self, message: str) -> None:
        pass


def test_ctrl_c_inside_the_library_is_interrupted_with_exit_code_130(tmp_path: Path) -> None:
    with pytest.raises(Interrupted) as raised:
        prepare(PrepOptions("synth", out=tmp_path, limit=60), _StoppingProgress())
    assert raised.value.exit_code == 130
    assert "2 of 4 shards" in raised.value.message
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_damaged_shard_of_an_unfinished_run_is_written_again(
    whole: dict[str, bytes], tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        prepare(PrepOptions("synth", out=tmp_path, limit=CLIPS), _StoppingProgress())
    shard = tmp_path / "synth" / "shard-00000.arrow"
    shard.write_bytes(shard.read_bytes()[:-10])
    assert content(prepare(PrepOptions("synth", out=tmp_path, limit=CLIPS)).path) == whole


def test_a_finished_dataset_is_left_alone(tmp_path: Path) -> None:
    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "synth").iterdir()}

    prepare(PrepOptions("synth", out=tmp_path, limit=40))
    before = written()
    prepare(PrepOptions("synth", out=tmp_path, limit=40))
    assert written() == before


def test_another_dataset_of_that_name_is_replaced_only_with_overwrite(tmp_path: Path) -> None:
    prepare(PrepOptions("synth", out=tmp_path, limit=40))
    for limit, settings in ((41, StorageOptions()), (40, StorageOptions(encoding="wav"))):
        with pytest.raises(UsageError, match="another dataset or other settings") as raised:
            prepare(PrepOptions("synth", out=tmp_path, limit=limit, storage=settings))
        assert "--overwrite" in raised.value.hint
    (tmp_path / "synth" / "my notes.txt").write_text("mine")
    assert len(prepare(PrepOptions("synth", out=tmp_path, limit=20, overwrite=True))) == 20
    assert (tmp_path / "synth" / "my notes.txt").exists()
    assert len(list((tmp_path / "synth").glob("shard-*"))) == 2


def test_an_unfinished_dataset_with_other_settings_is_not_mixed_in(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        prepare(PrepOptions("synth", out=tmp_path, limit=60), _StoppingProgress())
    with pytest.raises(UsageError, match="unfinished dataset with other clips or settings"):
        prepare(PrepOptions("synth", out=tmp_path, limit=61))


def test_a_folder_with_other_things_in_it_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "synth").mkdir()
    (tmp_path / "synth" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="not empty and not a prepared dataset"):
        prepare(PrepOptions("synth", out=tmp_path, limit=20))
    assert [path.name for path in (tmp_path / "synth").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["../up", ".", "a/b", "-x", "a b"])
def test_a_name_that_is_no_folder_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot name a dataset"):
        prepare(PrepOptions("synth", out=tmp_path, name=name, limit=20))


def test_where_the_corpus_lies_does_not_change_a_byte(tmp_path: Path) -> None:
    csv_tree(tmp_path / "here" / "bells")
    shutil.copytree(tmp_path / "here" / "bells", tmp_path / "there" / "bells")
    (tmp_path / "here" / "bells" / "audio" / "03.wav").write_bytes(b"")
    (tmp_path / "there" / "bells" / "audio" / "03.wav").write_bytes(b"")
    stores = [
        prepare(PrepOptions("csv", tmp_path / place / "bells", tmp_path / "data" / place))
        for place in ("here", "there")
    ]
    assert stores[0].info.rejected == 1
    assert content(stores[0].path) == content(stores[1].path)


def test_flac_and_wav_hold_the_same_samples(tmp_path: Path) -> None:
    flac = prepare(PrepOptions("synth", out=tmp_path, name="flac", limit=20))
    wav = prepare(
        PrepOptions("synth", out=tmp_path, name="wav", limit=20, storage=StorageOptions("wav"))
    )
    assert (wav.waveform(4) == flac.waveform(4)).all()
    assert wav.info.fbank_sums == flac.info.fbank_sums
    assert len(wav.audio_bytes(4)) > len(flac.audio_bytes(4))


def test_shards_are_cut_by_the_clip_list_alone() -> None:
    def sizes(num_clips: int) -> list[int]:
        shards = cut_into_shards([clip(i, "a") for i in range(num_clips)])
        assert [c.id for shard in shards for c in shard] == [str(i) for i in range(num_clips)]
        return list(map(len, shards))

    assert sizes(1) == [1]
    assert sizes(20) == [16, 4]
    assert sizes(3_200) == [100] * 32
    assert sizes(100_000) == [1_024] * 97 + [672]


def test_a_limit_is_shared_among_splits_and_takes_turns_of_class() -> None:
    clips = [
        clip(i, "abcd"[i // 50], ("train", "train", "train", "test")[i % 4]) for i in range(200)
    ]
    chosen = limited(clips, 16)
    assert Counter(c.split for c in chosen) == {"train": 12, "test": 4}
    assert Counter(c.labels[0] for c in chosen) == dict.fromkeys("abcd", 4)
    assert [clips.index(c) for c in chosen] == sorted(clips.index(c) for c in chosen)
    assert limited(clips, 0) == limited(clips, 200) == limited(clips, 999) == clips


def test_a_limit_reaches_all_classes_though_each_fold_gets_few_clips() -> None:
    clips = [clip(i, "abcdefghij"[i % 10], fold=i // 10 % 5 + 1) for i in range(300)]
    assert set(Counter(c.labels[0] for c in limited(clips, 40)).values()) == {4}


def test_the_command_prints_one_json_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prep(dataset="synth", out=tmp_path, limit=40, workers=1, json_output=True)
    report = json.loads(capsys.readouterr().out)
    assert report["num_clips"] == sum(report["clips_per_class"].values()) == 40
    assert report["splits"]["train"]["expected"] == 900
    assert report["durations_s"]["p0"] <= report["durations_s"]["p50"] <= 10.0
    store = PreparedStore.open(Path(report["path"]))
    assert (report["fbank_mean"], report["fbank_std"]) == store.info.fbank_stats()
    assert (store.path / "durations.png").read_bytes().startswith(b"\x89PNG")
    assert not (store.path / "rejected.csv").exists()


def test_the_command_reports_in_tables_and_says_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prep(dataset="csv", root=csv_tree(tmp_path / "bells"), out=tmp_path / "data", workers=1)
    output = capsys.readouterr()
    for wanted in ("expected", "missing", "rejected", "silent", "median", "20 at 16000 Hz"):
        assert wanted in output.out
    wanted = f"elastictool train --dataset {tmp_path / 'data' / 'bells'} --recipe small_data"
    assert wanted in output.err


def test_what_comes_next_after_clips_to_test_alone_is_an_evaluation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = csv_tree(tmp_path / "toy") / "clips.csv"
    first, *rows = listing.read_text("utf-8").splitlines()
    listing.write_text("\n".join([f"{first},split", *(f"{row},test" for row in rows)]), "utf-8")
    prep(dataset="csv", root=listing, out=tmp_path / "data", name="others", workers=1)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("next:")]
    assert line == f"next: elastictool eval RUN --dataset {tmp_path / 'data' / 'others'}"


def test_a_path_with_a_space_is_quoted_for_the_shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my data"
    prep(dataset="csv", root=csv_tree(tmp_path / "toy"), out=out, name="bells", workers=1)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("next:")]
    assert shlex.split(line)[4] == str(out / "bells")


def test_what_comes_next_after_data_without_validation_sets_some_clips_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = csv_tree(tmp_path / "toy") / "clips.csv"
    first, *rows = listing.read_text("utf-8").splitlines()
    split = [f"{row},{'test' if place % 4 == 0 else 'train'}" for place, row in enumerate(rows)]
    listing.write_text("\n".join([f"{first},split", *split]), "utf-8")
    prep(dataset="csv", root=listing, out=tmp_path / "data", name="others", workers=1)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("next:")]
    assert line.split(" --set ")[1:] == ["data.validation_fraction=0.1"]


def test_what_comes_next_after_several_labels_a_clip_is_training_that_takes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = csv_tree(tmp_path / "toy") / "clips.csv"
    head, first, *rows = listing.read_text("utf-8").splitlines()
    label = head.split(",").index("label")
    cells = [*first.split(",")]
    cells[label] += "|" + rows[-1].split(",")[label] + "|both"
    listing.write_text("\n".join([head, ",".join(cells), *rows]), "utf-8")
    prep(dataset="csv", root=listing, out=tmp_path / "data", name="mixtures", workers=1)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("next:")]
    assert line.split(" --set ")[-1] == "train.loss=bce"


def test_what_comes_next_after_folds_tests_on_one_and_validates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prep(dataset="csv", root=csv_tree(tmp_path / "bells"), out=tmp_path / "data", workers=1)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("next:")]
    settings = line.split(" --set ")[1:]
    assert settings == ["data.test_fold=1", "data.validation_fraction=0.1"]
    store = PreparedStore.open(tmp_path / "data" / "bells")
    splits = select_clips(store, load_run_config(None, settings).data, seed=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (14, 2, 4)


def test_rejects_beyond_the_allowed_share_exit_with_3_after_all_is_written(tmp_path: Path) -> None:
    root = csv_tree(tmp_path / "bells", clips=20)
    (root / "audio" / "00.wav").write_bytes(b"RIFF")
    out = tmp_path / "data"
    with pytest.raises(RejectedItemsError, match=r"1 of 20 clips were rejected \(5.0%") as raised:
        prep(dataset="csv", root=root, out=out, workers=1)
    assert raised.value.exit_code == 3
    store = PreparedStore.open(out / "bells")
    assert len(store) == 19
    assert (store.path / "durations.png").exists()
    check_rejected(store.info, 0.05)
    with pytest.raises(RejectedItemsError):
        check_rejected(store.info, 0.049)


def test_epic_sounds_without_data_explains_itself_and_exits_with_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "elastictool", "prep", "--dataset", "epic-sounds"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    for wanted in ("github.com/epic-kitchens", "data/raw/epic-sounds", "GB", "CC BY-NC 4.0"):
        assert wanted in done.stderr
    assert len(done.stderr.splitlines()) <= 24


def test_slices_are_cut_by_time_at_any_rate(tmp_path: Path) -> None:
    write_audio(tmp_path / "long.flac", 3.0, 44_100)
    table = write_table(
        tmp_path / "t.csv",
        [
            ("path", "label", "start", "stop"),
            ("long.flac", "a", 0.5, 2.0),
            ("long.flac", "a", 2.5, ""),
        ],
    )
    store = prepare(PrepOptions("csv", table, tmp_path / "data"))
    assert store.num_samples.tolist() == [24_000, 8_000]


def test_a_run_killed_within_its_first_shard_finds_its_folder_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("elastictool.data.executor.write_shard", lambda task: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(PrepOptions("synth", out=tmp_path, limit=20))
    (tmp_path / "synth" / ".shard-00000.arrow.7.tmp").write_bytes(b"half a shard")
    assert len(prepare(PrepOptions("synth", out=tmp_path, limit=20))) == 20


def test_what_a_kill_leaves_next_to_a_finished_dataset_is_cleaned_up(tmp_path: Path) -> None:
    folder = prepare(PrepOptions("synth", out=tmp_path, limit=20)).path
    before = content(folder)
    (folder / PROGRESS_FOLDER).mkdir()
    (folder / PROGRESS_FOLDER / "shard-00000.json").write_text("{}")
    (folder / ".dataset.json.7.tmp").write_text("half")
    prepare(PrepOptions("synth", out=tmp_path, limit=20))
    assert content(folder) == before


def test_an_overwrite_killed_half_way_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(PrepOptions("synth", out=tmp_path, limit=20))
    unlink, left = Path.unlink, [2]

    def killed(self: Path, *arguments: bool, **options: bool) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise ZeroDivisionError
        unlink(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", killed)
        with pytest.raises(ZeroDivisionError):
            prepare(PrepOptions("synth", out=tmp_path, limit=30, overwrite=True))
    assert len(prepare(PrepOptions("synth", out=tmp_path, limit=30, overwrite=True))) == 30
