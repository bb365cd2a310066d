"""Finds the folder of a prepared dataset by its name, or as a run has recorded it."""

from __future__ import annotations

from pathlib import Path

from elastictool.corpora.recognise import prep_line
from elastictool.data.store import DATA_ROOT
from elastictool.utils.errors import UsageError
from elastictool.utils.io import INFO_NAME, PROGRESS_FOLDER, as_argument


def find_dataset(text: str) -> Path:
    """Finds a folder, a name under the data root, or (for an empty text) the latest dataset.

    Raises:
        UsageError: There is no such prepared dataset; the hint lists what there is.
    """
    candidates = (Path(text), DATA_ROOT / text) if text else ()
    for path in candidates:
        if (path / INFO_NAME).is_file():
            return path
    for path in candidates:
        if (path / PROGRESS_FOLDER).is_dir():
            raise UsageError(
                f"{path} is not finished", "the same elastictool prep as before continues there"
            )
    infos = DATA_ROOT.glob(f"*/{INFO_NAME}")
    finished = sorted((info.stat().st_mtime, info.parent) for info in infos)
    if not text:
        if not finished:
            raise UsageError(
                f"no prepared dataset under {DATA_ROOT}",
                "prepare one: elastictool prep my_recordings (or, to try, elastictool prep synth)",
            )
        return finished[-1][1]
    hint = "make one: elastictool prep --help"
    if inside := sorted(info.parent for info in Path(text).glob(f"*/{INFO_NAME}")):
        hint = f"prepared in it: {', '.join(map(as_argument, inside))}"  # a ``prep --out``
    elif line := prep_line(Path(text)):
        raise UsageError(f"{text} is not prepared yet", f"prepare it first: {line}")
    elif finished:
        hint = f"prepared there: {', '.join(sorted(path.name for _, path in finished))}"
    raise UsageError(f"{text!r} is neither a prepared folder nor a name under {DATA_ROOT}", hint)


def find_recorded_dataset(text: str, run: Path) -> Path | None:
    """Finds the prepared folder that ``run`` (a directory or a file) recorded; None if it is gone.

    A relative path starts where the run was started, usually a folder above the run: all folders
    above it are tried. So a run finds its data from any working directory, and after the whole
    project was moved.
    """
    for folder in (*run.absolute().parents, Path()):
        found = folder / text
        if (found / INFO_NAME).is_file():
            same_here = Path(text).exists() and Path(text).samefile(found)
            return Path(text) if same_here else found
    return None


def require_recorded_dataset(text: str, run: Path, name: str) -> Path:
    """Returns the prepared folder that a run called ``name`` recorded.

    Raises:
        UsageError: It is gone; other data have to be named.
    """
    found = find_recorded_dataset(text, run)
    if found is None:
        raise UsageError(
            f"{text}, the data that {name} was trained on, is not there",
            "name the prepared data with --dataset",
        )
    return found
