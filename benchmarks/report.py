"""Make the tables of README and docs, ``docs/results.md`` and the figures from summaries.

    python -m benchmarks.report            write them
    python -m benchmarks.report --check    fail if the committed ones are not what this writes

Only ``docs/results/*.json`` is read: neither data nor models are needed.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.pages import RESULTS, ROOT, fill, save_png
from benchmarks.performance import FOLDER, padded_rate
from benchmarks.studies import STUDIES
from benchmarks.study_tables import (
    FEW_RUNS,
    cell,
    claim_lines,
    curves,
    draw,
    main_table,
    mark_lines,
    runs_table,
)
from elastictool.reporting.tables import markdown_table, read_json
from elastictool.utils.io import write_text

HUGGING_FACE = "Hugging Face's AST, clips padded or cut to 1,024 frames"


@dataclass(frozen=True)
class Summary:
    """The part of a study of lengths that the README shows.

    Attributes:
        title: Of its data.
        short: A small number of frames for these clips.
        long_ast: The standard AST of long clips.
        short_ast: The one of short clips.
    """

    title: str
    short: int
    long_ast: str
    short_ast: str

    def rows(self) -> dict[str, str]:
        """Return the label of the study's curve for each row of the summary."""
        return {
            "ElasticAST": "ElasticAST",
            "ElasticAST, trained with shorter crops too": "ElasticAST, diverse lengths",
            "AST trained on long clips": self.long_ast,
            "the same, positions sliced": f"{self.long_ast} (positions sliced)",
            "AST trained on long clips and shorter crops": f"{self.long_ast}, diverse lengths",
            "AST trained on short clips": self.short_ast,
            "logistic regression on mean and deviation": "Logistic regression (mean, deviation)",
        }


SUMMARY = {
    "fsdd-digit": Summary("spoken digits", 48, "AST-160", "AST-48"),
    "fsdd-speaker": Summary("six speakers", 48, "AST-160", "AST-48"),
    "instruments": Summary("ten instruments", 128, "AST-1024", "AST-128"),
}
"""Studies that the README summarises; docs/results.md has all."""


def provenance(study: dict[str, Any]) -> str:
    """Return command, date and versions in a line."""
    environments = [run["environment"] for run in study["runs"]]
    dates = sorted({env["date"] for env in environments})
    when = " to ".join(dict.fromkeys([dates[0], dates[-1]]))
    versions = sorted({f"torch {env['torch']}, Python {env['python']}" for env in environments})
    most = max(
        sum(other["model"] == run["model"] for other in study["runs"]) for run in study["runs"]
    )
    what = "mean" if most <= FEW_RUNS else "mean ± 95 % t interval"
    return (
        f"{len(study['runs'])} of {study['planned_runs']} runs; {what} over the "
        f"runs of a model. Made by `{study['command']}`, {when}, {'; '.join(versions)}.\n"
    )


def summary_table(studies: dict[str, dict[str, Any]]) -> str:
    """Return the scores of each model at whole and at short clips."""
    cells: dict[str, list[str]] = {}
    columns = ["top-1, %"]
    for name, summary in SUMMARY.items():
        found = {curve.label: curve for curve in curves(studies[name])}
        columns += [f"{summary.title}, whole", f"first {summary.short} frames"]
        for row, label in summary.rows().items():
            curve = found.get(label)
            if curve is None:  # not every study trains every model
                cells.setdefault(row, []).extend(("–", "–"))
                continue
            at = {x: cell(values) for x, values in curve.at.items()}
            whole = at[max(at)] if label == summary.short_ast else cell(curve.own)
            cells.setdefault(row, []).extend((whole, at[summary.short]))
    return markdown_table(columns, [[row, *values] for row, values in cells.items()])


def speed_table() -> str:
    """Return the speed against other implementations, from one measurement each."""
    names = ("attention", "others", "fbank")
    attention, others, fbank = (read_json(FOLDER / f"{name}.json") for name in names)
    speed = {
        (r["mode"], r["attention"]): r["tokens_per_second"]
        for r in attention["results"]
        if r["precision"] == "fp32"
    }
    rows = []
    for mode in ("training step", "inference"):
        for slow, what in (
            ("reference", "the paper's padded rows and dense mask"),
            ("rows-sdpa", "the same rows and mask through torch's fused attention"),
        ):
            rows.append([mode, what, f"{speed[mode, 'split'] / speed[mode, slow]:.1f}×"])
        part = "train" if mode == "training step" else mode
        wanted = {"part": part, "contender": "split"}
        (split,) = [row for row in others["rows"] if wanted.items() <= row.items()]
        ratio = split["clips_per_second"] / padded_rate(others, part)
        rows.append([mode, HUGGING_FACE, f"{ratio:.1f}×"])
    first = fbank["rows"][0]
    what = f"filterbank, {first['shift_ms']:g} ms a frame"
    rows.append([what, "torchaudio", f"{first['ratio']:.1f}×"])
    return markdown_table(["what", "compared with", "times as fast"], rows)


