"""``elastictool prep``: prepare a dataset from raw audio."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elastictool.cli.console import log, log_lines, print_json, print_table, progress
from elastictool.cli.options import Encoding, JsonOption, encoding_option, grouped, option
from elastictool.utils.errors import UsageError
from elastictool.utils.io import as_argument

if TYPE_CHECKING:
    from elastictool.corpora.base import TableOptions
    from elastictool.data.options import PrepOptions
    from elastictool.data.plan import Plan
    from elastictool.data.prepare import JobShard
    from elastictool.data.shards import ShardReport
    from elastictool.data.store import PreparedStore


_NAMED_COLUMNS = ("path", "label", "split", "group")


def parse_channel(text: str) -> str | int:
    """Returns ``mean``, or a channel by its number.

    Raises:
        UsageError: It is neither.
    """
    if text in ("mean", "first"):
        return 0 if text == "first" else text
    if text.isascii() and text.isdigit():
        return int(text)
    raise UsageError(f"--channel {text!r} is unknown", "mean, first, or a number counted from 0")


def parse_silence(text: str) -> bool | float:
    """Returns whether silence is cut off, and under which level if not exact zeros only.

    Raises:
        UsageError: It is no level below full scale.
    """
    if text in ("", "on"):
        return bool(text)
    try:
        level = float(text.lower().removesuffix("db"))
    except ValueError:
        level = 0.0
    if not -200 <= level < 0:
        raise UsageError(
            f"--trim-silence {text!r} is no level in dBFS",
            "a number below 0, such as -60; alone it cuts off digital silence",
        )
    return level


@dataclass(frozen=True)
class CorpusChoice:
    """What to prepare."""

    dataset: str = option(
        "",
        "Corpus: {corpora}. synth (the default) is rendered; folder, csv and json (lists of the "
        "AST repositories) are recordings of your own.",
        "--dataset",
        "-d",
    )
    root: Path | None = option(None, "Folder of the corpus, or the table of csv.")
    download: bool = option(False, "Download the corpus first ({downloads}).")
    task: str = option("", "Labels to prepare ({tasks}).")
    subset: str = option("", "Part of the corpus ({subsets}).")
    limit: int = option(
        0,
        "Number of clips to prepare, shared among splits in proportion and taken from the "
        "classes in turn (0: all).",
        min=0,
    )
    seed: int = option(0, "Seed of drawn splits, synth's clips and --stats-clips.", min=0)


@dataclass(frozen=True)
class TableChoice:
    """What the columns of a table of one's own are called."""

    path_column: str = option("", "Column of csv with the audio files (default: path).")
    label_column: str = option("", "Column of csv with the labels (default: label).")
    split_column: str = option("", "Column of csv with the splits (default: split).")
    group_column: str = option("", "Column of csv with what stays in one split (default: group).")
    label_separator: str = option("|", "Text that joins several labels of a clip in csv.")

    @property
    def options(self) -> TableOptions:
        """The same for the corpus.

        Raises:
            UsageError: The separator is empty.
        """
        from elastictool.corpora.base import TableOptions

        if not self.label_separator:
            raise UsageError("--label-separator is empty", "for example --label-separator ';'")
        names = {name: getattr(self, f"{name}_column") for name in _NAMED_COLUMNS}
        called = {name: called for name, called in names.items() if called}
        return TableOptions(called, self.label_separator)


@dataclass(frozen=True)
class Storage:
    """What to store."""

    channel: str = option(
        "mean", "Channel of files with several: mean, first, or a number from 0.", metavar="TEXT"
    )
    trim_silence: str = option(
        "",
        "Cut silence off both ends: digital silence (ESC-50), or what stays under this many dBFS, "
        "e.g. -60.",
        metavar="[DB]",
    )
    max_seconds: float = option(0.0, "Seconds to keep from the start of each clip (0: all).", min=0)
    frontend: str = option(
        "kaldi", "Front end to prepare for: kaldi (16 kHz) or epic-librosa (24 kHz)."
    )
    encoding: Annotated[Encoding, encoding_option("--encoding")] = "flac"
    stats_clips: int = option(
        0,
        "Number of drawn training clips to measure log-mel mean and deviation on (0: all).",
        min=0,
    )


@dataclass(frozen=True)
class Target:
    """Where the dataset goes, and how many clips it may lack."""

    out: Path | None = option(None, "Folder of all prepared datasets (default: data).")
    name: str = option("", "Name of the prepared dataset.")
    overwrite: bool = option(False, "Replace the prepared dataset of this name.")
    max_rejected: float = option(
        0.01, "Share of unusable or missing clips above which to exit 3.", min=0, max=1
    )


