"""Average a run's weights: a moving average over steps, and the mean of some epochs.

Training itself continues with its own weights, unchanged. The moving average, where there is one,
replaces them wherever weights are validated or saved; the mean averages what each epoch saves.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from elastictool.config import TrainConfig
from elastictool.models.transformer import SpectrogramTransformer

WARM_UP_STEPS = 10
"""The decay is at most (1 + step) / (10 + step), so that the average soon forgets the untrained
weights. Source: TensorFlow's ``num_updates``."""


class Averages:
    """The averages that a run asks for; with neither, ``evaluated`` is the model itself.

    Args:
        model: The model in training.
        config: ``ema_decay`` and ``average_epochs``.

    Attributes:
        evaluated: The model to validate and to save: the moving average, or the model itself.
    """

    def __init__(self, model: SpectrogramTransformer, config: TrainConfig) -> None:
        self._model = model
        self._decay = config.ema_decay
        self._first, self._last = config.average_epochs
        self._moving = AveragedModel(model) if self._decay else None
        # On the CPU: a GPU has no room to spare for what is used once.
        self._mean = AveragedModel(model, torch.device("cpu")) if self._last else None
        self.evaluated = model
        if self._moving is not None:
            self._moving.update_parameters(model)  # the first update copies
            self.evaluated = cast(SpectrogramTransformer, self._moving.module.eval())

    def start(self) -> None:
        """Begins the moving average at the weights that training begins with."""
        if self._moving is not None:
            self.evaluated.load_state_dict(self._model.state_dict())

    def after_step(self, step: int) -> None:
        """Moves the average towards the weights after optimiser step ``step`` (from 1)."""
        if self._moving is None:
            return
        decay = min(self._decay, (1 + step) / (WARM_UP_STEPS + step))
        self._moving.multi_avg_fn = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._moving.update_parameters(self._model)

    def after_epoch(self, epoch: int) -> SpectrogramTransformer | None:
        """Adds ``epoch`` (from 1) to the mean, once; returns the mean after its last epoch.

        A run that is stopped while the mean is validated asks for it again: it stays until
        ``drop_mean``.

        Source: ``validate_wa`` of the AST code, which sums the saved epochs; here the mean is
            updated epoch by epoch, so a weight that never changes (frozen) keeps its last bit.
        """
        if self._mean is None or not self._first <= epoch <= self._last:
            return None
        if epoch - self._first + 1 > int(self._mean.n_averaged):
            self._mean.update_parameters(self.evaluated)
        if epoch < self._last:
            return None
        device = next(self._model.parameters()).device
        return cast(SpectrogramTransformer, copy.deepcopy(self._mean.module).to(device).eval())

    def drop_mean(self) -> None:
        """Forgets the mean once it is written."""
        self._mean = None

    def state_dict(self) -> dict[str, Any]:
        """Returns what a resumed run needs in addition to the weights."""
        counted = self._mean is not None and int(self._mean.n_averaged) > 0
        return {
            "moving": self._moving.state_dict() if self._moving is not None else {},
            "mean": self._mean.state_dict() if counted and self._mean is not None else {},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        if self._moving is not None:
            self._moving.load_state_dict(state["moving"])
        if self._mean is not None and state["mean"]:
            self._mean.load_state_dict(state["mean"])
