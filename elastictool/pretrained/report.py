"""Records what an import did with each tensor, so that nothing is dropped silently.

The report is written while the import runs: which tensors are loaded unchanged, resized, left out
(and why), or missing in the file (and what they start from instead).
"""

from __future__ import annotations

from dataclasses import dataclass, field


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

    def lines(self) -> list[tuple[str, str]]:
        """Returns the report as a few readable lines: each kind of key, with a number or names."""
        rows = [("weights", f"{self.source} ({self.format})"), ("sha256", self.sha256)]
        rows.append(("loaded", f"{len(self.loaded)} tensors"))
        rows += [("resized", f"{name}: {how}") for name, how in self.resized.items()]
        for what, reasons in (("ignored", self.ignored), ("missing", self.missing)):
            names: dict[str, list[str]] = {}
            for name, reason in reasons.items():
                names.setdefault(reason, []).append(name)
            rows += [(what, f"{listed(names[reason])}: {reason}") for reason in names]
        rows += [("note", note) for note in self.notes]
        return rows

    def leave_out(self, name: str, reason: str) -> None:
        """Records that our tensor ``name`` was read and is not needed by the model."""
        keys = self.loaded.pop(name)
        used = {key for others in self.loaded.values() for key in others}
        self.ignored |= {key: reason for key in keys if key not in used}


def listed(names: list[str]) -> str:
    """Returns the first five names, and how many more there are; the report in JSON has all."""
    more = len(names) - 5
    return ", ".join(names[:5]) + (f" and {more} more" if more > 0 else "")
