"""Untrained run directories for tests of evaluation, sweep and reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from elastictool.checkpoint.metadata import WeightsMetadata
from elastictool.checkpoint.run_directory import RunDirectory
from elastictool.checkpoint.weights import save_weights
from elastictool.config.loader import dump_yaml, load_run_config, run_config
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


def write_run(path: Path, epochs: int, of: int, top1: float = 0.5, **score: float) -> Path:
    """Write the small files of a run, as training and ``eval`` leave them; no weights."""
    (path / "results").mkdir(parents=True)
    config = load_run_config(None, [f"name={path.name}", f"train.epochs={of}"])
    (path / "config.yaml").write_text(dump_yaml(config))
    records: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        records.append({"kind": "step", "step": 2 * epoch, "loss": 1 / epoch, "lr": 1e-3})
        val = {"val_loss": 1 / epoch, "val_top1": top1 - 0.01 * abs(epoch - 2), "val_map": 0.9}
        chosen = {"selection_metric": "top1", "seconds": float(epoch)}
        records.append({"kind": "epoch", "epoch": epoch, "step": 2 * epoch, **val, **chosen})
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (path / "metrics.jsonl").write_text(lines)
    for split, value in score.items():
        document = {
            "run": path.name,
            "model": "ElasticAST",
            "split": split,
            "length": "own",
            "clips": 10,
            "metrics": {"top1": value, "mean_class_accuracy": value, "dprime": None},
            "intervals": {"top1": [value - 0.1, value + 0.1]},
            "per_class": [],
        }
        (path / "results" / f"eval_{split}.json").write_text(json.dumps(document))
    return path
