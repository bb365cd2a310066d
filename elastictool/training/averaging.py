"""Averages of a run's weights: a moving one over steps, and the mean of some epochs.

Both only watch: training goes on with its own weights, to the same bits as without them. The
moving average, where there is one, takes their place wherever weights are judged or saved; the
mean of epochs averages what each epoch would have saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from elastictool.config import TrainConfig
from elastictool.models.transformer import SpectrogramTransformer

WARM_UP_STEPS = 10
"""How slowly a moving average forgets the untrained weights. Source: TensorFlow's ``num_updates``
(decay of at most (1 + step) / (10 + step))."""


class Averages:
    """The averages that a run asks for; with neither, it only hands the model through.

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
        self._sums: dict[str, Tensor] = {}
        self._counted = 0
        self.evaluated = clone_model(model, model.state_dict()) if self._decay else model

    def start(self) -> None:
        """Begin the moving average at the weights that training begins with (imported ones too)."""
        if self._decay:
            self.evaluated.load_state_dict(self._model.state_dict())

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the average towards the weights that optimiser step ``step`` (from 1) has left."""
        if not self._decay:
            return
        decay = min(self._decay, (1 + step) / (WARM_UP_STEPS + step))
        moving, weights = self.evaluated.state_dict(), self._model.state_dict()
        # One call, or on CUDA a few, in place of one for each of some 150 tensors: the same bits.
        torch._foreach_lerp_([moving[name] for name in weights], [*weights.values()], 1 - decay)

    def after_epoch(self, epoch: int) -> SpectrogramTransformer | None:
        """Count ``epoch`` (from 1) in, once; at the last epoch of the mean, a model that has it.

        A run that is stopped while the mean is being scored asks for it again: the sums stay until
        ``drop_sums``.

        Source: ``validate_wa`` of the AST code, which sums the saved epochs in float32; float64
            keeps a weight that never changes (frozen) to its last bit.
        """
        if not self._first <= epoch <= self._last:
            return None
        weights = self.evaluated.state_dict()
        if epoch > self._counted:
            self._counted = epoch
            for name, value in weights.items():
                value = value.detach().to("cpu", torch.float64, copy=True)
                self._sums[name] = self._sums[name] + value if name in self._sums else value
        if epoch < self._last:
            return None
        count = self._last - self._first + 1
        means = {name: (self._sums[name] / count).to(value) for name, value in weights.items()}
        return clone_model(self._model, means)

    def drop_sums(self) -> None:
        """Forget what the mean was made of, once it is written."""
        self._sums = {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the weights."""
        moving = self.evaluated.state_dict() if self._decay else {}
        return {"moving": moving, "sums": self._sums, "counted": self._counted}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what ``state_dict`` gave."""
        if self._decay:
            self.evaluated.load_state_dict(state["moving"])
        self._sums, self._counted = dict(state["sums"]), state.get("counted", 0)


def clone_model(
    model: SpectrogramTransformer, weights: Mapping[str, Tensor]
) -> SpectrogramTransformer:
    """A second model of the same kind with a copy of ``weights``; draws no random number."""
    with torch.device("meta"):
        other = SpectrogramTransformer(model.config, model.attention)
    other.load_state_dict({name: value.clone() for name, value in weights.items()}, assign=True)
    return other.eval()
