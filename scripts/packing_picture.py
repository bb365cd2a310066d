"""Draw docs/pictures/packing.png: three clips in a standard AST and in one packed stream.

python scripts/packing_picture.py
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from elastictool.packing.grid import patches_along
from elastictool.reporting.figures import BLUE, GREEN, GREY, ORANGE, styled
from elastictool.utils.io import atomic_path

FRAMES = {"a": 200, "b": 900, "c": 50}
FIXED = 1_024
PATCH, BANDS = 16, 8
COLOURS = {"a": BLUE, "b": GREEN, "c": ORANGE}
WASTE = "#DDDDDD"


def tokens(frames: int) -> int:
    """Patches of a clip of 128 mel bins."""
    return BANDS * patches_along(frames, PATCH, PATCH, "pad")


def bar(axes: Axes, left: int, level: float, width: int, colour: str, text: str = "") -> None:
    """One run of tokens."""
    axes.add_patch(Rectangle((left, level), width, 0.72, facecolor=colour, edgecolor="white"))
    if text:
        axes.text(left + width / 2, level + 0.36, text, ha="center", va="center", fontsize=8)


def title(axes: Axes, what: str, detail: str) -> None:
    """A bold line over a plain one."""
    axes.set_title(what, fontsize=10, pad=18)
    axes.annotate(
        detail, (0, 1), xytext=(0, 6), xycoords="axes fraction", textcoords="offset points",
        fontsize=8.5, color=GREY,
    )  # fmt: skip


def padded(axes: Axes) -> None:
    """A standard AST: every clip is as long as the input."""
    whole = tokens(FIXED)
    for level, (name, frames) in enumerate(FRAMES.items()):
        used = tokens(frames)
        bar(axes, 0, 2.0 - level, used, COLOURS[name])
        bar(axes, used, 2.0 - level, whole - used, WASTE, "padding" if used < whole // 2 else "")
        axes.text(-12, 2.36 - level, f"{frames} frames", ha="right", va="center", fontsize=8)
    used = sum(map(tokens, FRAMES.values()))
    share = 1 - used / (len(FRAMES) * whole)
    title(axes, "standard AST", f"{len(FRAMES) * whole:,} tokens, {share:.0%} of them padding")


def packed(axes: Axes) -> None:
    """One stream; each clip attends to itself."""
    left = 0
    for name, frames in FRAMES.items():
        bar(axes, left, 1.0, tokens(frames), COLOURS[name], str(tokens(frames)))
        left += tokens(frames)
    title(axes, "elastictool", f"one stream of {left:,} tokens, no padding")


def attention(axes: Axes) -> None:
    """Who attends to whom."""
    left = 0
    whole = sum(map(tokens, FRAMES.values()))
    axes.add_patch(Rectangle((0, 0), whole, whole, facecolor="#F4F4F4"))
    for name, frames in FRAMES.items():
        size = tokens(frames)
        axes.add_patch(Rectangle((left, left), size, size, facecolor=COLOURS[name]))
        left += size
    axes.set(xlim=(0, whole), ylim=(whole, 0), aspect="equal", anchor="N", xticks=[], yticks=[])
    title(axes, "attention", "within each clip")


def main() -> None:
    """Write the picture."""
    with styled():
        figure = Figure(figsize=(9.0, 2.3), layout="constrained")
        left, middle, right = figure.subplots(1, 3, width_ratios=(4, 4, 1.5))
        padded(left)
        packed(middle)
        attention(right)
        for axes in (left, middle):
            longest = sum(map(tokens, FRAMES.values()))
            axes.set(xlim=(0, longest), ylim=(-0.2, 3.0), xticks=[], yticks=[])
        for axes in (left, middle, right):
            axes.grid(False)
            for spine in axes.spines.values():
                spine.set_visible(False)
        place = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "packing.png"
        with atomic_path(place) as temporary:
            figure.savefig(temporary, format="png", dpi=130, metadata={"Software": None})


if __name__ == "__main__":
    main()
