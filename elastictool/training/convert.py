"""Foreign weights as one of our files, which ``init``, ``eval`` and ``predict`` can use."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from elastictool.config import FbankConfig, InitConfig, LengthConfig, RunConfig
from elastictool.errors import CheckpointError, UsageError
from elastictool.files import write_json
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.pretrained.geometry import same_area_grid
from elastictool.pretrained.importer import Imported, import_weights
from elastictool.pretrained.report import ImportReport
from elastictool.pretrained.transfer import transfer
from elastictool.settings import with_settings
from elastictool.training.checkpoint import front_end_of, save_weights

PICTURE_BINS, PICTURE_FRAMES = 128, 1_024
"""What an image model is fitted to unless told otherwise, as the published AST code does."""


@dataclasses.dataclass(frozen=True)
class Converted:
    """What a conversion wrote.

    Attributes:
        out: The weights.
        report_file: The import report beside them.
        config: As kept in the file's metadata.
        label_names: Class names; numbers where they are unknown.
        report: What became of each key.
    """

    out: Path
    report_file: Path
    config: RunConfig
    label_names: tuple[str, ...]
    report: ImportReport


def convert(
    form: str, source: str, out: Path, sets: Sequence[str] = (), labels: Path | None = None
) -> Converted:
    """Convert ``source`` to ``out``; without ``sets`` the model is the file's own.

    Args:
        form: Name of the format.
        source: File, folder, run or hub id.
        out: A .safetensors file; its report goes beside it.
        sets: Settings (``section.key=value``): how to import, and changes to the model.
        labels: A text file of class names, one a line.

    Raises:
        UsageError: A setting is wrong, or a file missing.
        CheckpointError: The weights cannot be used as told.
    """
    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out} does not end in .safetensors")
    how = [text for text in sets if text.startswith("init.")]
    init = with_settings(RunConfig(init=InitConfig(source=form, path=source)), how).init
    weights = import_weights(init)
    config = target_config(weights, [text for text in sets if text not in how])
    names = _label_names(weights, labels, config.model.num_classes)
    torch.manual_seed(config.seed)
    model = SpectrogramTransformer(config.model)
    report = transfer(model, weights, init)
    config = dataclasses.replace(config, name=out.stem)
    if config.data.mean is None:
        report.notes.append("mean and std of the input are unknown: --set data.mean=… data.std=…")
    origin = {"imported_from": form, "imported_sha256": report.sha256}
    save_weights(out, model, config, names, config.train.loss == "bce", origin)
    report_file = out.with_suffix(".import_report.json")
    write_json(report_file, report.document())
    return Converted(out, report_file, config, names, report)


def target_config(weights: Imported, sets: Sequence[str] = ()) -> RunConfig:
    """The weights' own configuration with ``sets``; a grid that no longer fits is made anew."""
    source = weights.config
    base = dataclasses.replace(source, init=InitConfig())
    if weights.image:
        base = dataclasses.replace(
            base,
            fbank=FbankConfig(num_mel_bins=PICTURE_BINS),
            length=LengthConfig(fixed_frames=PICTURE_FRAMES, edge="drop"),
            model=dataclasses.replace(base.model, num_mel_bins=PICTURE_BINS),
        )
    config = with_settings(base, sets)
    fixed = ("width", "depth", "heads", "mlp_ratio", "num_classes")
    changed = [name for name in fixed if getattr(config.model, name) != getattr(base.model, name)]
    if changed:
        raise UsageError(
            f"model.{changed[0]} cannot be changed: it is what the weights are",
            "change patches, positions, pooling or prefix tokens",
        )
    if config.model.grid != source.model.grid:
        return config
    grid = _grid(weights, config)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, grid=grid))


def _grid(weights: Imported, config: RunConfig) -> tuple[int, int]:
    """The grid of clips of the fixed length, if there is one; else of the weights' own area."""
    source = weights.config
    frames = config.length.fixed_frames
    if not weights.image:
        frames = frames or source.length.fixed_frames
        if not frames or _same_patches(source, config):
            return same_area_grid(source.model, config.model)
    length = dataclasses.replace(config.length, fixed_frames=frames)
    data = dataclasses.replace(config.data, mean=0.0, std=1.0)  # the grid does not ask for them
    return front_end_of(dataclasses.replace(config, length=length, data=data)).longest_grid()


def _same_patches(source: RunConfig, config: RunConfig) -> bool:
    """Whether clips become the same patches under both configurations."""
    patches = ("patch_size", "patch_stride", "num_mel_bins")
    return source.length.fixed_frames == config.length.fixed_frames and all(
        getattr(source.model, name) == getattr(config.model, name) for name in patches
    )


def _label_names(weights: Imported, labels: Path | None, count: int) -> tuple[str, ...]:
    if labels is None:
        return weights.label_names or tuple(str(index) for index in range(count))
    try:
        lines = labels.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {labels}: {error}", "check --labels") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(names) != count:
        raise CheckpointError(
            f"{labels} has {len(names)} names, the classifier of the weights {count} classes",
            "give one name a line, in the order of the classes",
        )
    return names
