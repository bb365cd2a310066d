"""Options of ``prep``, passed as one value from the command to the worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from elastictool.config import FbankConfig
from elastictool.corpora.base import CorpusOptions
from elastictool.data.store import DATA_ROOT


@dataclass(frozen=True)
class StorageOptions:
    """Options of the stored audio and of the statistics that are measured on it.

    Attributes:
        encoding: ``flac`` (lossless, half the size) or ``wav`` (faster to read).
        channel: ``mean`` of all, or a channel counted from 0.
        trim_silence: Cut exact zeros off both ends, or, for a number below 0, samples under that
            many dBFS; a clip of nothing else is kept whole.
        max_seconds: Seconds to keep from the start; 0 keeps all.
        fbank: Filterbank of the statistics; its sample rate is that of the stored audio.
        stats_clips: Number of training clips to measure, drawn with a seed; 0 measures all clips.
    """

    encoding: Literal["flac", "wav"] = "flac"
    channel: str | int = "mean"
    trim_silence: bool | float = False
    max_seconds: float = 0.0
    fbank: FbankConfig = field(default_factory=FbankConfig)
    stats_clips: int = 0


@dataclass(frozen=True)
class PrepOptions:
    """Options of a preparation: what to prepare, how to store it, where to run.

    Attributes:
        dataset: Name of the corpus.
        root: Folder of the corpus; None is its default folder.
        out: Folder of all prepared datasets.
        name: Name of this one; empty takes the listing's.
        corpus: Task, subset and seed.
        storage: What to store.
        limit: Number of clips to prepare (``limited``); 0 is all.
        workers: Processes, 1 works in this process; 0 begins in this process and continues with
            one per core where that saves time.
        scheduler: Address of a Dask scheduler (tcp://host:8786), to write the shards there instead.
        overwrite: Replace another dataset of this name.
    """

    dataset: str
    root: Path | None = None
    out: Path = DATA_ROOT
    name: str = ""
    corpus: CorpusOptions = field(default_factory=CorpusOptions)
    storage: StorageOptions = field(default_factory=StorageOptions)
    limit: int = 0
    workers: int = 1
    scheduler: str = ""
    overwrite: bool = False
