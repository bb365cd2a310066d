"""Untrained run directories for tests of evaluation, sweep and reports."""

from __future__ import annotations

from pathlib import Path

import torch

from elastictool.checkpoint.metadata import WeightsMetadata
from elastictool.checkpoint.run_directory import RunDirectory
from elastictool.checkpoint.weights import save_weights
from elastictool.config.loader import run_config
from elastictool.data.store import PreparedStore
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.training.setup import resolve


def save_run(path: Path, store: PreparedStore, preset: str = "elasticast", **length: int) -> Path:
    """An untrained run directory, as training would leave it."""
    model = {"preset": preset, "width": 32, "depth": 2, "heads": 2}
    data = {"dataset": str(store.path)}
    values = {"name": path.name, "data": data, "model": model, "length": length, "flexi.sizes": []}
    config, _ = resolve(run_config(values, complete=False), store)
    torch.manual_seed(0)
    network = SpectrogramTransformer(config.model)
    with torch.no_grad():  # larger weights, so that untrained logits differ from clip to clip
        for parameter in network.parameters():
            parameter.mul_(4)
    run = RunDirectory(path)
    run.create(overwrite=False)
    run.write_config(config, store.info.fingerprint)
    names, multi_label = tuple(store.info.label_names), store.info.multi_label
    metadata = WeightsMetadata(config, names, multi_label, {"epoch": 1, "step": 1})
    save_weights(run.best_weights, network, metadata)
    return path
