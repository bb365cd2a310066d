"""Fill the tables of ``docs/performance.md`` from committed measurements.

    python -m benchmarks.performance            write them
    python -m benchmarks.performance --check    fail if the committed page has other tables

The page's text is written by hand; the tables stand between markers. Only JSON files below
``docs/results`` are read. A part without a file has not been measured, and its place says so.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.pages import RESULTS, ROOT, fill, made_by
from benchmarks.study_tables import claim_lines
from elastictool.reporting.tables import markdown_table
from elastictool.utils.io import write_text

PAGE = ROOT / "docs" / "performance.md"
FOLDER = RESULTS / "performance"
NO_GPU = "not measured: no GPU was available"

Document = dict[str, Any]

CPU_TARGETS = {
    ("training step", "fp32"): 2.4,
    ("training step", "bf16"): 5.0,
    ("inference", "fp32"): 2.4,
    ("inference", "bf16"): 6.5,
}
"""Speed of ``split`` against ``reference`` in float32."""


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


def utilisation(gpu: Document) -> float | None:
    """Return the model-FLOPs utilisation in the shortest step of 64 k tokens or more."""
    rows = [row for row in _as_trained(gpu, "training") if row["tokens"] >= 64_000]
    if not rows:
        return None
    found: float = min(rows, key=lambda row: row["tokens"])["model_flops_utilisation"]
    return found


def against_dense_mask(gpu: Document) -> float | None:
    """Return the speed against ``reference`` with rows of 2,048 tokens and float32 masks."""
    rows = _as_trained(gpu, "dense_mask")
    return rows[0]["speed_against_reference"] if rows else None


def _as_trained(gpu: Document, part: str) -> list[Document]:
    """Return the rows of the backend that ``auto`` takes there, compiled."""
    name = f"{gpu['model']['attention']}, compiled"
    return [row for row in gpu[part] if row["attention"] == name]


def input_share(gpu: Document) -> float | None:
    """Return seconds of a step's features over seconds of the step."""
    return gpu["input"][0]["share_of_step"] if gpu["input"] else None


def memory_bend(gpu: Document) -> float | None:
    """Return the largest over the smallest memory per token; 1 is linear."""
    values = [row["peak_memory_mb"] / row["tokens"] for row in gpu["memory"]]
    return max(values) / min(values) if len(values) > 1 else None


GPU_TARGETS = (
    GpuTarget(
        "model-FLOPs utilisation: base model, bf16, compiled, 64 k tokens a step or more",
        "45 % or more",
        utilisation,
        lambda value: value >= 0.45,
        "{:.0%}",
    ),
    GpuTarget(
        "tokens/s against the dense mask at L′ = 2,048",
        "5× or more",
        against_dense_mask,
        lambda value: value >= 5,
        "{:.1f}×",
    ),
    GpuTarget(
        "features on the device, share of a step", "below 3 %", input_share,
        lambda value: value < 0.03, "{:.1%}",
    ),
    GpuTarget(
        "memory linear in tokens: most over least memory a token, 16 k to 128 k tokens",
        "below 1.1", memory_bend, lambda value: value < 1.1, "{:.2f}",
    ),
)  # fmt: skip


def backends(document: Document) -> str:
    """Return the table of attention backends, and that of the targets."""
    rows = [
        [
            row["mode"],
            row["precision"],
            f"`{row['attention']}`",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['speed_against_reference']:.2f}×",
            f"{row['speed_against_fp32']['reference']:.2f}×",
            f"{row['speed_against_fp32']['rows-sdpa']:.2f}×",
        ]
        for row in document["results"]
    ]
    columns = [
        "", "precision", "backend", "tokens/s", "against `reference`",
        "against `reference` in fp32", "against `rows-sdpa` in fp32",
    ]  # fmt: skip
    head = "\nTargets of `split` against `reference` in fp32:\n\n"
    return markdown_table(columns, rows) + head + cpu_targets(document)


def cpu_targets(document: Document) -> str:
    """Return each target, the speed found, and whether it is reached."""
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
    columns = [
        "", "target", "against `reference`", "", "against the harder `rows-sdpa`", "",
    ]  # fmt: skip
    return markdown_table(columns, rows)


def precision(study: Document) -> str:
    """Return the verdicts on the accuracy of bf16."""
    return claim_lines(study) + f"\n`{study['command']}`\n"


