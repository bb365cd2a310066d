"""``elastictool embed``: write vectors of recordings, or find similar recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elastictool.cli.console import log, print_json, print_table, progress
from elastictool.cli.loading import note_other_data, open_data, open_model
from elastictool.cli.options import (
    BudgetOptions,
    FilesArgument,
    JsonOption,
    OptionalDatasetOption,
    RunOption,
    SplitOption,
    WindowOptions,
    grouped,
    option,
)
from elastictool.cli.recordings import collect, expand_files, finish, split_run, window_rule
from elastictool.reporting.tables import percent
from elastictool.utils.errors import UsageError
from elastictool.utils.io import check_output, finite
from elastictool.utils.text import counted

if TYPE_CHECKING:
    from elastictool.inference.model import ElasticModel
    from elastictool.inference.results import WindowRule, Windows
    from elastictool.inference.vectors import EmbeddingMeta, EmbeddingTable


@dataclass(frozen=True)
class EmbedOptions:
    """What to write, to search, or to measure."""

    out: Path | None = option(None, "File for the vectors: .npz, .parquet (with names) or .npy.")
    index: Path | None = option(None, "File of vectors to search: .npz or .parquet.")
    query: list[str] | None = option(None, "Recording to look for in the index; repeatable.")
    top: int = option(5, "Number of nearest recordings to name.", min=1)
    dataset: OptionalDatasetOption = ""
    split: SplitOption = "test"

    def check(self, files: list[str] | None) -> None:
        """Checks that the options go together, and that the file can be written.

        Raises:
            UsageError: They do not, or the file's ending is unknown.
            WriteError: The file cannot be written.
        """
        from elastictool.inference.vectors import check_suffix

        if self.dataset:
            if files or self.index is not None or self.query:
                raise UsageError("--dataset replaces recordings", "leave files and --index out")
        elif (self.out is None) == (self.index is None):
            raise UsageError(
                "give --out to write vectors, or --index and --query to search", "see embed --help"
            )
        elif self.index is not None and (files or not self.query):
            raise UsageError("with --index recordings are given by --query", "--query new.wav")
        elif self.out is not None and self.query:
            raise UsageError("--query needs --index", "name the recordings without an option")
        if self.out is not None:
            check_suffix(self.out)
            check_output(self.out, is_folder=False)


@grouped
def embed(
    files: FilesArgument = None,
    run: RunOption = "",
    options: EmbedOptions = EmbedOptions(),
    windows: WindowOptions = WindowOptions(),
    model: BudgetOptions = BudgetOptions(),
    json_output: JsonOption = False,
) -> None:
    """Turn recordings into vectors, or search for similar ones.

    A search finds the nearest recordings by the cosine of their vectors. An index records its
    model, patch size, resolution and window, and queries with others are refused. With
    --dataset the quality of the vectors is measured: mean average precision of retrieval, and the
    equal error rate of telling pairs of one class from others (speaker verification); the classes
    need not be those of the training. Recordings that cannot be read are listed at the end (exit
    code 3); Ctrl-C keeps what is done (exit code 130).

    Example: elastictool embed recordings/ --out all.npz

    Example: elastictool embed --index all.npz --query new.wav

    Example: elastictool embed --dataset fsdd-speaker
    """
    from elastictool.inference.vectors import EmbeddingMeta, read_vectors

    files, run = split_run(files, run)
    options.check(files)
    rule = window_rule(windows)
    if options.dataset:
        _measure(open_model(run, model), options, rule, json_output)
        return
    paths = expand_files(options.query or files)
    table = None if options.index is None else read_vectors(options.index)
    loaded = open_model(run, model)
    meta = EmbeddingMeta.of(loaded.run, rule)
    if table is not None and options.index is not None:
        if table.meta is not None:
            table.meta.check_compatible(meta, options.index)
        else:
            log(f"note: {options.index} does not record what made it: use the same run and options")
    log(counted(len(paths), "recording"))
    found, stopped = collect(
        lambda stop: loaded.embeddings(paths, rule, progress=progress(), stop=stop)
    )
    if table is not None:
        document = _search(table, found, options.top)
    else:
        document = _write(options.out, found, meta, stopped)
    if json_output:
        print_json(document)
    elif table is not None:
        _show(document)
    finish(found, len(paths), stopped)


def _measure(
    model: ElasticModel, options: EmbedOptions, rule: WindowRule, json_output: bool
) -> None:
    from elastictool.evaluation.retrieval import measure_retrieval
    from elastictool.evaluation.run_data import split_clips
    from elastictool.inference.vectors import EmbeddingMeta, EmbeddingTable, write_vectors

    loaded = model.run
    store = open_data(options.dataset, loaded)
    log(f"dataset {store.path}, {options.split} split")
    note_other_data([loaded], store)
    clips = split_clips(loaded, store, options.split, same_classes=False)
    result = measure_retrieval(model, store, clips, rule, progress())
    if options.out is not None:
        meta = EmbeddingMeta.of(loaded, rule)
        write_vectors(options.out, EmbeddingTable(result.names, result.vectors, meta))
        log(f"wrote {options.out}")
    if json_output:
        print_json(result.document() | {"run": str(loaded.path), "dataset": str(store.path)})
        return
    measured = result.document()
    rows = [
        ("clips", str(len(result.names))),
        ("retrieval mAP, %", percent(measured["retrieval_map"])),
        ("equal error rate, %", percent(measured["equal_error_rate"])),
        ("pairs (of one class)", f"{result.pairs:,} ({result.same_pairs:,})"),
    ]
    print_table("embeddings", ("measure", "value"), rows)
    if not result.same_pairs:
        log("note: no two clips share a class, so neither measure is defined: take other data")
    elif result.same_pairs == result.pairs:
        log("note: all clips are of one class, so there is no equal error rate: take other data")


def _write(
    out: Path | None, found: Sequence[Windows], meta: EmbeddingMeta, stopped: bool
) -> dict[str, Any]:
    """Writes the vectors of what could be read; returns a summary."""
    import numpy as np

    from elastictool.inference.vectors import EmbeddingTable, write_vectors

    good = [item for item in found if not item.error]
    if out is not None and good:
        vectors = np.stack([item.mean for item in good])
        write_vectors(out, EmbeddingTable(tuple(item.name for item in good), vectors, meta))
        log(f"wrote {counted(len(vectors), 'vector')} of {vectors.shape[1]} values to {out}")
        if out.suffix.lower() == ".npy" and len(good) < len(found):
            log(f"note: {out} has rows only for the recordings that could be read, in order")
    return {
        "out": str(out) if good else None,
        "recordings": len(good),
        "width": len(good[0].mean) if good else None,
        "names": [item.name for item in good],
        "failures": {item.name: item.error for item in found if item.error},
        "losses": {item.name: dict(item.losses) for item in found if item.losses},
        "interrupted": stopped,
    }


def _search(table: EmbeddingTable, found: Sequence[Windows], top: int) -> dict[str, Any]:
    """Returns for each recording the nearest ones, or why there are none."""
    import numpy as np

    good = [item for item in found if not item.error]
    nearest = table.nearest(np.stack([item.mean for item in good]), top) if good else []
    document: dict[str, Any] = {item.name: {"error": item.error} for item in found if item.error}
    for item, matches in zip(good, nearest, strict=True):
        document[item.name] = [
            {"recording": name, "cosine": finite(cosine)} for name, cosine in matches
        ]
    return document


def _show(document: dict[str, Any]) -> None:
    for query, matches in document.items():
        if isinstance(matches, list):
            rows = [(hit["recording"], f"{hit['cosine']:.4f}") for hit in matches]
            print_table(f"nearest to {query}", ("recording", "cosine"), rows)
