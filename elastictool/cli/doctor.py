"""``elastictool doctor``: show what is installed and works, and test it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elastictool.cli.console import log, print_json, print_table
from elastictool.cli.options import JsonOption
from elastictool.utils.errors import ElasticToolError

if TYPE_CHECKING:
    from elastictool.evaluation.installation import Status

RUNS_ROOT = Path("runs")


def doctor(json_output: JsonOption = False) -> None:
    """Show what is installed, what works, and run a self test.

    Reports what is missing or broken instead of failing on it. Exits 1 if the self test fails.

    Example: elastictool doctor --json > doctor.json
    """
    report = _report()
    if json_output:
        print_json(report)
    else:
        _print(report)
    failed = [check["name"] for check in report["self_test"] if not check["passed"]]
    if failed:
        raise ElasticToolError(
            f"the self test failed: {', '.join(failed)}",
            "the tables above (--json: the document) say what is missing or broken",
        )


def _report() -> dict[str, Any]:
    from elastictool.evaluation import installation
    from elastictool.evaluation.selftest import self_test

    checks = self_test()
    return {
        "ok": all(check.passed for check in checks),
        "versions": _plain(installation.versions()),
        "extras": _plain(installation.extras()),
        "devices": _plain(installation.devices()),
        "cuda_path": installation.cuda_evidence(),
        "attention": installation.attention(),
        "decoders": installation.decoders(),
        "disk": _plain([installation.disk(_data_root()), installation.disk(RUNS_ROOT)]),
        "self_test": [dataclasses.asdict(check) for check in checks],
    }


def _data_root() -> Path:
    from elastictool.evaluation.installation import attempt

    def look() -> Path:
        from elastictool.data.store import DATA_ROOT

        return DATA_ROOT

    return attempt(look, lambda _: Path("data"))


def _plain(statuses: Sequence[Status]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(status) for status in statuses]


def _print(report: dict[str, Any]) -> None:
    for part in ("versions", "extras", "devices", "disk"):
        rows = [(row["name"], _mark(row["ok"]), row["text"]) for row in report[part]]
        print_table(part, ("name", "", "what"), rows)
    log(f"the CUDA path is {report['cuda_path']}")
    backends = [
        (f"{row['device']}, {row['dtype']}", row["chosen"] or "–", _backends(row))
        for row in report["attention"]
    ]
    print_table("attention", ("where", "auto takes", "others"), backends)
    formats = [
        (row["format"], " ".join(row["endings"]), row["decoder"], _reads(row))
        for row in report["decoders"]
    ]
    print_table("audio formats", ("format", "endings", "decoder", "reads"), formats)
    checks = [(row["name"], _mark(row["passed"]), row["detail"]) for row in report["self_test"]]
    print_table("self test", ("check", "", "what"), checks)


def _backends(row: dict[str, Any]) -> str:
    others = [name for name in row["available"] if name != row["chosen"]]
    declined = [f"not {name}: {reason}" for name, reason in row["declined"].items()]
    return "; ".join([*others, *declined])


def _reads(row: dict[str, Any]) -> str:
    state = {True: "yes", False: "NO", None: "not tried"}[row["reads"]]
    return f"{state}: {row['detail']}" if row["detail"] else state


def _mark(state: bool | None) -> str:
    return {True: "yes", False: "NO", None: "–"}[state]
