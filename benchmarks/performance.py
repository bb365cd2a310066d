"""Make ``docs/performance.md`` from committed measurements.

    python -m benchmarks.performance            write it
    python -m benchmarks.performance --check    fail if the committed page is not what this writes

Only JSON files below ``docs/results`` are read. What has no file has not been measured, and the
page says so: a GPU's part fills itself once ``docs/results/gpu.json`` is there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.pages import RESULTS, ROOT, made_by
from benchmarks.study_tables import claim_lines
from elastictool.reporting.tables import markdown_table
from elastictool.utils.io import write_text

PAGE = ROOT / "docs" / "performance.md"
FOLDER = RESULTS / "performance"
GPU = RESULTS / "gpu.json"
PACKING = RESULTS / "packing.json"
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
    """What a GPU of the H200 class should reach.

    Attributes:
        what: In words.
        wanted: In words.
        found: The value in a document of ``benchmarks/gpu.py``; None if it is not there.
        reached: Whether a value is good enough.
        shown: The value in words.
    """

    what: str
    wanted: str
    found: Callable[[Document], float | None]
    reached: Callable[[float], bool]
    shown: str


def utilisation(gpu: Document) -> float | None:
    """Model-FLOPs utilisation in the shortest step of 64 k tokens or more."""
    rows = [row for row in _as_trained(gpu, "training") if row["tokens"] >= 64_000]
    if not rows:
        return None
    found: float = min(rows, key=lambda row: row["tokens"])["model_flops_utilisation"]
    return found


def against_dense_mask(gpu: Document) -> float | None:
    """Speed against ``reference`` at L' = 2,048, float32 masks and all."""
    rows = _as_trained(gpu, "dense_mask")
    return rows[0]["speed_against_reference"] if rows else None


def _as_trained(gpu: Document, part: str) -> list[Document]:
    """Rows of the attention that ``auto`` takes there, compiled; not whichever was fastest."""
    name = f"{gpu['model']['attention']}, compiled"
    return [row for row in gpu[part] if row["attention"] == name]


def input_share(gpu: Document) -> float | None:
    """Seconds of a step's features over seconds of the step."""
    return gpu["input"][0]["share_of_step"] if gpu["input"] else None


def memory_bend(gpu: Document) -> float | None:
    """Largest over smallest memory per token, over lengths of the stream; 1 is linear."""
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


def read(path: Path) -> Document | None:
    """A measurement, or None where there is none."""
    if not path.exists():
        return None
    document: Document = json.loads(path.read_text("utf-8"))
    return document


def page() -> str:
    """The whole text."""
    parts = {name: read(FOLDER / f"{name}.json") for name in SECTIONS}
    text = [INTRODUCTION]
    for name, (title, section) in SECTIONS.items():
        document = parts[name]
        body = "Not measured yet.\n" if document is None else section(document)
        source = "" if document is None else made_by(document)
        text.append(f"\n## {title}\n\n{body}{source}")
        if name == "epochs":
            text.append(planning(read(PACKING)))
    return "".join([*text, "\n## On a GPU\n\n", gpu_section(read(GPU))])


INTRODUCTION = """# Performance

Made by `python -m benchmarks.performance` from the files in `docs/results/performance`. Contenders
of a table took turns in one run, so their ratios carry over to other machines and busy hours;
seconds do not. `elastictool bench` measures the same on your machine. Each command stands below its
table; the csv file that some of them take is EPIC-SOUNDS' own table
([where it is](reproducing.md#the-data-of-scale-small)).
"""


def backends(document: Document) -> str:
    """Attention backends in whole training steps and inference, and the targets."""
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
    model = document["model"]
    shapes = sorted({tuple(shape) for shape in document["padded_rows"]})
    return (
        f"A model {model['width']} wide and {model['depth']} deep, {document['clips']} clips with "
        f"lengths of {document['durations']}, {document['tokens']:,} tokens. `reference` is the "
        "paper's padded rows with a dense mask in plain operations, `rows-sdpa` the same rows and "
        "mask through torch's fused attention, `split` ours: a flat stream, attention segment by "
        f"segment. Rows: {', '.join(f'{b} × {n:,}' for b, n in shapes)}.\n\n"
        + markdown_table(columns, rows)
        + "\nTargets of `split` against `reference` in fp32:\n\n"
        + cpu_targets(document)
        + _bf16_note(document)
    )


