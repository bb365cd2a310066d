"""AST-family lists: ``{"data": [{"wav": PATH, "labels": "mid,mid"}]}`` with a class table.

This is what the AST, SSAST and published ElasticAST repositories train from, so their users can
move over with the files they have: one list for each split and ``class_labels_indices.csv``.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elastictool.corpora.base import (
    CORPORA,
    SPLIT_NAMES,
    CorpusOptions,
    Listing,
    MissingClip,
    SourceClip,
    chosen_task,
    require_root,
    source_files,
)
from elastictool.corpora.remarks import repeated_slices
from elastictool.errors import UsageError
from elastictool.registry import nearest_hint

CLASS_TABLE = "class_labels_indices.csv"


@dataclass(frozen=True)
class AudioLists:
    """Lists the entries of JSON lists; each file's name says its split."""

    name: str = "json"
    tasks: tuple[str, ...] = ()
    subsets: tuple[str, ...] = ()
    default_root: Path | None = None

    def describe(self) -> str:
        """The files that are wanted."""
        return (
            "--dataset json --root FOLDER (or one list): the lists of the AST repositories,\n"
            '  {"data": [{"wav": PATH, "labels": "mid,mid"}]}, one file for each split; a name\n'
            "  that holds train, val, dev, test or eval says which (else: train)\n"
            f"  {CLASS_TABLE} (index,mid,display_name) beside them; without it labels are taken\n"
            "  as they are, in alphabetical order\n"
            "Relative paths start at the folder of the list. Such lists are also written by\n"
            "elastictool data export --lists."
        )

    def list_clips(self, root: Path | None, options: CorpusOptions) -> Listing:
        """The entries whose file exists; the others are ``missing``.

        Raises:
            UsageError: No list, a list of another form, or a label that the table lacks.
        """
        chosen_task(self, options)
        place = require_root(root, self)
        lists = sorted(place.glob("*.json")) if place.is_dir() else [place]
        if not lists:
            raise UsageError(f"no .json list in {place}", self.describe())
        folder = place if place.is_dir() else place.parent
        entries = [(path, entry) for path in lists for entry in _entries(path)]
        classes = ClassTable.read(folder / CLASS_TABLE, [entry[1] for _, entry in entries])
        listing = Listing(
            name=folder.resolve().name if place.is_dir() else place.stem,
            root=folder,
            clips=[],
            label_names=classes.names,
            multi_label=any(len(mids) > 1 for _, (_, mids) in entries),
        )
        seen: set[str] = set()
        for path, (named, mids) in entries:
            wav = _relative(named, folder)
            clip_id = wav if wav not in seen else f"{wav}@{path.stem}{len(seen)}"
            seen.add(clip_id)
            labels = tuple(classes.name(mid, path) for mid in mids)
            clip = SourceClip(clip_id, wav, None, None, labels, _split(path))
            if (folder / wav).is_file():
                listing.clips.append(clip)
            else:
                listing.missing.append(MissingClip(clip_id, wav, clip.split))
        listing.remarks = repeated_slices(listing.clips, source_files(listing.clips, folder))
        return listing


@dataclass(frozen=True)
class ClassTable:
    """Class names in their published order, by machine identifier.

    Attributes:
        names: All names in order.
        by_mid: Name of each identifier.
    """

    names: list[str]
    by_mid: dict[str, str]

    @classmethod
    def read(cls, path: Path, used: Sequence[Sequence[str]] = ()) -> ClassTable:
        """The table at ``path``; where there is none, the ``used`` identifiers are the names.

        Raises:
            UsageError: It is no such table, or there is neither a table nor a label.
        """
        if not path.is_file():
            names = sorted({mid for mids in used for mid in mids})
            if not names:
                raise UsageError(f"{path} does not exist", f"put {CLASS_TABLE} there")
            return cls(names, {name: name for name in names})
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, skipinitialspace=True))
        if not rows or [name.strip() for name in rows[0][:3]] != ["index", "mid", "display_name"]:
            raise UsageError(
                f"{path} does not begin with index,mid,display_name",
                f"take {CLASS_TABLE} as it is published",
            )
        body = [row for row in rows[1:] if len(row) >= 3]
        names = [row[2] for row in sorted(body, key=lambda row: int(row[0]))]
        if len(set(names)) < len(names):
            names = [f"{row[2]} ({row[1]})" for row in body]
            return cls(names, dict(zip((row[1] for row in body), names, strict=True)))
        return cls(names, {row[1]: row[2] for row in body})

    def name(self, mid: str, source: Path) -> str:
        """The class of ``mid``, which may also be a class's name.

        Raises:
            UsageError: There is none.
        """
        if mid in self.by_mid:
            return self.by_mid[mid]
        if mid in self.names:
            return mid
        raise UsageError(
            f"{source}: the label {mid!r} is not in {CLASS_TABLE}",
            nearest_hint(mid, list(self.by_mid)[:20]),
        )


def _entries(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(wav, labels) of each entry."""
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        for number, entry in enumerate(document["data"]):
            wav, labels = entry["wav"], entry["labels"]
            mids = tuple(mid.strip() for mid in labels.split(",") if mid.strip())
            if not wav or not mids:
                raise UsageError(
                    f"{path}, entry {number}: an empty path or no label", "mend or remove it"
                )
            yield wav, tuple(dict.fromkeys(mids))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f'{path} is not of the form {{"data": [{{"wav": …, "labels": …}}]}}: {error!r}',
            "see elastictool prep --dataset json",
        ) from error


def _relative(wav: str, folder: Path) -> str:
    """A path below the list's folder from there on, so that where it lies changes nothing."""
    path = Path(wav)
    if path.is_absolute() and path.is_relative_to(folder.absolute()):
        return path.relative_to(folder.absolute()).as_posix()
    return wav


def _split(path: Path) -> str:
    words = re.split(r"[^a-z]+", path.stem.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "train")


CORPORA.register("json")(AudioLists())