@dataclass(frozen=True)
class Work:
    """Which processes and machines do the work."""

    workers: int = option(
        0,
        "Number of processes (0: one per core where that pays). Any number stores the same bytes.",
        min=0,
    )
    scheduler: str = option(
        "", "Scheduler of a Dask cluster that does the work: tcp://HOST:8786 (extra dask)."
    )
    part: str = option("", "Part of the work, for a batch queue, e.g. 3/16; afterwards --merge.")
    merge: bool = option(False, "Make the dataset of all parts; same options otherwise.")

    def check(self, overwrite: bool) -> None:
        """Checks that the options go together.

        Raises:
            UsageError: Two of them exclude each other.
        """
        if self.part and self.merge:
            raise UsageError(
                "--part and --merge exclude each other", "first all parts, then --merge"
            )
        if overwrite and (self.part or self.merge):
            raise UsageError(
                "--overwrite would delete what other parts have done",
                "delete the folder before the first part, or choose another --name",
            )
        if self.merge and self.scheduler:
            raise UsageError("--merge only sums up, there is nothing to schedule", "leave one out")


def _taken(data: str, corpus: CorpusChoice) -> CorpusChoice:
    """Returns the choice with the data that were named without an option, and prints it.

    Raises:
        UsageError: They are nothing that can be prepared, or were named twice.
    """
    from elastictool.corpora.base import CORPORA
    from elastictool.corpora.recognise import recognised
    from elastictool.utils.io import INFO_NAME, on_disk

    if data and corpus.root:
        raise UsageError(f"both {data} and --root {corpus.root} are given", "leave one out")
    path = on_disk(Path(data)) if data else corpus.root
    if data in CORPORA and not (path and path.exists()):
        if corpus.dataset not in ("", data):
            raise UsageError(
                f"both {data} and --dataset {corpus.dataset} are given", "leave one out"
            )
        return dataclasses.replace(corpus, dataset=data)
    if path is None or corpus.dataset:
        return dataclasses.replace(corpus, dataset=corpus.dataset or "synth", root=path)
    if (path / INFO_NAME).is_file():
        line = f"elastictool train --dataset {as_argument(path)}"
        raise UsageError(f"{path} is prepared already", f"use it: {line}")
    found = recognised(path)
    if found is None:
        known = f"a folder or table of recordings, or one of {', '.join(CORPORA)}"
        what = "holds no recordings" if path.is_dir() else "is no table or list of recordings"
        what = what if path.exists() else "does not exist"
        raise UsageError(f"{path} {what}", f"give {known}; --dataset says how it is read")
    log(f"{path} is read as --dataset {found[0]} --root {as_argument(found[1])}")
    return dataclasses.replace(corpus, dataset=found[0], root=found[1])


@grouped
def prep(
    data: Annotated[
        str,
        typer.Argument(
            metavar="[DATA]", help="Folder or table of recordings, or the name of a corpus."
        ),
    ] = "",
    corpus: CorpusChoice = CorpusChoice(),
    storage: Storage = Storage(),
    target: Target = Target(),
    json_output: JsonOption = False,
    work: Work = Work(),
    table: TableChoice = TableChoice(),
) -> None:
    """Decode, check, resample and store a corpus for training.

    Killed or interrupted, the same command continues. Clips that cannot be used are listed in
    rejected.csv and left out. Where the corpus is missing, a message names the files to download
    and their folder.

    Example: elastictool prep my_recordings
    """
    from elastictool.data.inspect import facts
    from elastictool.data.plan import plan
    from elastictool.data.prepare import JobShard, carry_out, merge, prepare_job_shard
    from elastictool.data.summary import check_rejected

    part = JobShard.parse(work.part) if work.part else None
    work.check(target.overwrite)
    corpus = _taken(data, corpus)
    options = _options(corpus, table, storage, target, work)
    if corpus.download:
        _download(corpus.dataset, corpus.root)
    planned = plan(options)
    if part:
        _print_part(part, planned, prepare_job_shard(planned, part, progress()), json_output)
        return
    store = (merge if work.merge else carry_out)(planned, progress())
    _draw_durations(store)
    report = facts(store)
    if json_output:
        print_json(report)
    else:
        print_facts(store, report)
        log(f"next: elastictool {_next(store)}")
    check_rejected(store.info, target.max_rejected, missing_too=not corpus.limit)


def _options(
    corpus: CorpusChoice, table: TableChoice, storage: Storage, target: Target, work: Work
) -> PrepOptions:
    from elastictool.config.loader import frontend_config
    from elastictool.corpora.base import CorpusOptions
    from elastictool.data.options import PrepOptions, StorageOptions
    from elastictool.data.store import DATA_ROOT

    return PrepOptions(
        corpus.dataset,
        corpus.root,
        target.out or DATA_ROOT,
        target.name,
        CorpusOptions(corpus.task, corpus.subset, corpus.seed, table.options),
        StorageOptions(
            storage.encoding,
            parse_channel(storage.channel),
            parse_silence(storage.trim_silence),
            storage.max_seconds,
            frontend_config(storage.frontend),
            storage.stats_clips,
        ),
        corpus.limit,
        work.workers,
        work.scheduler,
        target.overwrite,
    )


