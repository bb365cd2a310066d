"""Records what an import did with each tensor, so that nothing is dropped silently.

The report is written while the import runs: which tensors are loaded unchanged, resized, left out
(and why), or missing in the file (and what they start from instead).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from elastictool.utils.errors import CheckpointError

SHOWN = 5
"""Names listed in a message; the report in JSON holds all."""


@dataclass
class ImportReport:
    """Loaded, resized, ignored and missing keys of one import.

    Attributes:
        format: Name of the format.
        source: File, folder or hub id, as the user gave it.
        file: The weights file that was read.
        sha256: Of that file.
        loaded: Our names and the file's keys that each was made of.
        resized: Our names and what was done to fit them to the model.
        ignored: The file's keys and why each was left out.
        missing: Our names and what they start from instead.
        notes: What was inferred and not read.
    """

    format: str
    source: str
    file: str
    sha256: str
    loaded: dict[str, list[str]] = field(default_factory=dict)
    resized: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """Returns the report as plain values, for JSON."""
        return asdict(self)

    def lines(self) -> list[tuple[str, str]]:
        """Returns the report in a few rows for people: what, and how many or which."""
        rows = [("weights", f"{self.source} ({self.format})"), ("sha256", self.sha256)]
        rows.append(("loaded", f"{len(self.loaded)} tensors"))
        rows += [("resized", f"{name}: {how}") for name, how in self.resized.items()]
        rows += [("ignored", line) for line in _by_reason(self.ignored)]
        rows += [("missing", line) for line in _by_reason(self.missing)]
        rows += [("note", note) for note in self.notes]
        return rows

    def leave_out(self, name: str, reason: str) -> None:
        """Records that our tensor ``name`` was read and is not needed by the model."""
        keys = self.loaded.pop(name)
        used = {key for others in self.loaded.values() for key in others}
        self.ignored |= {key: reason for key in keys if key not in used}


def require_explained(
    report: ImportReport, unexplained: Iterable[str], missing: Iterable[str], hint: str
) -> None:
    """Checks that every key of the file is used or known to be useless, and that none is missing.

    Raises:
        CheckpointError: There are others, or one is missing.
    """
    problems = [
        f"{what} {listed(keys)}"
        for what, keys in (("unexplained", sorted(unexplained)), ("missing", sorted(missing)))
        if keys
    ]
    if problems:
        raise CheckpointError(
            f"{report.file} is not quite a file of the format {report.format}: "
            f"{'; '.join(problems)}",
            hint,
        )


def listed(names: list[str]) -> str:
    """Returns the first few names, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _by_reason(reasons: Mapping[str, str]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        groups.setdefault(reason, []).append(name)
    return [f"{listed(names)}: {reason}" for reason, names in groups.items()]