def spread(document: Document) -> str:
    """Return the throughput of the paths by the spread of lengths."""
    paths = list(dict.fromkeys(row["path"] for row in document["rows"]))
    spreads = list(dict.fromkeys(row["spread"] for row in document["rows"]))
    found = {(row["spread"], row["path"]): row for row in document["rows"]}
    rows = []
    for value in spreads:
        segments = found[value, "segments"]
        cells = [
            f"{row['tokens_per_second']:,.0f} ({row['padding_share']:.0%})"
            for row in (found[value, path] for path in paths)
        ]
        gain = f"{segments['speed_against_padded']:.1f}×"
        rows.append([f"{value:g}", str(segments["longest"]), *cells, gain])
    return markdown_table(
        ["spread", "longest clip, tokens", *paths, "segments against padded"], rows
    )


def memory(document: Document) -> str:
    """Return the memory kept for the backward pass, by tokens."""
    rows = [
        [
            row["clips"],
            f"`{row['attention']}`",
            f"{row['tokens']:,}",
            f"{row['kept_mb']:,.1f}",
            f"{row['kept_kb_per_token']:.1f}",
        ]
        for row in document["rows"]
    ]
    return markdown_table(["clips", "attention", "tokens", "MB", "kB a token"], rows)


def epochs(document: Document) -> str:
    """Return the time of planning an epoch by its number of clips."""
    rows = [
        [
            f"{row['clips']:,}",
            f"{row['first_batch_s']:.3f}",
            f"{row['all_batches_s']:.2f}",
            f"{1e6 * row['all_batches_s'] / row['clips']:.1f}",
            "–" if row["peak_memory_mb"] is None else f"{row['peak_memory_mb']:,.0f}",
        ]
        for row in document["rows"]
    ]
    columns = ["clips", "first batch after, s", "all batches, s", "µs a clip", "MB"]
    return markdown_table(columns, rows)


def planning(document: Document) -> str:
    """Return the time of packing alone, from the planners' own benchmark."""
    wanted = ("first-come", "balanced", "best-fit-decreasing")
    rows = [
        [
            f"{row['clips']:,}",
            f"`{row['planner']}`",
            f"{row['plan_s']:.3f}",
            f"{row['lists_s']:.3f}",
        ]
        for row in document["rows"]
        if row["planner"] in wanted and row["batch_clips"] == 48 and row["source"] == "epic-sounds"
    ]
    return markdown_table(["clips", "planner", "plan, s", "as lists of rows, s"], rows)


def processes(document: Document) -> str:
    """Return the speed of training by one and by several processes of one machine."""
    rows = [
        [
            str(row["processes"]),
            f"{row['seconds_per_step']:.2f}",
            f"{row['clips_per_second']:.1f}",
            f"{row['speed_up']:.2f}×",
            *(
                "–" if row["processes"] == 1 else f"{100 * row[what]:.1f}"
                for what in ("summing_share", "waiting_share")
            ),
        ]
        for row in document["rows"]
    ]
    columns = [
        "processes", "s a step", "clips/s", "speed-up",
        "summing gradients, % of a step", "waiting for the others, %",
    ]  # fmt: skip
    return markdown_table(columns, rows)


def ranks(document: Document) -> str:
    """Return the simulated imbalance between ranks."""
    found = {(row["clips_per_rank"], row["ranks"], row["shared"]): row for row in document["rows"]}
    sizes = dict.fromkeys(row["clips_per_rank"] for row in document["rows"])
    counts = dict.fromkeys(row["ranks"] for row in document["rows"])
    ways = [(size, way) for size in sizes for way in ("in turn", "balanced")]
    rows = [
        [
            str(count),
            *(f"{100 * found[size, count, way]['mean_imbalance']:.2f}" for size, way in ways),
        ]
        for count in counts
    ]
    return markdown_table(["ranks", *(f"{size} clips a rank, {way}" for size, way in ways)], rows)


def loading(document: Document) -> str:
    """Return times of the loader's stages and of loading ahead, and the losses of both sides."""
    stages = [[row["stage"], f"{row['ms_per_10_s']:.2f}"] for row in document["rows"]]
    ahead = [[row["batches"], f"{row['seconds']:.2f}"] for row in document["ahead"]]
    sides = [[f"`{row['fbank_on']}`", f"{row['validation_loss']:.6f}"] for row in document["sides"]]
    return "\n".join(
        (
            markdown_table(["stage", "ms"], stages),
            markdown_table(["batches (`train.prefetch=2`)", "wall time, s"], ahead),
            markdown_table(["features on", "validation loss after an epoch"], sides),
        )
    )


def loader(document: Document) -> str:
    """Return the speed of the loader alone against what the base model consumes."""
    rows = [
        [
            row["contender"],
            f"{row['clips_per_second']:,.1f}",
            f"{row['tokens_per_second']:,.0f}",
            "" if row["times_consumed"] is None else f"{row['times_consumed']:.0f}×",
        ]
        for row in document["rows"]
    ]
    return markdown_table(["", "clips/s", "tokens/s", "of what the model consumes"], rows)


