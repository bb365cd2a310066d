"""``elastictool embed``: vectors of recordings, and the nearest recordings to others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from elastictool.cli.console import print_json, print_table, progress, say
from elastictool.cli.evaluate import (
    AttentionOption,
    Checkpoint,
    CheckpointOption,
    DeviceOption,
    JsonOption,
    PatchSizeOption,
    Precision,
    PrecisionOption,
    ResolutionOption,
    Split,
    SplitOption,
    open_data,
    tell_other_data,
)
from elastictool.cli.recordings import (
    FilesArgument,
    HopOption,
    RunOption,
    WindowOption,
    finish,
    load_model,
    recordings,
    until_stopped,
)
from elastictool.reporting.tables import counted
from elastictool.utils.errors import UsageError
from elastictool.utils.io import check_output, finite

if TYPE_CHECKING:
    from elastictool.inference.model import ElasticModel
    from elastictool.inference.results import WindowRule, Windows
    from elastictool.inference.vectors import EmbeddingMeta, EmbeddingTable


def embed(
    files: FilesArgument = None,
    run: RunOption = "",
    out: Annotated[
        Path | None, typer.Option(help="Write the vectors: .npz, .parquet (with names) or .npy.")
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="Search this .npz or .parquet instead of writing one.")
    ] = None,
    query: Annotated[
        list[str] | None, typer.Option(help="Recording to look for in the index; repeatable.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Nearest recordings to name.")] = 5,
    dataset: Annotated[
        str,
        typer.Option("--dataset", "-d", help="Measure the vectors of a prepared dataset instead."),
    ] = "",
    split: SplitOption = Split.test,
    window: WindowOption = 0.0,
    hop: HopOption = 0.0,
    patch_size: PatchSizeOption = None,
    resolution: ResolutionOption = None,
    which: CheckpointOption = Checkpoint.best,
    attention: AttentionOption = "auto",
    precision: PrecisionOption = Precision.fp32,
    device: DeviceOption = "auto",
    json_output: JsonOption = False,
) -> None:
    """Turn recordings into vectors, or search for similar ones.

    With --dataset it says how well vectors find what belongs together: mean average precision of
    retrieval, and the equal error rate of telling pairs of one class from others (speaker
    verification); the classes need not be those of the training. An index knows what made it, and
    queries of another model, budget or window are refused. A recording that cannot be read is
    named at the end (exit code 3); Ctrl-C ends with what is done (exit code 130).

    Examples: elastictool embed recordings/ --out all.npz;
    elastictool embed --index all.npz --query new.wav; elastictool embed --dataset fsdd-speaker
    """
    if dataset:
        if files or index is not None or query:
            raise UsageError("--dataset stands for the recordings", "leave files and --index out")
        _check_out(out)
        rule = _rule(window, hop)
        model = load_model(run, which, attention, precision, device, patch_size, resolution)
        _measure(model, dataset, split, rule, out, json_output)
        return
    _check(files, out, index, query)
    paths, rule = recordings(list(query or files or []), window, hop)
    table = _read(index)
    model = load_model(run, which, attention, precision, device, patch_size, resolution)
    origin = _origin(model, rule)
    if table is not None and index is not None:
        check_compatible(table, origin, index)
    say(counted(len(paths), "recording"))
    found, stopped = until_stopped(
        lambda stop: model.embeddings(paths, rule, progress=progress(), stop=stop)
    )
    document = (
        _search(table, found, top) if table is not None else _write(out, found, origin, stopped)
    )
    if json_output:
        print_json(document)
    elif table is not None:
        _show(document)
    failures = [(item.name, item.error) for item in found if item.error]
    finish(failures, len(found), len(paths), stopped)


def _measure(
    model: ElasticModel,
    dataset: str,
    split: Split,
    rule: WindowRule,
    out: Path | None,
    json_output: bool,
) -> None:
    from elastictool.evaluation.evaluate import clips_of
    from elastictool.evaluation.retrieval import measure_retrieval
    from elastictool.inference.vectors import EmbeddingTable, write_vectors

    loaded = model.run
    store = open_data(dataset, loaded)
    say(f"dataset {store.path}, {split.value} split")
    tell_other_data([loaded], store)
    clips = clips_of(loaded, store, split.value)
    result = measure_retrieval(model, store, clips, rule, progress())
    if out is not None:
        write_vectors(out, EmbeddingTable(result.names, result.vectors, _origin(model, rule)))
        say(f"wrote {out}")
    if json_output:
        print_json(result.document() | {"run": str(loaded.path), "dataset": str(store.path)})
        return
    rows = [
        ("clips", str(len(result.names))),
        ("retrieval mAP", f"{result.retrieval_map:.1%}"),
        ("equal error rate", f"{result.equal_error_rate:.1%}"),
        ("pairs (of one class)", f"{result.pairs:,} ({result.same_pairs:,})"),
    ]
    print_table("embeddings", ("measure", "value"), rows)


def _check(
    files: list[str] | None, out: Path | None, index: Path | None, query: list[str] | None
) -> None:
    if (out is None) == (index is None):
        raise UsageError(
            "give --out to write vectors, or --index and --query to search", "see embed --help"
        )
    if index is not None and (files or not query):
        raise UsageError("with --index recordings are given by --query", "--query new.wav")
    if out is not None and query:
        raise UsageError("--query needs --index", "name the recordings without an option")
    _check_out(out)


def _check_out(out: Path | None) -> None:
    from elastictool.inference.vectors import check_suffix

    if out is not None:
        check_suffix(out)
        check_output(out, is_folder=False)


def _rule(window: float, hop: float) -> WindowRule:
    from elastictool.inference.results import WindowRule

    return WindowRule(window, hop)


def _origin(model: ElasticModel, rule: WindowRule) -> EmbeddingMeta:
    from elastictool.inference.vectors import EmbeddingMeta

    return EmbeddingMeta.of(model.run, rule)


def _read(index: Path | None) -> EmbeddingTable | None:
    """The index, before a model is loaded for it."""
    from elastictool.inference.vectors import read_vectors

    return None if index is None else read_vectors(index)


def check_compatible(table: EmbeddingTable, origin: EmbeddingMeta, index: Path) -> None:
    """The index must be of what the queries will be of, before they are computed."""
    if table.origin is not None:
        table.origin.require(origin, index)
    else:
        say(f"note: {index} does not say what made it: it must have been the same run and options")


def _write(
    out: Path | None, found: Sequence[Windows], origin: EmbeddingMeta, stopped: bool
) -> dict[str, Any]:
    """Write what could be read; says what is where."""
    import numpy as np

    from elastictool.inference.vectors import EmbeddingTable, write_vectors

    good = [item for item in found if not item.error]
    if out is not None and good:
        vectors = np.stack([item.mean for item in good])
        write_vectors(out, EmbeddingTable(tuple(item.name for item in good), vectors, origin))
        say(f"wrote {counted(len(vectors), 'vector')} of {vectors.shape[1]} values to {out}")
        if out.suffix.lower() == ".npy" and len(good) < len(found):
            say(f"note: the rows of {out} are those of the recordings that could be read, in order")
    return {
        "out": str(out) if good else None,
        "recordings": len(good),
        "width": len(good[0].mean) if good else None,
        "names": [item.name for item in good],
        "failures": {item.name: item.error for item in found if item.error},
        "interrupted": stopped,
    }


def _search(table: EmbeddingTable, found: Sequence[Windows], top: int) -> dict[str, Any]:
    """For each recording the nearest ones, or why there are none."""
    import numpy as np

    good = [item for item in found if not item.error]
    nearest = table.nearest(np.stack([item.mean for item in good]), top) if good else []
    document: dict[str, Any] = {item.name: {"error": item.error} for item in found if item.error}
    for item, places in zip(good, nearest, strict=True):
        document[item.name] = [
            {"recording": name, "cosine": finite(cosine)} for name, cosine in places
        ]
    return document


def _show(document: dict[str, Any]) -> None:
    for query, places in document.items():
        if isinstance(places, list):
            rows = [(place["recording"], f"{place['cosine']:.4f}") for place in places]
            print_table(f"nearest to {query}", ("recording", "cosine"), rows)