def cpu_targets(document: Document) -> str:
    """Each target, what was found, and whether it is reached."""
    found = {
        (row["mode"], row["precision"]): row["speed_against_fp32"]
        for row in document["results"]
        if row["attention"] == "split"
    }
    rows = []
    for (mode, precision), wanted in CPU_TARGETS.items():
        speed = found[mode, precision]
        rows.append(
            [
                f"{mode}, {precision}",
                f"{wanted:g}×",
                f"{speed['reference']:.2f}×",
                _verdict(speed["reference"] >= wanted),
                f"{speed['rows-sdpa']:.2f}×",
                _verdict(speed["rows-sdpa"] >= wanted),
            ]
        )
    columns = [
        "", "target", "against `reference`", "", "against the harder `rows-sdpa`", "",
    ]  # fmt: skip
    return markdown_table(columns, rows)


def _bf16_note(document: Document) -> str:
    speed = {
        (row["mode"], row["precision"]): row["tokens_per_second"]
        for row in document["results"]
        if row["attention"] == "split"
    }
    gain = speed["training step", "bf16"] / speed["training step", "fp32"]
    return (
        f"\nOn this processor bf16 makes `split` {gain:.1f} times as fast in training. How much it "
        "can give depends on the processor: the anchors of these targets were measured on one "
        "with matrix units (AMX), where a bf16 matrix product is six times as fast as fp32.\n"
        + _bf16_accuracy(read(RESULTS / "precision-digit.json"))
    )


def _bf16_accuracy(study: Document | None) -> str:
    """What the study of both precisions found, if it was run."""
    if study is None:
        return ""
    return (
        f"\nWhat it costs in accuracy, trained and evaluated on spoken digits:\n\n"
        f"{claim_lines(study)}\n`{study['command']}`; [results.md](results.md) has every run.\n"
    )


def spread(document: Document) -> str:
    """Throughput of padded, dense-mask and segment paths against the spread of lengths."""
    paths = list(dict.fromkeys(row["path"] for row in document["rows"]))
    spreads = list(dict.fromkeys(row["spread"] for row in document["rows"]))
    found = {(row["spread"], row["path"]): row for row in document["rows"]}
    rows = []
    for value in spreads:
        cells = []
        for path in paths:
            row = found[value, path]
            cells.append(f"{row['tokens_per_second']:,.0f} ({row['padding_share']:.0%})")
        segments = found[value, "segments"]
        rows.append(
            [f"{value:g}", str(segments["longest"]), *cells,
             f"{segments['speed_against_padded']:.1f}×"]
        )  # fmt: skip
    return (
        f"Training steps in fp32, a model 192 wide and 2 deep, {document['clips']} clips of "
        f"{document['mean_seconds']:g} s on average; the spread is the deviation of ln(length). "
        "Tokens/s of real tokens, in brackets the share of padding. `padded`: a clip a row, "
        "fused attention with a mask; `dense mask`: the paper's rows of 2,048 tokens.\n\n"
        + markdown_table(
            ["spread", "longest clip, tokens", *paths, "segments against padded"], rows
        )
    )


def memory(document: Document) -> str:
    """Memory kept for the backward pass, against tokens."""
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
    return (
        "Bytes that autograd keeps of a forward pass (fp32, 192 wide, 2 deep), counted, not timed. "
        "With `split` they are linear in tokens, however many clips there are and however long "
        "each is; a dense mask keeps a weight for every pair of slots in a row. (In bf16 on a CPU "
        "`split` keeps the weights of segments of up to 1,024 tokens, because plain matrix "
        "products are faster there.)\n\n"
        + markdown_table(["clips", "attention", "tokens", "MB", "kB a token"], rows)
    )


