"""Fill the tables of ``docs/performance.md`` from committed measurements.

    python -m benchmarks.performance            write them
    python -m benchmarks.performance --check    fail if the committed page has other tables

The page's text is written by hand; the tables stand between markers. Only JSON files below
``docs/results`` are read. A part without a file is listed as not measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.pages import RESULTS, ROOT, fill, made_by
from benchmarks.study_tables import claim_lines
from elastictool.reporting.tables import markdown_table, read_json
from elastictool.utils.io import write_text

PAGE = ROOT / "docs" / "performance.md"
FOLDER = RESULTS / "performance"
NO_GPU = "not measured: no GPU was available"

Document = dict[str, Any]
Section = Callable[[Document], str]

CPU_TARGETS = {
    ("training step", "fp32"): 2.4,
    ("training step", "bf16"): 5.0,
    ("inference", "fp32"): 2.4,
    ("inference", "bf16"): 6.5,
}
"""Speed of ``split`` against ``reference`` in float32."""
Columns = Sequence[tuple[str, str]]
"""Head of each column, and the format of its cells, which names keys of a row."""


@dataclass(frozen=True)
class GpuTarget:
    """A target for a GPU of the H200 class.

    Attributes:
        what: What is measured.
        wanted: The target in words.
        found: Reads the value from a document of ``benchmarks/gpu.py``; None without one.
        reached: Whether a value reaches the target.
        shown: Format of the value.
    """

    what: str
    wanted: str
    found: Callable[[Document], float | None]
    reached: Callable[[float], bool]
    shown: str


def _as_trained(gpu: Document, part: str) -> list[Document]:
    """Return the rows of the backend that ``auto`` takes there, compiled."""
    name = f"{gpu['model']['attention']}, compiled"
    return [row for row in gpu[part] if row["attention"] == name]


def utilisation(gpu: Document) -> float | None:
    """Return the model-FLOPs utilisation in the shortest step of 64 k tokens or more."""
    rows = [row for row in _as_trained(gpu, "training") if row["tokens"] >= 64_000]
    shortest = min(rows, key=lambda row: row["tokens"], default={"model_flops_utilisation": None})
    found: float | None = shortest["model_flops_utilisation"]
    return found


def against_dense_mask(gpu: Document) -> float | None:
    """Return the speed against ``reference`` with rows of 2,048 tokens and float32 masks."""
    rows = _as_trained(gpu, "dense_mask")
    return rows[0]["speed_against_reference"] if rows else None


def memory_bend(gpu: Document) -> float | None:
    """Return the largest over the smallest memory per token; 1 is linear."""
    values = [row["peak_memory_mb"] / row["tokens"] for row in gpu["memory"]]
    return max(values) / min(values) if len(values) > 1 else None


GPU_TARGETS = (
    GpuTarget(
        "model-FLOPs utilisation: base model, bf16, compiled, 64 k tokens a step or more",
        "45 % or more", utilisation, lambda value: value >= 0.45, "{:.0%}",
    ),
    GpuTarget(
        "tokens/s against the dense mask at L′ = 2,048",
        "5× or more", against_dense_mask, lambda value: value >= 5, "{:.1f}×",
    ),
    GpuTarget(
        "features on the device, share of a step", "below 3 %",
        lambda gpu: gpu["input"][0]["share_of_step"] if gpu["input"] else None,
        lambda value: value < 0.03, "{:.1%}",
    ),
    GpuTarget(
        "memory linear in tokens: most over least memory a token, 16 k to 128 k tokens",
        "below 1.1", memory_bend, lambda value: value < 1.1, "{:.2f}",
    ),
)  # fmt: skip


def table(rows: Iterable[Document], columns: Columns) -> str:
    """Return a Markdown table with a formatted line for each row."""
    cells = [[shown.format_map(row) for _, shown in columns] for row in rows]
    return markdown_table([head for head, _ in columns], cells)


def table_of(*columns: tuple[str, str]) -> Section:
    """Return a section that is one table of the rows of its document."""
    return lambda document: table(document["rows"], columns)


def backends(document: Document) -> str:
    """Return the table of attention backends, and that of the targets of ``split``."""
    columns = (
        ("", "{mode}"),
        ("precision", "{precision}"),
        ("backend", "`{attention}`"),
        ("tokens/s", "{tokens_per_second:,.0f}"),
        ("against `reference`", "{speed_against_reference:.2f}×"),
        ("against `reference` in fp32", "{speed_against_fp32[reference]:.2f}×"),
        ("against `rows-sdpa` in fp32", "{speed_against_fp32[rows-sdpa]:.2f}×"),
    )
    found = {
        (row["mode"], row["precision"]): row["speed_against_fp32"]
        for row in document["results"]
        if row["attention"] == "split"
    }
    rows = []
    for key, wanted in CPU_TARGETS.items():
        row = [", ".join(key), f"{wanted:g}×"]
        for backend in ("reference", "rows-sdpa"):
            speed = found[key][backend]
            row += [f"{speed:.2f}×", _verdict(speed >= wanted)]
        rows.append(row)
    heads = ["", "target", "against `reference`", "", "against the harder `rows-sdpa`", ""]
    return (
        f"{table(document['results'], columns)}\nTargets of `split` against `reference` in fp32:"
        f"\n\n{markdown_table(heads, rows)}"
    )


def spread(document: Document) -> str:
    """Return the throughput of the paths by the spread of lengths."""
    paths = list(dict.fromkeys(row["path"] for row in document["rows"]))
    found = {(row["spread"], row["path"]): row for row in document["rows"]}
    rows = []
    for value in dict.fromkeys(row["spread"] for row in document["rows"]):
        segments = found[value, "segments"]
        cells = [
            f"{row['tokens_per_second']:,.0f} ({row['padding_share']:.0%})"
            for row in (found[value, path] for path in paths)
        ]
        gain = f"{segments['speed_against_padded']:.1f}×"
        rows.append([f"{value:g}", str(segments["longest"]), *cells, gain])
    heads = ["spread", "longest clip, tokens", *paths, "segments against padded"]
    return markdown_table(heads, rows)


memory = table_of(
    ("clips", "{clips}"),
    ("attention", "`{attention}`"),
    ("tokens", "{tokens:,}"),
    ("MB", "{kept_mb:,.1f}"),
    ("kB a token", "{kept_kb_per_token:.1f}"),
)


def epochs(document: Document) -> str:
    """Return the time of planning an epoch by its number of clips."""
    columns = (
        ("clips", "{clips:,}"),
        ("first batch after, s", "{first_batch_s:.3f}"),
        ("all batches, s", "{all_batches_s:.2f}"),
        ("µs a clip", "{us:.1f}"),
        ("MB", "{mb}"),
    )
    rows = []
    for row in document["rows"]:
        peak = row["peak_memory_mb"]
        us = 1e6 * row["all_batches_s"] / row["clips"]
        rows.append(row | {"us": us, "mb": "–" if peak is None else f"{peak:,.0f}"})
    return table(rows, columns)


def planning(document: Document) -> str:
    """Return the time of packing alone, from the planners' own benchmark."""
    wanted = ("first-come", "balanced", "best-fit-decreasing")
    rows = [
        row
        for row in document["rows"]
        if row["planner"] in wanted and row["batch_clips"] == 48 and row["source"] == "epic-sounds"
    ]
    columns = (
        ("clips", "{clips:,}"),
        ("planner", "`{planner}`"),
        ("plan, s", "{plan_s:.3f}"),
        ("as lists of rows, s", "{lists_s:.3f}"),
    )
    return table(rows, columns)


