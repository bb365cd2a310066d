"""Starting a run from weights that exist: ``init: {from: FORMAT, path: …}``.

Read and checked before the run directory is touched, loaded once into the new model, recorded in
the run. A resumed run has its own weights and never looks at these again.
"""

from __future__ import annotations

from pathlib import Path

from elastictool.config import RunConfig
from elastictool.data.store import PreparedStore
from elastictool.errors import UsageError
from elastictool.files import write_json
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.pretrained.importer import Imported, import_weights
from elastictool.pretrained.transfer import model_for, require_labels, transfer
from elastictool.progress import Progress
from elastictool.training.rundir import RunDirectory


def read_initial(config: RunConfig, store: PreparedStore) -> tuple[RunConfig, Imported | None]:
    """The weights that ``config.init`` names, and ``config`` with what they decide.

    Raises:
        UsageError: There are no such weights, or a setting contradicts them.
        CheckpointError: They cannot be used, or are for other labels.
    """
    if not config.init.source:
        return config, None
    weights = import_weights(config.init)
    require_labels(weights, store.info.label_names, config.init)
    return model_for(weights, config), weights


def require_elsewhere(weights: Imported | None, path: Path) -> None:
    """A run must not delete the weights that it starts from.

    Raises:
        UsageError: They are in the run directory ``path`` itself.
    """
    if weights and Path(weights.report.file).resolve().is_relative_to(path.resolve()):
        raise UsageError(
            f"{path} holds the weights that this run starts from and would be written over",
            "--run-dir names another directory",
        )


def start_from(
    weights: Imported | None,
    model: SpectrogramTransformer,
    config: RunConfig,
    run: RunDirectory,
    progress: Progress,
) -> None:
    """Load the weights into the new model, say so and write ``import_report.json``."""
    if weights is None:
        return
    report = transfer(model, weights, config.init)
    for what, text in report.lines():
        progress.say(f"{what}: {text}")
    if run.writes:
        write_json(run.import_report, report.document())
