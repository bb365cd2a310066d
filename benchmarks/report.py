"""Make the README's result tables, ``docs/results.md`` and the figures from committed results.

    python -m benchmarks.report            write them
    python -m benchmarks.report --check    fail if the committed ones are not what this writes

Only ``docs/results/*.json`` is read, so a table can be made anew without data, models or time.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.pages import RESULTS, ROOT, fill, made_by
from benchmarks.performance import others_table
from benchmarks.studies import STUDIES
from benchmarks.study_tables import (
    MANY_RUNS,
    claim_lines,
    draw,
    main_table,
    mark_lines,
    runs_table,
)
from elastictool.files import write_text
from elastictool.reporting.figures import save_figure
from elastictool.reporting.tables import markdown_table

IN_README = (
    "fsdd-digit",
    "fsdd-speaker",
    "instruments",
    "flexi-instruments",
    "resolution-instruments",
)
"""Studies that the README shows; docs/results.md has all."""


def provenance(study: dict[str, Any]) -> str:
    """One line: command, date, versions."""
    environments = [run["environment"] for run in study["runs"]]
    dates = sorted({env["date"] for env in environments})
    when = " to ".join(dict.fromkeys([dates[0], dates[-1]]))
    versions = sorted({f"torch {env['torch']}, Python {env['python']}" for env in environments})
    most = max(
        sum(other["model"] == run["model"] for other in study["runs"]) for run in study["runs"]
    )
    what = "mean" if most <= MANY_RUNS else "mean ± 95 % t interval"
    return (
        f"{len(study['runs'])} of {study['planned_runs']} runs; {what} over the "
        f"runs of a model. Made by `{study['command']}`, {when}, {'; '.join(versions)}.\n"
    )


def readme_section(name: str, study: dict[str, Any]) -> str:
    """What stands in the README between a study's markers; of a length sweep the table, too."""
    if study["axis"] != "length":
        return (
            f"![{study['title']}](docs/results/{name}.png)\n\n{claim_lines(study)}\n"
            f"{provenance(study)}"
        )
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
    if "others" in benchmarks:
        parts.append(others_section(benchmarks["others"]))
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


def prep_section(document: dict[str, Any]) -> str:
    """What share of preparing is decoding and resampling, by source and settings."""
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


def others_section(document: dict[str, Any]) -> str:
    """The same clips through Hugging Face's AST."""
    return (
        "Against Hugging Face's AST, which pads and cuts every clip to 1,024 frames:\n\n"
        f"{others_table(document)}{made_by(document)}"
    )


def token_section() -> str:
    """Figure and table of token usage on real annotations, as its recipe wrote them."""
    name = "recipes/small/elasticast/table1_token_usage"
    page = (RESULTS / f"{name}.md").read_text("utf-8")
    table = page[page.index("padding of processed tokens") :]
    return f"![Token usage on EPIC-SOUNDS](docs/results/{name}.png)\n\n{table}"


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
            f"{main_table(study)}\n{mark_lines(study)}{claim_lines(study)}\n{provenance(study)}\n"
            f"Every run:\n\n{runs_table(study)}"
        )
    return "".join(parts)


def committed_studies() -> dict[str, dict[str, Any]]:
    """The studies whose results are there."""
    files = {name: RESULTS / f"{name}.json" for name in STUDIES}
    return {
        name: json.loads(file.read_text("utf-8")) for name, file in files.items() if file.exists()
    }


def pages() -> dict[Path, str]:
    """Every generated text and where it belongs."""
    studies = committed_studies()
    readme = (ROOT / "README.md").read_text("utf-8")
    for name in studies.keys() & set(IN_README):
        readme = fill(readme, name, readme_section(name, studies[name]))
    files = {
        "attention": RESULTS / "performance/attention.json",
        "others": RESULTS / "performance/others.json",
        "fbank": RESULTS / "fbank.json",
    }
    speed = {n: json.loads(f.read_text("utf-8")) for n, f in files.items() if f.exists()}
    readme = fill(readme, "speed", speed_section(speed))
    readme = fill(readme, "token-usage", token_section())
    data = ROOT / "docs" / "data.md"
    prep = json.loads((RESULTS / "prep.json").read_text("utf-8"))
    return {
        ROOT / "README.md": readme,
        ROOT / "docs" / "results.md": results_page(studies),
        data: fill(data.read_text("utf-8"), "prep", prep_section(prep)),
    }


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
    write_pages()


def write_pages() -> None:
    """Write every page and figure."""
    for path, text in pages().items():
        write_text(path, text)
    for name, study in committed_studies().items():
        save_figure(draw(study), RESULTS / name)


if __name__ == "__main__":
    main()