def processes(document: Document) -> str:
    """Return the speed of training by one and by several processes of one machine."""
    columns = (
        ("processes", "{processes}"),
        ("s a step", "{seconds_per_step:.2f}"),
        ("clips/s", "{clips_per_second:.1f}"),
        ("speed-up", "{speed_up:.2f}×"),
        ("summing gradients, % of a step", "{summing}"),
        ("waiting for the others, %", "{waiting}"),
    )
    rows = []
    for row in document["rows"]:
        alone = row["processes"] == 1
        shares = {
            what: "–" if alone else f"{100 * row[f'{what}_share']:.1f}"
            for what in ("summing", "waiting")
        }
        rows.append(row | shares)
    return table(rows, columns)


def ranks(document: Document) -> str:
    """Return the simulated imbalance between ranks."""
    found = {(row["clips_per_rank"], row["ranks"], row["shared"]): row for row in document["rows"]}
    sizes = dict.fromkeys(row["clips_per_rank"] for row in document["rows"])
    ways = [(size, way) for size in sizes for way in ("in turn", "balanced")]
    rows = []
    for count in dict.fromkeys(row["ranks"] for row in document["rows"]):
        over = (found[size, count, way]["mean_imbalance"] for size, way in ways)
        rows.append([str(count), *(f"{100 * share:.2f}" for share in over)])
    return markdown_table(["ranks", *(f"{size} clips a rank, {way}" for size, way in ways)], rows)


