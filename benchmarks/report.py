"""Make the README's result tables, ``docs/results.md`` and the figures from committed results.

    python -m benchmarks.report            write them
    python -m benchmarks.report --check    fail if the committed ones are not what this writes

Only ``docs/results/*.json`` is read, so a table can be made anew without data, models or time.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student_t

from elastictool.files import write_text
from elastictool.reporting.figures import save_figure, series_styles, styled
from elastictool.reporting.tables import duration, markdown_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
ORDER = ("fsdd-digit", "fsdd-speaker", "instruments")


@dataclass(frozen=True)
class Curve:
    """One model with one fit of positions: values over its runs (seeds or folds).

    Attributes:
        label: Model, and fit of positions where both are shown.
        own: Values at the native or own length.
        at: Values at each number of frames.
        seconds: Training times.
    """

    label: str
    own: list[float]
    at: dict[int, list[float]]
    seconds: list[float]


def curves(study: dict[str, Any]) -> list[Curve]:
    """All curves of a study, models in the study's order; baselines last."""
    found: dict[tuple[str, str], Curve] = {}
    for run in study["runs"]:
        for point in run["points"]:
            fit = point["positions"]
            label = f"{run['model']} (positions sliced)" if fit == "slice" else run["model"]
            curve = found.setdefault((run["model"], fit), Curve(label, [], {}, []))
            if point["native"]:
                curve.own.append(point["value"])
                curve.seconds.append(run["train_seconds"])
            else:
                curve.at.setdefault(point["length_frames"], []).append(point["value"])
    return [*found.values(), *_baseline_curves(study)]


def _baseline_curves(study: dict[str, Any]) -> list[Curve]:
    found: dict[str, Curve] = {}
    for fold in study["baselines"]:
        for point in fold["points"]:
            curve = found.setdefault(point["model"], Curve(point["model"], [], {}, []))
            value = point["metrics"]["top1"]
            if point["length_frames"] is None:
                curve.own.append(value)
            else:
                curve.at.setdefault(point["length_frames"], []).append(value)
    return list(found.values())


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """Mean over runs and half of its 95 % t interval (0 for one run)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, 0.0
    error = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return mean, float(student_t.ppf(0.975, len(values) - 1)) * error


def cell(values: Sequence[float] | None) -> str:
    """``93.3 ± 0.5`` in percent."""
    if not values:
        return "–"
    mean, half = mean_and_half_width(values)
    return f"{100 * mean:.1f}" + (f" ± {100 * half:.1f}" if len(values) > 1 else "")


def main_table(study: dict[str, Any]) -> str:
    """Own length and all swept lengths, a row a curve."""
    lengths = study["lengths"]
    columns = [
        "top-1, %",
        "native / own length",
        *(f"{n} frames" for n in lengths),
        "training (median)",
    ]
    rows = [
        [
            curve.label,
            cell(curve.own),
            *(cell(curve.at.get(n)) for n in lengths),
            duration(float(np.median(curve.seconds))) if curve.seconds else "–",
        ]
        for curve in curves(study)
    ]
    return markdown_table(columns, rows)


def runs_table(study: dict[str, Any]) -> str:
    """Every single run at its own length and at the marked lengths."""
    marked = [int(name) for name in study["marks"] if name != "native"]
    columns = ["run", "seed", "fold", "native / own", *(f"{n} frames" for n in marked)]
    rows = []
    for run in study["runs"]:
        points = [p for p in run["points"] if p["positions"] != "slice"]
        own = next(p["value"] for p in points if p["native"])
        at = {p["length_frames"]: p["value"] for p in points if not p["native"]}
        values = [own, *(at[n] for n in marked)]
        shown = [f"{100 * value:.1f}" for value in values]
        rows.append([run["model"], run["seed"], run["fold"] or "–", *shown])
    return markdown_table(columns, rows)


def mark_lines(study: dict[str, Any]) -> str:
    """In words, for each elastic model: which of the marks its mean reaches."""
    lines = []
    for curve in curves(study):
        if not curve.label.startswith("ElasticAST"):
            continue
        parts = []
        for name, least in study["marks"].items():
            values = curve.own if name == "native" else curve.at[int(name)]
            mean = float(np.mean(values))
            verdict = "reached" if round(mean, 4) >= least else "**missed**"
            where = "native" if name == "native" else f"{name} frames"
            parts.append(f"{where} {100 * mean:.1f} against {100 * least:.0f}: {verdict}")
        lines.append(f"- {curve.label}: {'; '.join(parts)}.\n")
    return "".join(lines)


def draw(study: dict[str, Any]) -> Figure:
    """Accuracy against length, mean over runs with its interval; dots at the own length."""
    shown = [curve for curve in curves(study) if curve.at]
    styles = series_styles(curve.label for curve in shown)
    with styled():
        figure = Figure(figsize=(7.4, 4.3), layout="constrained")
        axes = figure.subplots()
        for curve in shown:
            style = styles[curve.label]
            lengths = sorted(curve.at)
            stats = [mean_and_half_width(curve.at[n]) for n in lengths]
            means = 100 * np.array([mean for mean, _ in stats])
            halves = 100 * np.array([half for _, half in stats])
            axes.plot(
                lengths,
                means,
                style.line,
                color=style.colour,
                marker=style.marker,
                label=f"{curve.label} (own {100 * float(np.mean(curve.own)):.1f})",
            )
            axes.fill_between(
                lengths, means - halves, means + halves, color=style.colour, alpha=0.12, lw=0
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(study["lengths"], [str(n) for n in study["lengths"]], fontsize=8)
        axes.minorticks_off()
        axes.set_xlabel("length at test time, frames")
        axes.set_ylabel("top-1 accuracy, %")
        axes.set_title(study["title"])
        figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    return figure


def provenance(study: dict[str, Any]) -> str:
    """One line: command, date, versions."""
    environments = [run["environment"] for run in study["runs"]]
    dates = sorted({env["date"] for env in environments})
    when = " to ".join(dict.fromkeys([dates[0], dates[-1]]))
    versions = sorted({f"torch {env['torch']}, Python {env['python']}" for env in environments})
    return (
        f"{len(study['runs'])} of {study['planned_runs']} runs; mean ± 95 % t interval over the "
        f"runs of a model. Made by `{study['command']}`, {when}, {'; '.join(versions)}.\n"
    )


def readme_section(name: str, study: dict[str, Any]) -> str:
    """What stands in the README between a study's markers."""
    return (
        f"![{study['title']}](docs/results/{name}.png)\n\n"
        f"{main_table(study)}\n{mark_lines(study)}\n{provenance(study)}"
    )


