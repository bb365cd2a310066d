"""Measure padding and planning time of every planner by batch size and number of clips.

Run: ``python -m benchmarks.planners --epic EPIC_Sounds_validation.csv --write``

The first open question of the ElasticAST paper, answered by counting: two distributions of
lengths (EPIC-SOUNDS validation annotations, drawn with replacement beyond their number, and the
stand-in for VoxCeleb), shuffled once. Times are processor times of one thread, medians of
interleaved rounds: first of the plan as arrays, then of turning it into lists of rows. ``--write``
writes the results, the figure and the tables of ``docs/packing.md``; ``--page`` makes figure and
tables anew from the committed results.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.pages import RESULTS, ROOT, dump_summary, fill, save_png
from elastictool.config import PackingConfig
from elastictool.evaluation.bench.timing import environment, interleaved
from elastictool.evaluation.durations import Durations, frames_of, read_durations, stand_in
from elastictool.evaluation.tokens import TokenRule, packed_use
from elastictool.packing.planners import Counts
from elastictool.packing.stream import WINDOW_PLANNERS, known_planners, plan_stream
from elastictool.reporting.figures import (
    BROWN,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILLION,
    styled,
)
from elastictool.reporting.tables import markdown_table, read_json
from elastictool.utils.io import write_text

BATCH_CLIPS = (12, 24, 48, 96)
NUM_CLIPS = (1_000, 10_000, 100_000, 2_000_000)
WINDOWS = (1, 256, 1_024, 4_096, 16_384)
WINDOW_CLIPS = 100_000
ROUNDS = 3
LIMIT_S = 2.0
"""Limit for planning two million clips."""

SOURCES = {"epic-sounds": "EPIC-SOUNDS durations", "stand-in": "stand-in for VoxCeleb"}

STYLES: dict[str, dict[str, Any]] = {
    "first-come": {"color": VERMILLION, "linestyle": "-", "marker": "o"},
    "balanced": {"color": GREEN, "linestyle": "-", "marker": "s"},
    "none": {"color": GREY, "linestyle": ":", "marker": "P"},
    "best-fit-decreasing": {"color": ORANGE, "linestyle": "-", "marker": "o", "lw": 4, "ms": 9},
    "first-fit-decreasing": {"color": BROWN, "linestyle": "--", "marker": "^"},
    "sorted-window": {"color": PURPLE, "linestyle": "-.", "marker": "D"},
}
"""Best fit is wide and lies below first fit, which goes the same way."""


def main() -> None:
    """Measure, or read what was measured; print and, if asked, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epic", type=Path, help="EPIC_Sounds_validation.csv")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="timed rounds")
    parser.add_argument("--write", action="store_true", help="write results, figure and page")
    parser.add_argument("--page", action="store_true", help="figure and page from the results")
    arguments = parser.parse_args()
    path = RESULTS / "packing.json"
    if arguments.page:
        document = read_json(path)
    elif arguments.epic:
        torch.set_num_threads(1)
        document = measure(arguments.epic, arguments.rounds)
    else:
        parser.error("give the annotations with --epic, or --page")
    print(tables(document))
    if arguments.write and not arguments.page:
        write_text(path, dump_summary(document))
    if arguments.write or arguments.page:
        save_png(draw(document), path.with_suffix(".png"))
        page = ROOT / "docs" / "packing.md"
        write_text(page, fill(page.read_text("utf-8"), "planners", tables(document)))