def others(document: Document) -> str:
    """Return the clips a second of ours and of Hugging Face's AST."""
    rows = [
        [
            "training step" if row["part"] == "train" else row["part"],
            row["contender"],
            f"{row['clips_per_second']:,.2f}",
            f"{row['clips_per_second'] / padded_rate(document, row['part']):.2f}×",
        ]
        for row in document["rows"]
    ]
    return markdown_table(["", "", "clips/s", "against HF"], rows)


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
    rows = [
        [
            f"16 to {row['size']}",
            *(f"{row[key]:.2f}" for key in ("rebuilt_ms", "dense_ms", "elastictool_ms")),
            f"{row['rebuilt_ms'] / row['elastictool_ms']:.0f}×",
            f"{row['largest_difference']:.0e}",
        ]
        for row in document["rows"]
    ]
    columns = ["patch size", "rebuilt, ms", "dense, kept, ms", "elastictool, ms"]
    return markdown_table([*columns, "rebuilt / elastictool", "largest difference"], rows)


def filterbank(document: Document) -> str:
    """Return the time of log-mel frames and of torchaudio's."""
    rows = [
        [
            f"{row['shift_ms']:g} ms",
            f"{row['torchaudio_ms']:.2f}",
            f"{row['elastictool_ms']:.2f}",
            f"{row['ratio']:.2f}×",
            f"{row['largest_difference']:.0e}",
        ]
        for row in document["rows"]
    ]
    columns = ["frame shift", "torchaudio, ms", "elastictool, ms", "faster", "largest difference"]
    return markdown_table(columns, rows)


def sharing(document: Document) -> str:
    """Return the time of a training step alone and beside other processes."""
    rows = [
        [row["waiting"], f"{row['alone_ms']:,.1f}", f"{row['beside_ms']:,.1f}"]
        for row in document["rows"]
    ]
    return markdown_table(["threads wait as", "alone, ms", "next to other work, ms"], rows)


def gpu_section(document: Document | None) -> str:
    """Return the targets and, if there are any, the measurements."""
    rows = [[target.what, target.wanted, *_found(target, document)] for target in GPU_TARGETS]
    table = markdown_table(["target (H200 class)", "wanted", "found", ""], rows)
    if document is None:
        return (
            "The CUDA paths (`varlen`, `flex`, features on the device, pinned memory, loading "
            "ahead, compiled\nblocks) have been tested on a CPU only, and `elastictool doctor` "
            f"says so.\n\n{table}\nOne command checks and measures them, and starts no measurement "
            "after seven minutes:\n`python -m benchmarks.gpu --json docs/results/gpu.json`; then "
            "`python -m benchmarks.performance`\nfills this part in.\n"
        )
    parts = (_agreement(document), _gpu_loader(document), _gpu_tables(document))
    return (
        f"{table}\nThe first two are of the attention that `auto` takes there, "
        f"`{document['model']['attention']}`, with compiled blocks. Source revision: "
        f"{document.get('git_revision') or 'unknown'}.\n\n"
        + "\n".join(filter(None, parts))
        + made_by(document)
    )


def _found(target: GpuTarget, document: Document | None) -> tuple[str, str]:
    if document is None:
        return NO_GPU, ""
    value = target.found(document)
    if value is None:
        return "not measured", ""
    return target.shown.format(value), _verdict(target.reached(value))


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


def _gpu_tables(document: Document) -> str:
    steps = [
        [
            f"{row['tokens']:,}",
            f"`{row['attention']}`",
            f"{row['tokens_per_second']:,.0f}",
            f"{row['model_flops_utilisation']:.0%}",
        ]
        for row in document["training"] + document["dense_mask"]
    ]
    kept = [[f"{row['tokens']:,}", f"{row['peak_memory_mb']:,.0f}"] for row in document["memory"]]
    return (
        markdown_table(["tokens a step", "attention", "tokens/s", "of matmul peak"], steps)
        + "\n"
        + markdown_table(["tokens a step", "peak MB"], kept)
    )


def _verdict(reached: bool) -> str:
    return "reached" if reached else "**missed**"


Section = Callable[[Document], str]
SECTIONS: dict[str, tuple[Path, Section]] = {
    "attention": (FOLDER / "attention.json", backends),
    "others": (FOLDER / "others.json", others),
    "spread": (FOLDER / "spread.json", spread),
    "memory": (FOLDER / "memory.json", memory),
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
        text = fill(text, "precision", precision(study))
    return fill(text, "gpu", gpu_section(read(RESULTS / "gpu.json")))


def read(path: Path) -> Document | None:
    """Read a measurement; None without a file."""
    if not path.exists():
        return None
    document: Document = json.loads(path.read_text("utf-8"))
    return document


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
