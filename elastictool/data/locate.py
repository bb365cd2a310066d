"""From what a user types after ``--dataset`` to a prepared folder."""

from __future__ import annotations

from pathlib import Path

from elastictool.data.store import DATA_ROOT, latest_dataset
from elastictool.errors import UsageError
from elastictool.files import INFO_NAME, PROGRESS_FOLDER


def locate_dataset(text: str) -> Path:
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
    known = sorted(info.parent.name for info in DATA_ROOT.glob(f"*/{INFO_NAME}"))
    raise UsageError(
        f"{text!r} is neither a prepared folder nor a name under {DATA_ROOT}",
        f"prepared there: {', '.join(known)}" if known else "make one: elastictool prep --help",
    )
