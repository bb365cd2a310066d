"""From what a user types after ``--dataset``, or a run says of its data, to a prepared folder."""

from __future__ import annotations

from pathlib import Path

from elastictool.data.store import DATA_ROOT, latest_dataset
from elastictool.utils.errors import UsageError
from elastictool.utils.io import INFO_NAME, PROGRESS_FOLDER, as_argument


def find_dataset(text: str) -> Path:
    """A folder as it is, a name under the data root, or (for an empty text) the latest dataset.

    Raises:
        UsageError: There is no such prepared dataset; the hint lists what there is.
    """
    if not text:
        return latest_dataset()
    for path in (Path(text), DATA_ROOT / text):
        if (path / INFO_NAME).is_file():
            return path
    for path in (Path(text), DATA_ROOT / text):
        if (path / PROGRESS_FOLDER).is_dir():
            raise UsageError(
                f"{path} is not finished", "the same elastictool prep as before continues there"
            )
    raise UsageError(
        f"{text!r} is neither a prepared folder nor a name under {DATA_ROOT}", _what_there_is(text)
    )


def _what_there_is(text: str) -> str:
    """What may be meant by ``text``: data in it (what went to ``prep --out``), or by name."""
    if inside := sorted(info.parent for info in Path(text).glob(f"*/{INFO_NAME}")):
        return f"prepared in it: {', '.join(map(as_argument, inside))}"
    known = sorted(info.parent.name for info in DATA_ROOT.glob(f"*/{INFO_NAME}"))
    return f"prepared there: {', '.join(known)}" if known else "make one: elastictool prep --help"


def find_recorded_dataset(text: str, run: Path) -> Path | None:
    """The prepared folder that ``run`` (a directory or a file) has on record; None if it is gone.

    A path that is not absolute was seen from where the run was started, which is most often a
    folder above it; so a run finds its data whatever folder it is used from, and also where the
    whole project has moved.
    """
    for folder in (*run.absolute().parents, Path()):
        found = folder / text
        if (found / INFO_NAME).is_file():
            same_here = Path(text).exists() and Path(text).samefile(found)
            return Path(text) if same_here else found
    return None


def require_recorded_dataset(text: str, run: Path, name: str) -> Path:
    """The prepared folder that a run called ``name`` has on record.

    Raises:
        UsageError: It is gone; no other data take its place unasked.
    """
    found = find_recorded_dataset(text, run)
    if found is None:
        raise UsageError(
            f"{text}, the data that {name} was trained on, is not there",
            "name the prepared data with --dataset",
        )
    return found
