"""Start a run from existing weights: ``init: {from: FORMAT, path: …}``.

They are read and checked before the run directory is touched, loaded into the new model, and
recorded in the run. A resumed run has its own weights and does not read these again.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from elastictool.checkpoint.run_directory import RunDirectory
from elastictool.checkpoint.weights import import_weights
from elastictool.config import RunConfig
from elastictool.data.paths import find_recorded_dataset
from elastictool.data.splits import Splits, select_clips
from elastictool.data.store import PreparedStore
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.pretrained.importer import Imported
from elastictool.pretrained.source import OWN_NAME
from elastictool.pretrained.transfer import model_for, require_labels, transfer
from elastictool.utils.errors import ElasticToolError
from elastictool.utils.io import write_json
from elastictool.utils.progress import Progress


def read_initial(config: RunConfig, store: PreparedStore) -> tuple[RunConfig, Imported | None]:
    """Returns ``config`` with what its initial weights decide, and these weights.

    Raises:
        UsageError: There are no such weights, or a setting contradicts them.
        CheckpointError: They cannot be used, or are for other labels.
    """
    if not config.init.source:
        return config, None
    weights = import_weights(config.init)
    require_labels(weights, store.info.label_names, config.init)
    return model_for(weights, config), weights


def leak_notes(weights: Imported | None, store: PreparedStore, splits: Splits) -> list[str]:
    """Warns if the run of ``weights`` was trained on validation or test clips of this one.

    That happens with another fold, or another seed of drawn splits.
    """
    if weights is None or weights.report.format != OWN_NAME:
        return []
    before, file = weights.config, Path(weights.report.file)
    try:
        data_folder = (
            find_recorded_dataset(before.data.dataset, file) if before.data.dataset else None
        )
        if data_folder is None:
            return []
        earlier = PreparedStore.open(data_folder)
        names = [(data.info.corpus, data.info.name) for data in (earlier, store)]
        if earlier.info.fingerprint != store.info.fingerprint and names[0] != names[1]:
            return []  # ids of other data mean other clips
        clips = select_clips(earlier, before.data, before.seed, to_train=False).train
    except ElasticToolError:  # data of an earlier run may be gone or changed
        return []
    known = earlier.ids[clips]
    parts = {"test": splits.test, "validation": splits.validation}
    seen = {name: int(np.isin(store.ids[clips], known).sum()) for name, clips in parts.items()}
    found = [f"{seen[name]} of {len(parts[name])} {name} clips" for name in parts if seen[name]]
    if not found:
        return []
    return [
        f"{file} was trained on {' and '.join(found)} of this run: their scores will be too good; "
        "keep data.test_fold, the splits and the seed of that run"
    ]


def start_from(
    weights: Imported | None,
    model: SpectrogramTransformer,
    config: RunConfig,
    run: RunDirectory,
    progress: Progress,
) -> None:
    """Loads the weights into the new model, logs it and writes ``import_report.json``."""
    if weights is None:
        return
    report = transfer(model, weights, config.init)
    for what, text in report.lines():
        progress.log(f"{what}: {text}")
    if run.writes:
        write_json(run.import_report, dataclasses.asdict(report))