def epochs(document: Document) -> str:
    """Planning an epoch by its number of clips."""
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
    return (
        "Everything that training plans for an epoch: order, views, rows of every batch "
        f"({document['batch_clips']} clips a batch, planner `balanced`). Measured, processor time "
        "of one thread.\n\n"
        + markdown_table(
            ["clips", "first batch after, s", "all batches, s", "µs a clip", "MB"], rows
        )
    )


def planning(document: Document | None) -> str:
    """Packing alone, from the planners' own benchmark."""
    if document is None:
        return ""
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
    return (
        "\nPacking alone, EPIC-SOUNDS durations, 48 clips a batch (all planners: "
        "[packing](packing.md)):\n\n"
        + markdown_table(["clips", "planner", "plan, s", "as lists of rows, s"], rows)
        + made_by(document)
    )


def processes(document: Document | None) -> str:
    """Training by one and by several processes of one machine."""
    if document is None:
        return ""
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
    model = document["model"]
    return (
        f"**Measured**: training of a `{model['size']}` model, {model['depth']} blocks, in fp32, "
        f"{document['batch_clips']} clips of `synth` a step however many processes share them; "
        f"torchrun, gloo, one thread each, wall time with loading; medians of {document['rounds']} "
        f"runs each, of {document['rows'][0]['steps']:.0f} steps, in turns. Who is held up by "
        "other programs holds up the others: the more load before (below), the less is gained.\n\n"
        + markdown_table(
            [
                "processes", "s a step", "clips/s", "speed-up",
                "summing gradients, % of a step", "waiting for the others, %",
            ],
            rows,
        )
        + made_by(document)
        + "\n"
    )  # fmt: skip


def ranks(document: Document) -> str:
    """Measured processes, and simulated imbalance between ranks."""
    found = {(row["clips_per_rank"], row["ranks"], row["shared"]): row for row in document["rows"]}
    sizes = list(dict.fromkeys(row["clips_per_rank"] for row in document["rows"]))
    counts = list(dict.fromkeys(row["ranks"] for row in document["rows"]))
    rows = [
        [
            str(count),
            *(
                f"{100 * found[size, count, way]['mean_imbalance']:.2f}"
                for size in sizes
                for way in ("in turn", "balanced")
            ),
        ]
        for count in counts
    ]
    columns = [
        "ranks",
        *(f"{size} clips a rank, {way}" for size in sizes for way in ("in turn", "balanced")),
    ]
    return processes(read(FOLDER / "processes.json")) + (
        "**Simulated**: global batches are shared out among ranks and their tokens counted; no "
        "second process runs. A step lasts as long as its fullest rank, so the table says by how "
        "many percent that one exceeds the mean, averaged over "
        f"{document['steps']} steps ({document['clips']}). `in turn` deals clips in their order, "
        "`balanced` gives the longest clip left to the rank with the fewest tokens.\n\n"
        + markdown_table(columns, rows)
    )


INPUT_SETTINGS = """How batches reach the model:

| Setting | Default | What it does |
|---|---|---|
| `train.fbank_on` | auto | `device` computes features where the model is: clips travel as one stream of samples, and the filterbank (float32), crops, masks and patches of the whole batch are made there. `host` computes them in the loader. `auto` is `device` on CUDA, `host` on a CPU |
| `train.prefetch` | -1 | batches loaded ahead in the background where there are no `train.loader_workers`; -1 is 2 on CUDA, 0 on a CPU |
| `train.cache_mb` | 512 | keeps log-mel frames; with `device` decoded audio |

    elastictool train --recipe small_data --set train.fbank_on=device --set train.prefetch=2

Either way a clip gets the same masks, to the last cell; features differ from the host's by less
than 1e-4 after normalisation (tested on a CPU). Loading ahead and interruptions change no bit. On
CUDA batches pass through pinned memory, and copies do not wait. Validation and `eval` are
fed as the run's training was; `sweep`, which scores many settings from one decoding, and `predict`
compute features on the host.

"""  # noqa: E501