def loading(document: Document) -> str:
    """Return times of the loader's stages and of loading ahead, and the losses of both sides."""
    ahead = (("batches (`train.prefetch=2`)", "{batches}"), ("wall time, s", "{seconds:.2f}"))
    losses = ("validation loss after an epoch", "{validation_loss:.6f}")
    return "\n".join(
        (
            table(document["rows"], (("stage", "{stage}"), ("ms", "{ms_per_10_s:.2f}"))),
            table(document["ahead"], ahead),
            table(document["sides"], (("features on", "`{fbank_on}`"), losses)),
        )
    )


def loader(document: Document) -> str:
    """Return the speed of the loader alone against what the base model consumes."""
    columns = (
        ("", "{contender}"),
        ("clips/s", "{clips_per_second:,.1f}"),
        ("tokens/s", "{tokens_per_second:,.0f}"),
        ("of what the model consumes", "{share}"),
    )
    times = [row["times_consumed"] for row in document["rows"]]
    shares = ["" if value is None else f"{value:.0f}×" for value in times]
    rows = zip(document["rows"], shares, strict=True)
    return table((row | {"share": share} for row, share in rows), columns)


def others(document: Document) -> str:
    """Return the clips a second of elastictool's and of Hugging Face's AST."""
    columns = (
        ("", "{what}"),
        ("", "{contender}"),
        ("clips/s", "{clips_per_second:,.2f}"),
        ("against HF", "{gain:.2f}×"),
    )
    rows = []
    for row in document["rows"]:
        gain = row["clips_per_second"] / padded_rate(document, row["part"])
        what = "training step" if row["part"] == "train" else row["part"]
        rows.append(row | {"what": what, "gain": gain})
    return table(rows, columns)


def padded_rate(document: Document, part: str) -> float:
    """Return the clips a second of Hugging Face's AST."""
    rate: float = next(
        row["clips_per_second"]
        for row in document["rows"]
        if row["part"] == part and row["contender"].startswith("HF")
    )
    return rate


def resize(document: Document) -> str:
    """Return the time of PI-resize and of the dense pseudo-inverse."""
    columns = (
        ("patch size", "16 to {size}"),
        ("rebuilt, ms", "{rebuilt_ms:.2f}"),
        ("dense, kept, ms", "{dense_ms:.2f}"),
        ("elastictool, ms", "{elastictool_ms:.2f}"),
        ("rebuilt / elastictool", "{gain:.0f}×"),
        ("largest difference", "{largest_difference:.0e}"),
    )
    rows = (r | {"gain": r["rebuilt_ms"] / r["elastictool_ms"]} for r in document["rows"])
    return table(rows, columns)


filterbank = table_of(
    ("frame shift", "{shift_ms:g} ms"),
    ("torchaudio, ms", "{torchaudio_ms:.2f}"),
    ("elastictool, ms", "{elastictool_ms:.2f}"),
    ("faster", "{ratio:.2f}×"),
    ("largest difference", "{largest_difference:.0e}"),
)
sharing = table_of(
    ("threads wait as", "{waiting}"),
    ("alone, ms", "{alone_ms:,.1f}"),
    ("next to other work, ms", "{beside_ms:,.1f}"),
)


def gpu_section(document: Document | None) -> str:
    """Return the targets and, if there are any, the measurements."""
    rows = []
    for target in GPU_TARGETS:
        value = None if document is None else target.found(document)
        found = (NO_GPU if document is None else "not measured", "")
        if value is not None:
            found = (target.shown.format(value), _verdict(target.reached(value)))
        rows.append([target.what, target.wanted, *found])
    targets = markdown_table(["target (H200 class)", "wanted", "found", ""], rows)
    if document is None:
        return (
            "The CUDA paths (`varlen`, `flex`, features on the device, pinned memory, loading "
            "ahead, compiled\nblocks) have been tested on a CPU only, and `elastictool doctor` "
            f"says so.\n\n{targets}\nOne command checks and measures them, and starts no "
            "measurement after seven minutes:\n`python -m benchmarks.gpu --json "
            "docs/results/gpu.json`; then "
            "`python -m benchmarks.performance`\nfills this part in.\n"
        )
    steps = (
        ("tokens a step", "{tokens:,}"),
        ("attention", "`{attention}`"),
        ("tokens/s", "{tokens_per_second:,.0f}"),
        ("of matmul peak", "{model_flops_utilisation:.0%}"),
    )
    peaks = (("tokens a step", "{tokens:,}"), ("peak MB", "{peak_memory_mb:,.0f}"))
    parts = (
        _agreement(document),
        _gpu_loader(document),
        table(document["training"] + document["dense_mask"], steps),
        table(document["memory"], peaks),
    )
    return (
        f"{targets}\nThe first two are of the attention that `auto` takes there, "
        f"`{document['model']['attention']}`, with compiled blocks. Source revision: "
        f"{document.get('git_revision') or 'unknown'}.\n\n"
        + "\n".join(filter(None, parts))
        + made_by(document)
    )