def measure(epic: Path, rounds: int) -> dict[str, Any]:
    """Return all measurements of the page with their conditions."""
    durations = {"epic-sounds": read_durations(epic), "stand-in": None}
    rows: list[dict[str, Any]] = []
    for source, known in durations.items():
        for num_clips in NUM_CLIPS:
            lengths = stream(known, num_clips)
            for batch_clips in BATCH_CLIPS:
                rows += measured(lengths, source, batch_clips, rounds)
                print(f"{source}, {num_clips:,} clips, {batch_clips} a batch: done", flush=True)
    windows = [
        padding(stream(known, WINDOW_CLIPS), source, planner, batch_clips, window)
        for source, known in durations.items()
        for planner in WINDOW_PLANNERS
        for batch_clips in BATCH_CLIPS
        for window in WINDOWS
    ]
    return {
        "benchmark": "planners",
        "command": f"python -m benchmarks.planners --epic {epic.name} --rounds {rounds} --write",
        "environment": environment() | {"numpy": np.__version__},
        "clock": "processor time, one thread",
        "rounds": rounds,
        "capacity": PackingConfig.capacity,
        "window": PackingConfig.window,
        "max_frames": TokenRule.max_frames,
        "edge": TokenRule.edge,
        "rows": rows,
        "windows": windows,
    }


def stream(known: Durations | None, num_clips: int) -> Counts:
    """Return (n,) tokens of shuffled clips: drawn from ``known``, without it the stand-in.

    Of known durations no more than there are is taken without replacement.
    """
    if known is None:
        durations = stand_in(num_clips).shuffled(0)
    else:
        again = num_clips > len(known.seconds)
        drawn = np.random.default_rng(0).choice(known.seconds, num_clips, replace=again)
        durations = Durations(drawn, known.kind, known.label)
    return TokenRule().tokens(frames_of(durations))


def measured(
    lengths: Counts, source: str, batch_clips: int, rounds: int
) -> Iterator[dict[str, Any]]:
    """Return the padding and seconds of every planner at one batch size."""
    configs = {name: PackingConfig(name, batch_clips=batch_clips) for name in known_planners()}
    plans = {name: plan_stream(lengths, config) for name, config in configs.items()}
    clock = time.process_time
    planning = interleaved(
        {name: partial(plan_stream, lengths, config) for name, config in configs.items()},
        rounds,
        warmup_rounds=0,
        clock=clock,
    )
    listing = interleaved(
        {name: plan.batches for name, plan in plans.items()}, rounds, warmup_rounds=0, clock=clock
    )
    for name in configs:
        counted = padding(lengths, source, name, batch_clips, PackingConfig.window)
        yield counted | {"plan_s": planning[name], "lists_s": listing[name]}


def padding(
    lengths: Counts, source: str, planner: str, batch_clips: int, window: int
) -> dict[str, Any]:
    """Return the padding and rows of one planner; a window of one clip is one of a single batch."""
    use = packed_use(lengths, planner, batch_clips, PackingConfig.capacity, window)
    return {
        "source": source,
        "clips": len(lengths),
        "planner": planner,
        "batch_clips": batch_clips,
        "window": max(window, batch_clips) if planner in WINDOW_PLANNERS else None,
        "padding_percent": use.padding_percent,
        "rows": use.rows,
        "excess_rows": use.excess_rows,
    }


def tables(document: dict[str, Any]) -> str:
    """Return the text between the page's markers."""
    env = document["environment"]
    most = max(row["clips"] for row in document["rows"])
    slowest = max(row["plan_s"] for row in document["rows"])
    return (
        f"![Padding and planning time of all planners](results/packing.png)\n\n"
        f"Padding in % of processed tokens, {most:,} clips:\n\n{padding_table(document)}\n"
        f"Seconds to plan {most:,} clips, and to turn the plan into lists of rows; the slowest "
        f"plan takes {slowest:.2f} s:\n\n{seconds_table(document)}\n"
        f"Padding in % of processed tokens against the window, {WINDOW_CLIPS:,} clips; a window of "
        f"one batch leaves no choice of clips:\n\n{window_table(document)}\n"
        f"Capacity {document['capacity']:,} tokens a row, windows of {document['window']:,} clips "
        f"unless said, cap {document['max_frames']:,} frames, edge `{document['edge']}`. Made by "
        f"`{document['command']}`, {env['date']}, numpy {env['numpy']}, Python {env['python']}, "
        f"{env['cpu']}; {document['clock']}, medians of {document['rounds']} rounds.\n"
    )


def padding_table(document: dict[str, Any]) -> str:
    """Return the padding of each planner by batch size, for the most clips."""
    columns = ["planner", *_headers()]
    found = _by_batch(document, "padding_percent")
    return markdown_table(
        columns, [[name, *(f"{value:.1f}" for value in values)] for name, values in found.items()]
    )