def loading(document: Document) -> str:
    """Stages of the loader, loading ahead, host against device."""
    stages = {row["stage"]: row["ms_per_10_s"] for row in document["rows"]}
    masks = stages["SpecAugment: generator"] + stages["SpecAugment: masks"]
    ahead = {row["batches"]: row["seconds"] for row in document["ahead"]}
    sides = {row["fbank_on"]: row["validation_loss"] for row in document["sides"]}
    return (
        INPUT_SETTINGS
        + f"Processor time of each stage for 10 s of audio, {document['clips']} clips of "
        f"`{document['dataset']}`:\n\n"
        + markdown_table(
            ["stage", "ms"], [[stage, f"{value:.2f}"] for stage, value in stages.items()]
        )
        + f"\nSpecAugment is {masks / stages['host: whole clip']:.1%} of loading a clip on the "
        f"host, {stages['SpecAugment: generator'] / masks:.0%} of that the clip's own random "
        "generator. `device` rows are what is left to the loader where features are computed on "
        "the device: masks, crops and edges become integers.\n\n"
        f"Loading ahead on a CPU (`train.prefetch=2`, wall time, one thread for the model, load "
        f"average {document['environment']['load_average']}): {ahead['when asked for']:.2f} s when "
        f"asked for, {ahead['ahead']:.2f} s ahead, of which loading alone "
        f"{ahead['loading alone']:.2f} s. On a core of its own it can gain what loading takes, "
        f"{ahead['loading alone'] / ahead['when asked for']:.0%} here; what it gains beyond that "
        "on a crowded machine it takes from others, and where the model uses all cores there is "
        "nothing to gain. So it is off on a CPU unless asked for; on CUDA it is on.\n\n"
        f"One epoch with features from the host and from the device ends at validation losses of "
        f"{sides['host']:.6f} and {sides['device']:.6f}.\n"
    )


def loader(document: Document) -> str:
    """The loader alone against what the base model consumes."""
    rows = [
        [
            row["contender"],
            f"{row['clips_per_second']:,.1f}",
            f"{row['tokens_per_second']:,.0f}",
            "" if row["times_consumed"] is None else f"{row['times_consumed']:.0f}×",
        ]
        for row in document["rows"]
    ]
    return (
        f"`elastictool bench loader`, {document['precision']} on {document['device']}, wall time "
        "in turns; `complete` batches have features, `samples` are for a device that computes "
        "them. The loader should deliver 3 times what the model consumes.\n\n"
        + markdown_table(["", "clips/s", "tokens/s", "of what the model consumes"], rows)
    )


def others(document: Document) -> str:
    """The same clips through Hugging Face's AST, which pads and cuts."""
    model = document["model"]
    return (
        f"The same {document['clip_count']} clips ({document['clips']}) through models of the same "
        f"size ({model['size']}, {model['depth']} blocks, {document['precision']}): `split` and "
        "`reference` (the paper's padded rows) process them whole, up to 3,072 frames; "
        "transformers' `ASTForAudioClassification`, as the AST repository's, pads or cuts each to "
        "1,024 frames.\n\n" + others_table(document)
    )


def others_table(document: Document) -> str:
    """Clips a second of each contender."""
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
    """Clips a second of the padded model."""
    rate: float = next(
        row["clips_per_second"]
        for row in document["rows"]
        if row["part"] == part and row["contender"].startswith("HF")
    )
    return rate


