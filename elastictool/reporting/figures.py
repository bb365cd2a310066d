"""Define the style of all figures: readable in print and by colour-blind readers, reproducible.

A model has the same colour in all figures (ElasticAST is vermillion); variants of one model have
shades of it and differ in line and marker.
Colours: Okabe and Ito (2008), with a brown and a grey.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from elastictool.utils.io import atomic_path
from elastictool.utils.text import printable

VERMILLION, BLUE, SKY, GREEN = "#D55E00", "#0072B2", "#56B4E9", "#009E73"
PURPLE, ORANGE, BROWN, GREY = "#CC79A7", "#E69F00", "#8A5F00", "#6E6E6E"

FAMILY_COLOURS = {
    "ElasticAST": VERMILLION,
    "FlexiAST": GREEN,
    "Logistic regression": GREY,
    "Ensemble": GREY,
    "first-come": VERMILLION,
    "balanced": GREEN,
    "best-fit": ORANGE,
    "first-fit": BROWN,
    "sorted-window": PURPLE,
    "none": GREY,
    "flat": "black",
}
"""Colours of model families and packing planners, by the first word(s) of a label."""
ROLE_COLOURS = {
    **dict(zip(("AST-400", "AST-1024", "AST-1600"), (BLUE, SKY, PURPLE), strict=True)),
    **dict(zip(("AST-B/8", "AST-B/16", "AST-B/32"), (BLUE, SKY, PURPLE), strict=True)),
    **{f"AST-{10 * n}ms": c for n, c in enumerate((BLUE, SKY, PURPLE, ORANGE), 1)},
}
"""Colours of the papers' fixed ASTs, in figures that do not show all of them too."""
FIXED_LENGTH_COLOURS = (BLUE, SKY, PURPLE, ORANGE, GREEN)
"""Colours of fixed-length ASTs, shortest first, and at one length smallest patches first."""
SHADES = (0.0, -0.4, 0.35, -0.65)
"""How far the colours of a model's variants go to black (below 0) or white."""
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P")

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 3.2,  # room for two dashes and the marker
    "svg.hashsalt": "elastictool",
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class SeriesStyle:
    """Colour, line and marker of a series."""

    colour: str
    line: str
    marker: str


def styled() -> AbstractContextManager[None]:
    """Returns a context in which figures have the common style."""
    return rc_context(STYLE)


def series_styles(labels: Iterable[str]) -> dict[str, SeriesStyle]:
    """Returns a style for each label; those of one family differ in shade, line and marker.

    Fixed-length models ("AST-400", "AST-400/8") get colours in the order of their lengths and
    patch sizes.
    """
    labels = list(dict.fromkeys(labels))
    roles = {label: ROLE_COLOURS.get(re.split(r", | \(", label)[0], "") for label in labels}
    sizes = {label: size for label in labels if (size := _fixed_size(label))}
    others = sorted({size for label, size in sizes.items() if not roles[label]})
    free = [colour for colour in FIXED_LENGTH_COLOURS if colour not in roles.values()]
    free = free or list(FIXED_LENGTH_COLOURS)
    seen: dict[str, int] = {}
    styles = {}
    for label in labels:
        number = others.index(sizes[label]) if label in sizes and not roles[label] else 0
        families = (c for family, c in FAMILY_COLOURS.items() if label.startswith(family))
        colour = roles[label] or next(families, free[number % len(free)])
        variant = seen.get(colour, 0)
        seen[colour] = variant + 1
        shade = SHADES[variant % len(SHADES)]
        end = float(shade > 0)
        red, green, blue = (part + abs(shade) * (end - part) for part in to_rgb(colour))
        shaded = to_hex((red, green, blue)) if shade else colour
        line, marker = LINES[variant % len(LINES)], MARKERS[variant % len(MARKERS)]
        styles[label] = SeriesStyle(shaded, line, marker)
    return styles


def _fixed_size(label: str) -> tuple[int, int] | None:
    """Returns (frames, patch size) of a fixed AST's label, which names patches other than 16.

    Where a label names patches alone ("AST-B/8", "AST/8"), or a frame shift ("AST-20ms", "AST at
    20 ms"), that replaces the frames.
    """
    found = re.match(r"AST(?:-B/|[-/]| at )(\d+)(?:/(?:\d+x)?(\d+))?", label)
    return (int(found[1]), int(found[2] or 16)) if found else None


def plain_text(text: str, most: int = 200) -> str:
    """Returns text for matplotlib: no formulas between dollar signs, at most ``most`` long.

    Long text loses its middle, because names of classes often differ at their ends. Control
    characters would make a broken SVG; legends leave out what begins with an underscore.
    """
    text = printable(text, kept="\n")
    text = f" {text}" if text.startswith("_") else text
    if len(text) > most:
        head = (most - 1) * 2 // 3
        text = text[:head] + "…" + text[len(text) - (most - 1 - head) :]
    return text.replace("$", r"\$")


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Writes ``stem``.png and ``stem``.svg, without dates and random ids: same data, same bytes.

    Raises:
        ElasticToolError: A file cannot be written.
    """
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    save_png(figure, paths[0], dpi=160)
    _save(figure, paths[1], format="svg", metadata={"Date": None})
    return paths


def save_png(figure: Figure, path: Path, dpi: int = 120) -> None:
    """Writes ``figure`` as a PNG; the same data gives the same bytes.

    Raises:
        ElasticToolError: ``path`` cannot be written.
    """
    _save(figure, path, format="png", dpi=dpi, metadata={"Software": None})


def _save(figure: Figure, path: Path, **options: Any) -> None:
    with styled(), warnings.catch_warnings(), atomic_path(path) as temporary:
        warnings.filterwarnings("ignore", "Glyph .* missing")  # names in scripts the font lacks
        figure.savefig(temporary, **options)
