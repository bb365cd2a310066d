"""Measure reliability, and write the page about it.

python -m benchmarks.reliability kills | fuzz | faults | leakage | soak | scale | page
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.pages import dump_summary
from benchmarks.reliability import page
from elastictool.evaluation.bench.timing import environment
from elastictool.utils.io import write_text

Rows = list[dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and, if asked, write what was measured; or write or check the page."""
    args = parsed(arguments)
    if args.what == "page":
        _page(args.check)
        return
    conditions = environment()  # before our own processes add to the load
    rows = measured(args)
    for row in rows:
        print({key: value for key, value in row.items() if not isinstance(value, list)})
    if args.out:
        given = " ".join(sys.argv[1:] if arguments is None else arguments)
        command = f"python -m benchmarks.reliability {given.partition(' --out')[0]}"
        document = {"command": command, "environment": conditions, "rows": rows}
        write_text(args.out, dump_summary(document))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments; each measurement has its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="what", required=True)
    made = {name: commands.add_parser(name) for name in (*page.SECTIONS, "page")}
    for name in ("kills", "fuzz", "leakage"):
        made[name].add_argument("--seed", type=int, default=0)
    made["kills"].add_argument("--kills", type=int, default=20, help="trials of each command")
    made["kills"].add_argument("--jobs", nargs="*", default=(), help="some of the commands only")
    made["fuzz"].add_argument("--inputs", type=int, default=100, help="of each reader")
    made["fuzz"].add_argument("--readers", nargs="*", default=(), help="some of the readers only")
    made["fuzz"].add_argument("--workers", type=int, default=1, help="inputs read at once")
    made["fuzz"].add_argument("--keep", type=Path, help="folder for inputs that are bugs")
    made["faults"].add_argument("--faults", nargs="*", default=(), help="some of the faults only")
    made["leakage"].add_argument("--cases", type=int, default=1_000)
    made["soak"].add_argument("--minutes", type=float, default=60.0)
    made["scale"].add_argument("jobs", nargs="*", default=["clips", "hours", "classes"])
    made["scale"].add_argument("--clips", type=int, default=50_000)
    made["scale"].add_argument("--hours", type=float, default=10.0)
    made["scale"].add_argument("--classes", type=int, default=3_000)
    made["scale"].add_argument("--class-clips", type=int, default=20_000)
    made["page"].add_argument("--check", action="store_true", help="fail if the page is stale")
    for name in page.SECTIONS:
        made[name].add_argument("--out", type=Path, help="write the result to this JSON file")
    return parser.parse_args(arguments)


def measured(args: argparse.Namespace) -> Rows:
    """Return the rows of the measurement that the arguments name."""
    from benchmarks.reliability import faults, fuzz, kills, leakage, scale, soak

    sizes = scale.Sizes
    measurements = {
        "kills": lambda: kills.measure(args.kills, args.seed, args.jobs),
        "fuzz": lambda: fuzz.measure(args.inputs, args.seed, args.readers, args.workers, args.keep),
        "faults": lambda: faults.measure(args.faults),
        "leakage": lambda: leakage.measure(args.cases, args.seed),
        "soak": lambda: [soak.measure(args.minutes)],
        "scale": lambda: scale.measure(
            args.jobs, sizes(args.clips, args.hours, args.classes, args.class_clips)
        ),
    }
    return measurements[args.what]()


def _page(check: bool) -> None:
    text = page.page()
    if not check:
        write_text(page.PAGE, text)
    elif page.PAGE.read_text("utf-8") != text:
        sys.exit("docs/reliability.md is stale, run: python -m benchmarks.reliability page")


if __name__ == "__main__":
    main()
