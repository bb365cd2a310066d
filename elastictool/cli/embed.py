"""``elastictool embed``: vectors of recordings, and the nearest recordings to others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from elastictool.cli.predict import (
    FilesArgument,
    HopOption,
    RunOption,
    WindowOption,
    load_model,
    recordings,
    report_failures,
)
from elastictool.errors import UsageError
from elastictool.files import check_output
from elastictool.reporting.tables import counted

if TYPE_CHECKING:
    from elastictool.inference.model import ElasticModel, Windows
    from elastictool.inference.vectors import EmbeddingTable


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
    """Turn recordings into vectors, or find the nearest recordings by the cosine of theirs.

    With --dataset it says how well vectors find what belongs together: mean average precision of
    retrieval, and the equal error rate of telling pairs of one class from others (speaker
    verification).

    Examples: elastictool embed recordings/ --out all.npz;
    elastictool embed --index all.npz --query new.wav; elastictool embed --dataset fsdd-speaker
    """
    if dataset:
        if files or index is not None or query:
            raise UsageError("--dataset stands for the recordings", "leave files and --index out")
        _check_out(out)
        model = load_model(run, which, attention, precision, device, patch_size, resolution)
        _measure(model, dataset, split, out, json_output)
        return
    _check(files, out, index, query)
    names = list(query or files or [])
    paths, rule = recordings(names, window, hop)
    table = _read(index)
    model = load_model(run, which, attention, precision, device, patch_size, resolution)
    say(counted(len(paths), "recording"))
    found = list(model.embeddings(paths, rule, progress()))
    good = [item for item in found if not item.error]
    if out is not None and good:
        _write(out, good, json_output)
    if table is not None and good:
        _search(table, good, top, json_output)
    report_failures([(item.name, item.error) for item in found if item.error], len(found))


def _measure(
    model: ElasticModel,
    dataset: str,
    split: Split,
    out: Path | None,
    json_output: bool,
) -> None:
    from elastictool.evaluation.evaluate import split_clips
    from elastictool.evaluation.retrieval import measure_retrieval
    from elastictool.inference.vectors import write_vectors

    loaded = model.run
    store = open_data(dataset, loaded)
    say(f"dataset {store.path}, {split.value} split")
    tell_other_data([loaded], store)
    result = measure_retrieval(model, store, split_clips(loaded, store, split.value), progress())
    if out is not None:
        write_vectors(out, result.names, result.vectors)
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


def _write(out: Path, found: list[Windows], json_output: bool) -> None:
    import numpy as np

    from elastictool.inference.vectors import write_vectors

    vectors = np.stack([item.mean for item in found])
    write_vectors(out, [item.name for item in found], vectors)
    say(f"wrote {counted(len(vectors), 'vector')} of {vectors.shape[1]} values to {out}")
    if json_output:
        print_json({"out": str(out), "recordings": len(vectors), "width": vectors.shape[1]})


def _read(index: Path | None) -> EmbeddingTable | None:
    """The index, before a model is loaded for it."""
    from elastictool.inference.vectors import read_vectors

    return None if index is None else read_vectors(index)


def _search(table: EmbeddingTable, found: list[Windows], top: int, json_output: bool) -> None:
    import numpy as np

    nearest = table.nearest(np.stack([item.mean for item in found]), top)
    if json_output:
        print_json(
            {
                item.name: [{"recording": name, "cosine": cosine} for name, cosine in places]
                for item, places in zip(found, nearest, strict=True)
            }
        )
        return
    for item, places in zip(found, nearest, strict=True):
        rows = [(name, f"{cosine:.4f}") for name, cosine in places]
        print_table(f"nearest to {item.name}", ("recording", "cosine"), rows)
