"""Convert foreign weights to files of elastictool, for ``init``, ``eval`` and ``predict``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from elastictool.checkpoint.metadata import WeightsMetadata, read_metadata
from elastictool.checkpoint.weights import feature_extractor_of, import_weights, save_weights
from elastictool.config import FbankConfig, InitConfig, LengthConfig, RunConfig
from elastictool.config.loader import with_settings
from elastictool.corpora.classes import ClassTable, read_names
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.pretrained.geometry import same_area_grid
from elastictool.pretrained.importer import Imported
from elastictool.pretrained.report import ImportReport
from elastictool.pretrained.source import OWN_NAME
from elastictool.pretrained.transfer import official_settings, transfer
from elastictool.utils.errors import CheckpointError, UsageError
from elastictool.utils.io import write_json

PICTURE_BINS, PICTURE_FRAMES = 128, 1_024
"""The input that an image model is fitted to by default, as in the published AST code."""


@dataclasses.dataclass(frozen=True)
class Converted:
    """The result of a conversion.

    Attributes:
        out: The weights.
        report_file: The import report next to them.
        config: As kept in the file's metadata.
        label_names: Class names; numbers where they are unknown.
        report: How each key was used.
    """

    out: Path
    report_file: Path
    config: RunConfig
    label_names: tuple[str, ...]
    report: ImportReport


def convert(
    form: str, source: str, out: Path, sets: Sequence[str] = (), labels: Path | None = None
) -> Converted:
    """Converts ``source`` to ``out``; without ``sets`` the model is the file's own.

    Args:
        form: Name of the format.
        source: File, folder, run or hub id.
        out: A .safetensors file; its report goes next to it.
        sets: Settings (``section.key=value``): how to import, and changes to the model.
        labels: A text file of class names, one a line, or ``class_labels_indices.csv``.

    Raises:
        UsageError: A setting is wrong, or a file missing.
        CheckpointError: The weights cannot be used with these settings.
    """
    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out} does not end in .safetensors")
    how = [text for text in sets if text.startswith("init.")]
    for key in (text.partition("=")[0].strip() for text in how):
        if key in _OF_TRAINING:
            raise UsageError(f"convert takes no {key}", _OF_TRAINING[key])
    init = with_settings(RunConfig(init=InitConfig(source=form, path=source)), how).init
    weights = import_weights(init)
    config = target_config(weights, [text for text in sets if text not in how])
    names = _label_names(weights, labels, config.model.num_classes)
    torch.manual_seed(config.seed)
    model = SpectrogramTransformer(config.model)
    report = transfer(model, weights, init)
    config = dataclasses.replace(config, name=out.stem)
    if config.data.mean is None:
        report.notes.append(
            "mean and std of the input are unknown: --set data.mean=… --set data.std=…"
        )
    kept = _metadata(weights, config, names)
    metrics = {**kept.metrics, "imported_from": form, "imported_sha256": report.sha256}
    save_weights(out, model, dataclasses.replace(kept, metrics=metrics))
    report_file = out.with_suffix(".import_report.json")
    write_json(report_file, dataclasses.asdict(report))
    return Converted(out, report_file, config, names, report)


_OF_TRAINING = {
    "init.from": "--from names the format",
    "init.path": "the source is the argument",
    "init.model": "the model is the file's own, changed by --set model.…",
    "init.head": "a new classifier is drawn where it is trained: train --set init.head=replace",
}


def _metadata(weights: Imported, config: RunConfig, names: tuple[str, ...]) -> WeightsMetadata:
    """Returns what the file records; scores and thresholds only of an unchanged model and input."""
    metadata = WeightsMetadata(config, names, config.train.loss == "bce", metrics={})
    if weights.report.format != OWN_NAME:
        return metadata
    own = read_metadata(Path(weights.report.file))
    parts = ("model", "fbank", "length", "data")
    if all(getattr(config, part) == getattr(own.config, part) for part in parts):
        return dataclasses.replace(own, config=config, label_names=names)
    if own.thresholds:
        weights.report.notes.append(
            "decision thresholds are left out: they were chosen with the unchanged model"
        )
    return dataclasses.replace(metadata, multi_label=own.multi_label)


def target_config(weights: Imported, sets: Sequence[str] = ()) -> RunConfig:
    """Returns the weights' own configuration with ``sets``; the grid follows the new input."""
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
    official = official_settings(weights, config.model.pooling, config.model, base.model)
    model = dataclasses.replace(config.model, **official)
    if model.grid == source.model.grid:
        grid = _grid(weights, dataclasses.replace(config, model=model))
        model = dataclasses.replace(model, grid=grid)
    return dataclasses.replace(config, model=model)


def _grid(weights: Imported, config: RunConfig) -> tuple[int, int]:
    """Returns the grid of clips of the fixed length, else one of the weights' own area."""
    source = weights.config
    frames = config.length.fixed_frames
    if not weights.image:
        same_patches = source.length.fixed_frames == frames and all(
            getattr(source.model, name) == getattr(config.model, name)
            for name in ("patch_size", "patch_stride", "num_mel_bins")
        )
        frames = frames or source.length.fixed_frames
        if not frames or same_patches:
            return same_area_grid(source.model, config.model)
    length = dataclasses.replace(config.length, fixed_frames=frames)
    data = dataclasses.replace(config.data, mean=0.0, std=1.0)  # the grid does not ask for them
    config = dataclasses.replace(config, length=length, data=data)
    return feature_extractor_of(config).longest_grid()


def _label_names(weights: Imported, labels: Path | None, count: int) -> tuple[str, ...]:
    """Returns names from ``labels`` (lines or AudioSet's table), the weights' names, or numbers."""
    if labels is None:
        return weights.label_names or tuple(str(index) for index in range(count))
    is_table = labels.suffix.lower() == ".csv"
    names = tuple(ClassTable.read(labels).names if is_table else read_names(labels))
    if len(names) != count:
        raise CheckpointError(
            f"{labels} has {len(names)} names, the classifier of the weights {count} classes",
            "give one name a line, in the order of the classes",
        )
    return names