def prep_section(document: dict[str, Any]) -> str:
    """Return what share of preparing is decoding and resampling, by source and settings."""
    settings = list(dict.fromkeys(row["stored"] for row in document["shares"]))
    shares = {(r["source"], r["stored"]): r["share"] for r in document["shares"]}
    sources = dict.fromkeys(source for source, _ in shares)
    rows = [[x, *(f"{shares[x, stored]:.0%}" for stored in settings)] for x in sources]
    text = markdown_table(["recordings", *settings], rows)
    if document["workers"]:
        number = document["workers"][0]["workers"]
        rows = [
            [
                row["source"],
                row["stored"],
                f"{row['bare_clips_s']:.0f}",
                f"{row['prep_clips_s']:.0f}",
                f"{row['share']:.0%}",
            ]
            for row in document["workers"]
        ]
        columns = ["recordings", "stored", "decoded only, clips/s", "prepared, clips/s", "share"]
        text += f"\nBy the clock, {number} worker processes:\n\n" + markdown_table(columns, rows)
    few, many = document["memory"]
    large, env = document["large_listing"], document["environment"]
    return (
        f"{text}\nMemory does not grow with the number of clips: a process that prepared "
        f"{few['clips']:,} clips peaked at {few['peak_mb']:,.0f} MB, with {many['clips']:,} at "
        f"{many['peak_mb']:,.0f} MB. {large['segments']:,} segments of AudioSet's tables are "
        f"listed, joined with an index of as many files and planned in {large['cpu_s']:.0f} s of "
        f"processor time and {large['peak_mb'] / 1000:.1f} GB.\n\n"
        f"`{document['command']}`, {env['date']}, torch {env['torch']}, {env['cpu']}.\n"
    )


def token_section() -> str:
    """Return figure and table of token usage on real annotations from the recipe's page."""
    name = "recipes/small/elasticast/table1_token_usage"
    page = (RESULTS / f"{name}.md").read_text("utf-8")
    table = page[page.index("padding of processed tokens") :]
    return f"![Token usage on EPIC-SOUNDS](results/{name}.png)\n\n{table}"


def anchor(title: str) -> str:
    """Return the anchor of the heading ``title``, as GitHub makes it."""
    return re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")


def study_sections(studies: dict[str, dict[str, Any]]) -> str:
    """Return the studies with figure, tables, verdicts and every run, after a list of links."""
    parts = [f"- [{study['title']}](#{anchor(study['title'])})\n" for study in studies.values()]
    for name, study in studies.items():
        parts.append(
            f"\n## {study['title']}\n\n![{study['title']}](results/{name}.png)\n\n"
            f"{main_table(study)}\n{mark_lines(study)}{claim_lines(study)}\n{provenance(study)}\n"
            f"Every run:\n\n{runs_table(study)}"
        )
    return "".join(parts)


def committed_studies() -> dict[str, dict[str, Any]]:
    """Read the summaries of the studies that have been run."""
    files = {name: RESULTS / f"{name}.json" for name in STUDIES}
    return {name: read_json(file) for name, file in files.items() if file.exists()}


def pages() -> dict[Path, str]:
    """Return every generated text by its file."""
    studies = committed_studies()
    readme = (ROOT / "README.md").read_text("utf-8")
    readme = fill(fill(readme, "results", summary_table(studies)), "speed", speed_table())
    results = ROOT / "docs" / "results.md"
    data, packing = ROOT / "docs" / "data.md", ROOT / "docs" / "packing.md"
    prep = read_json(RESULTS / "prep.json")
    return {
        ROOT / "README.md": readme,
        results: fill(results.read_text("utf-8"), "studies", study_sections(studies)),
        data: fill(data.read_text("utf-8"), "prep", prep_section(prep)),
        packing: fill(packing.read_text("utf-8"), "token-usage", token_section()),
    }


def write_pages() -> None:
    """Write every page and figure."""
    for path, text in pages().items():
        write_text(path, text)
    for name, study in committed_studies().items():
        save_png(draw(study), RESULTS / f"{name}.png")


def main() -> None:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        stale = [path for path, text in pages().items() if path.read_text("utf-8") != text]
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what its results say", file=sys.stderr)
        sys.exit(bool(stale))
    write_pages()


if __name__ == "__main__":
    main()