def _agreement(document: Document) -> str:
    rows = document["agreement"]
    good = sum(row["agrees"] for row in rows)
    same = [row["agrees"] for row in document["features"]]
    features = "agree" if all(same) else "do not agree"
    errors = [f"- {e['part']}, {e['job']}: {e['error']}\n" for e in document["errors"]]
    return (
        f"{good} of {len(rows)} backends and precisions agree with `reference` in fp32; features "
        + (f"{features} with the host's.\n" if same else "were not compared.\n")
        + ("\nWithout result:\n\n" + "".join(errors) if errors else "")
    )


def _gpu_loader(document: Document) -> str:
    """Return the speed of the loader against the step, if it was measured."""
    return "".join(
        f"The loader with {row['workers']} workers delivers {row['loaded_tokens_per_second']:,.0f} "
        f"tokens/s (rendered clips, features left to the device), {row['ratio']:.1f} times what "
        f"the compiled model consumes in training ({row['consumed_tokens_per_second']:,.0f} "
        "tokens/s). It should deliver 3 times that.\n"
        for row in document.get("loader", ())
    )


def training_memory(document: Document) -> str:
    """Return the memory of training by precision, and whether the mark is reached."""
    columns = (
        ("training", "{training}"),
        ("peak of epochs 1 and 2, MB", "{early_mb:,.0f}"),
        ("peak of all, MB", "{peak_mb:,.0f}"),
        ("growth after epoch 2", "{growth:.1%}"),
    )
    targets = (
        "bf16 above fp32: {above_fp32_mb:,.0f} MB (mark: 150 at most); its clips a second: "
        "{speed:.0%} of those with products of any shape (mark: 95 % at least): "
    )
    verdict = _verdict(document["reached"])
    return f"{table(document['rows'], columns)}\n{targets.format(**document)}{verdict}\n"


def _verdict(reached: bool) -> str:
    return "reached" if reached else "**missed**"


SECTIONS: dict[str, tuple[Path, Section]] = {
    "attention": (FOLDER / "attention.json", backends),
    "others": (FOLDER / "others.json", others),
    "spread": (FOLDER / "spread.json", spread),
    "memory": (FOLDER / "memory.json", memory),
    "training_memory": (FOLDER / "training_memory.json", training_memory),
    "epochs": (FOLDER / "epochs.json", epochs),
    "planning": (RESULTS / "packing.json", planning),
    "processes": (FOLDER / "processes.json", processes),
    "ranks": (FOLDER / "ranks.json", ranks),
    "input": (FOLDER / "input.json", loading),
    "loader": (FOLDER / "loader.json", loader),
    "fbank": (FOLDER / "fbank.json", filterbank),
    "resize": (FOLDER / "resize.json", resize),
    "sharing": (FOLDER / "sharing.json", sharing),
}
"""Measurements and their tables by the name of the markers."""


def page() -> str:
    """Return the page with its tables as the measurements are now."""
    text = PAGE.read_text("utf-8")
    for name, (file, section) in SECTIONS.items():
        document = read(file)
        content = "Not measured yet.\n"
        if document is not None:
            content = section(document) + made_by(document)
        text = fill(text, name, content)
    if study := read(RESULTS / "precision-digit.json"):
        content = claim_lines(study) + f"\n`{study['command']}`\n"  # the accuracy of bf16
        text = fill(text, "precision", content)
    return fill(text, "gpu", gpu_section(read(RESULTS / "gpu.json")))


def read(path: Path) -> Document | None:
    """Read a measurement; None without a file."""
    return read_json(path) if path.exists() else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if the page is stale")
    text = page()
    if not parser.parse_args(arguments).check:
        write_text(PAGE, text)
    elif PAGE.read_text("utf-8") != text:
        sys.exit("docs/performance.md is stale, run: python -m benchmarks.performance")


if __name__ == "__main__":
    main()