def _print_part(part: JobShard, plan: Plan, reports: Sequence[ShardReport], as_json: bool) -> None:
    """Prints what one part has done; the dataset's own report comes with ``--merge``."""
    rejected = sum(len(report.rejected) for report in reports)
    clips = sum(report.rows for report in reports) + rejected
    if as_json:
        shards = {"shards": len(reports), "of": len(plan.tasks)}
        counts = {"clips": clips, "rejected": rejected}
        print_json({"path": str(plan.folder), "part": str(part), **shards, **counts})
        return
    log(
        f"part {part} of {plan.folder}: {len(reports)} of {len(plan.tasks)} shards, {clips} clips, "
        f"{rejected} of them rejected"
    )
    log("when all parts are done: the same command with --merge instead of --part")


def _download(dataset: str, root: Path | None) -> None:
    from elastictool.corpora.base import CORPORA, DownloadableCorpus

    corpus = CORPORA[dataset]
    folder = root or corpus.default_root
    if not isinstance(corpus, DownloadableCorpus) or folder is None:
        raise UsageError(f"elastictool cannot download --dataset {dataset}", corpus.describe())
    corpus.download(folder, progress())


def _draw_durations(store: PreparedStore) -> None:
    """Draws ``durations.png``, unless a finished dataset has it already."""
    from elastictool.data.inspect import durations_s
    from elastictool.data.prepare import DURATIONS_NAME
    from elastictool.reporting.audio_figures import draw_durations
    from elastictool.reporting.figures import save_png

    if not (store.path / DURATIONS_NAME).exists():
        seconds = durations_s(store)
        parts = {split: seconds[store.splits == split] for split in store.info.splits}
        save_png(draw_durations(store.info.name, parts), store.path / DURATIONS_NAME)


def print_facts(store: PreparedStore, report: dict[str, Any]) -> None:
    """Prints ``facts`` as tables, and the corpus's notes on stderr."""
    from elastictool.data.prepare import DURATIONS_NAME
    from elastictool.data.summary import REJECTED_NAME

    info = store.info
    columns = ("split", "expected", "found", "missing", "rejected", "prepared", "silent")
    rows = [
        (split, c.expected or "–", c.found, c.missing, c.rejected, c.prepared, c.silent)
        for split, c in info.splits.items()
    ]
    print_table(f"{info.name}: clips", columns, rows)
    durations = [f"{seconds:.2f}" for seconds in report["durations_s"].values()]
    labels = ("min", "10 %", "median", "90 %", "99 %", "max")
    print_table("length in seconds", (*labels, "total"), [(*durations, f"{report['total_s']:.0f}")])
    per_class = report["clips_per_class"].values()
    rejected = store.path / REJECTED_NAME
    kind = "multi-label" if info.multi_label else "single-label"
    rates = ", ".join(f"{count} at {rate} Hz" for rate, count in info.source_rates.items())
    print_table(
        "data",
        ("what", "value"),
        [
            ("classes", f"{len(info.label_names)} ({kind})"),
            ("clips a class", f"{min(per_class)} to {max(per_class)}"),
            ("source rates", rates),
            ("stored", f"{info.sample_rate_hz} Hz mono, {info.encoding}, {info.resampler}"),
            ("log-mel mean, deviation", f"{report['fbank_mean']:.4f}, {report['fbank_std']:.4f}"),
            ("folder", store.path),
            ("lengths", store.path / DURATIONS_NAME),
            *([("left out", rejected)] if rejected.exists() else []),
        ],
    )
    log_lines("note: ", info.notes)


def _next(store: PreparedStore) -> str:
    """Returns the next command: data without clips to train on are for a trained model."""
    from elastictool.data.inspect import SMALL_CLIPS, training_settings
    from elastictool.data.store import DATA_ROOT

    # ``train`` finds data under the root by name.
    data = as_argument(store.path.name if store.path.parent == DATA_ROOT else store.path)
    if "train" not in set(store.splits.tolist()):
        return f"eval RUN --dataset {data}"
    if store.info.splits["train"].silent == store.info.splits["train"].prepared:
        return f"data show {data}"  # ``train`` refuses data that are all silent
    recipe = " --recipe small_data" if len(store) < SMALL_CLIPS else ""
    settings = "".join(f" --set {setting}" for setting in training_settings(store))
    return f"train --dataset {data}{recipe}{settings}"