def resize(document: Document) -> str:
    """PI-resize against the dense pseudo-inverse."""
    rows = [
        [
            f"16 to {row['size']}",
            f"{row['rebuilt_ms']:.2f}",
            f"{row['dense_ms']:.2f}",
            f"{row['elastictool_ms']:.2f}",
            f"{row['rebuilt_ms'] / row['elastictool_ms']:.0f}×",
        ]
        for row in document["rows"]
    ]
    difference = max(row["largest_difference"] for row in document["rows"])
    columns = ["patch size", "rebuilt", "dense, kept", "elastictool", "rebuilt / elastictool"]
    return (
        f"Milliseconds for a kernel {document['width']} wide. `rebuilt` takes the pseudo-inverse "
        "of the whole patches' map at each call, in float32, as published code (FlexiAST, timm) "
        "does; `dense` keeps it; elastictool keeps one small matrix an axis, from float64. Results "
        f"differ by {difference:.0e} at the most.\n\n" + markdown_table(columns, rows)
    )


def filterbank(document: Document) -> str:
    """Log-mel frames against torchaudio's."""
    rows = [
        [
            f"{row['shift_ms']:g} ms",
            f"{row['torchaudio_ms']:.2f}",
            f"{row['elastictool_ms']:.2f}",
            f"{row['ratio']:.2f}×",
        ]
        for row in document["rows"]
    ]
    difference = max(row["largest_difference"] for row in document["rows"])
    columns = ["frame shift", "torchaudio, ms", "elastictool, ms", "faster"]
    return (
        f"Log-mel frames of {document['duration_s']:g} s of audio, on one thread; values differ by "
        f"{difference:.0e} at the most.\n\n" + markdown_table(columns, rows)
    )


def sharing(document: Document) -> str:
    """What spinning threads cost where other processes work too."""
    rows = [
        [row["waiting"], f"{row['alone_ms']:,.1f}", f"{row['beside_ms']:,.1f}"]
        for row in document["rows"]
    ]
    return (
        "Between small operations torch's threads wait for one another by spinning, and lose that "
        "time where another process has the processor. `elastictool` starts with "
        f"`{document['setting']}` (unless you set that or `OMP_WAIT_POLICY`), so that they sleep "
        "sooner. Milliseconds of a training step of a narrow model, alone and beside one busy "
        "process a core:\n\n"
        + markdown_table(["threads wait as", "alone", "beside other work"], rows)
        + "\nWhere several jobs share the machine, `OMP_NUM_THREADS=1` for each is better still.\n"
    )


def gpu_section(document: Document | None) -> str:
    """Targets and, where there are, measurements."""
    rows = [[target.what, target.wanted, *_found(target, document)] for target in GPU_TARGETS]
    table = markdown_table(["target (H200 class)", "wanted", "found", ""], rows)
    if document is None:
        return (
            "The CUDA paths (`varlen`, `flex`, features on the device, pinned memory, loading "
            "ahead, compiled blocks) have been tested on a CPU only, and `elastictool doctor` says "
            f"so.\n\n{table}\nOne command checks and measures them, and begins nothing after "
            "seven minutes: `python -m benchmarks.gpu --json docs/results/gpu.json`; then "
            "`python -m benchmarks.performance` fills this part in.\n"
        )
    parts = (_agreement(document), _gpu_loader(document), _gpu_tables(document))
    return (
        f"{table}\nThe first two are held against the attention that `auto` takes there, "
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
    """The loader against the step, where that was measured."""
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


SECTIONS: dict[str, tuple[str, Callable[[Document], str]]] = {
    "attention": ("Attention backends on a CPU", backends),
    "others": ("Against Hugging Face's AST", others),
    "spread": ("Spread of lengths", spread),
    "memory": ("Memory", memory),
    "epochs": ("From a thousand to two million clips", epochs),
    "ranks": ("From one to many ranks", ranks),
    "input": ("Loading", loading),
    "loader": ("The loader against the model", loader),
    "fbank": ("Filterbank", filterbank),
    "resize": ("PI-resize", resize),
    "sharing": ("Beside other work", sharing),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    text = page()
    if not parser.parse_args(arguments).check:
        write_text(PAGE, text)
    elif PAGE.read_text("utf-8") != text:
        sys.exit("docs/performance.md is stale, run: python -m benchmarks.performance")


if __name__ == "__main__":
    main()