def speed_section(benchmarks: dict[str, dict[str, Any]]) -> str:
    """Ratios of the committed benchmarks: attention backends, and filterbanks."""
    parts = []
    if "attention" in benchmarks:
        document = benchmarks["attention"]
        rows = [
            [
                r["mode"],
                r["precision"],
                r["attention"],
                f"{r['tokens_per_second']:,.0f}",
                f"{r['speed_against_reference']:.2f}×",
            ]
            for r in document["results"]
        ]
        model = document["model"]
        parts.append(
            f"Attention backends, {model['width']} wide, {model['depth']} deep, "
            f"{document['clips']} clips with lengths of {document['durations']}. `reference` is "
            "the paper's padded rows with a dense mask, `rows-sdpa` the same through torch's "
            "fused attention, `split` ours:\n\n"
            + markdown_table(["", "precision", "backend", "tokens/s", "against reference"], rows)
            + _measured(document)
        )
    if "fbank" in benchmarks:
        document = benchmarks["fbank"]
        rows = [
            [
                f"{r['shift_ms']:g} ms",
                f"{r['torchaudio_ms']:.2f} ms",
                f"{r['elastictool_ms']:.2f} ms",
                f"{r['ratio']:.2f}×",
            ]
            for r in document["rows"]
        ]
        parts.append(
            f"Filterbank of {document['duration_s']:g} s of audio:\n\n"
            + markdown_table(["frame shift", "torchaudio", "elastictool", "faster"], rows)
            + _measured(document)
        )
    return "\n".join(parts)


def _measured(document: dict[str, Any]) -> str:
    env = document["environment"]
    return (
        f"\n`{document['command']}`, {env['date']}, torch {env['torch']}, {env['cpu']}, "
        f"{env['threads']} thread; processor time.\n"
    )


def results_page(studies: dict[str, dict[str, Any]]) -> str:
    """``docs/results.md``: every study with every run."""
    parts = ["# Results on real recordings\n\nMade by `python -m benchmarks.report`.\n"]
    for name, study in studies.items():
        parts.append(
            f"\n## {study['title']}\n\n![{study['title']}](results/{name}.png)\n\n"
            f"{main_table(study)}\n{mark_lines(study)}\n{provenance(study)}\n"
            f"Every run:\n\n{runs_table(study)}"
        )
    return "".join(parts)


def fill(text: str, name: str, content: str) -> str:
    """Replace what stands between the markers of ``name``.

    Raises:
        ValueError: The text has no such markers.
    """
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"no markers for {name}")
    return pattern.sub(lambda match: match[1] + content + match[2], text)


def committed_studies() -> dict[str, dict[str, Any]]:
    """The studies whose results are there."""
    files = {name: RESULTS / f"{name}.json" for name in ORDER}
    return {
        name: json.loads(file.read_text("utf-8")) for name, file in files.items() if file.exists()
    }


def pages() -> dict[Path, str]:
    """Every generated text and where it belongs."""
    studies = committed_studies()
    readme = (ROOT / "README.md").read_text("utf-8")
    for name, study in studies.items():
        readme = fill(readme, name, readme_section(name, study))
    files = {name: RESULTS / f"{name}.json" for name in ("attention", "fbank")}
    speed = {n: json.loads(f.read_text("utf-8")) for n, f in files.items() if f.exists()}
    readme = fill(readme, "speed", speed_section(speed))
    return {ROOT / "README.md": readme, ROOT / "docs" / "results.md": results_page(studies)}


def main() -> None:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    written = pages()
    if check:
        stale = [path for path, text in written.items() if path.read_text("utf-8") != text]
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what its results say", file=sys.stderr)
        sys.exit(bool(stale))
    for path, text in written.items():
        write_text(path, text)
    for name, study in committed_studies().items():
        save_figure(draw(study), RESULTS / name)


if __name__ == "__main__":
    main()