def seconds_table(document: dict[str, Any]) -> str:
    """Return the seconds of each planner by batch size, for the most clips."""
    plans, lists = _by_batch(document, "plan_s"), _by_batch(document, "lists_s")
    rows = [
        [name, *(f"{a:.2f} + {b:.2f}" for a, b in zip(plans[name], lists[name], strict=True))]
        for name in plans
    ]
    return markdown_table(["planner", *_headers()], rows)


def window_table(document: dict[str, Any]) -> str:
    """Return the padding of each window planner by window, at two batch sizes."""
    shown = (BATCH_CLIPS[0], BATCH_CLIPS[2])
    columns = ["planner, source", "batch", "one batch", *(f"{n:,}" for n in WINDOWS[1:])]
    rows = []
    for planner in WINDOW_PLANNERS:
        for source, title in SOURCES.items():
            for batch_clips in shown:
                wanted = {"planner": planner, "source": source, "batch_clips": batch_clips}
                values = [row["padding_percent"] for row in _where(document["windows"], wanted)]
                cells = [f"{value:.1f}" for value in values]
                rows.append([f"{planner}, {title}", str(batch_clips), *cells])
    return markdown_table(columns, rows)


def draw(document: dict[str, Any]) -> Figure:
    """Return the figure: padding by batch size, planning time by number of clips."""
    with styled():
        figure = Figure(figsize=(9.5, 6.6), layout="constrained")
        grid = figure.subplots(2, 2)
        for axes, (source, title) in zip(grid, SOURCES.items(), strict=True):
            _draw_padding(axes[0], document, source)
            _draw_seconds(axes[1], document, source)
            axes[0].set_title(f"Padding, {title}")
            axes[1].set_title(f"Planning time, {title}")
        handles, labels = grid[0, 1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def _draw_padding(axes: Axes, document: dict[str, Any], source: str) -> None:
    clips = max(row["clips"] for row in document["rows"])
    for planner, style in STYLES.items():
        rows = _where(document["rows"], {"source": source, "planner": planner, "clips": clips})
        axes.plot(BATCH_CLIPS, [row["padding_percent"] for row in rows], **style)
    axes.set_xscale("log")
    axes.set_xticks(BATCH_CLIPS, [str(n) for n in BATCH_CLIPS])
    axes.set_yscale("log")
    axes.set_yticks((0.1, 1, 10, 100), ["0.1", "1", "10", "100"])
    axes.set_ylim(0.1, 100)
    axes.minorticks_off()
    axes.set_xlabel(f"clips of a batch ({clips:,} of an epoch)")
    axes.set_ylabel("% of processed tokens")


def _draw_seconds(axes: Axes, document: dict[str, Any], source: str) -> None:
    for planner, style in STYLES.items():
        rows = _where(document["rows"], {"source": source, "planner": planner, "batch_clips": 48})
        axes.plot(NUM_CLIPS, [row["plan_s"] for row in rows], label=planner, **style)
    axes.axhline(LIMIT_S, color="black", lw=1, ls=":", label=f"limit at 2,000,000: {LIMIT_S:g} s")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(NUM_CLIPS, ["1 k", "10 k", "100 k", "2 M"])
    axes.minorticks_off()
    axes.set_xlabel("clips of an epoch (48 of a batch)")
    axes.set_ylabel("seconds")


def _headers() -> list[str]:
    return [f"{title}, {n}" for title in SOURCES.values() for n in BATCH_CLIPS]


def _by_batch(document: dict[str, Any], key: str) -> dict[str, list[float]]:
    """Return the values for the most clips, by planner: sources and batch sizes in order."""
    most = max(row["clips"] for row in document["rows"])
    values: dict[str, list[float]] = {}
    for row in _where(document["rows"], {"clips": most}):
        values.setdefault(row["planner"], []).append(row[key])
    return values


def _where(rows: list[dict[str, Any]], wanted: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


if __name__ == "__main__":
    main()
