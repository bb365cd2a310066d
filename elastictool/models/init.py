"""Initialise the weights of a new model.

``vit`` draws everything learned from a truncated normal of standard deviation 0.02. ``official``
starts positions and the pooling query with standard deviation 1, as the published ElasticAST
code does. ``scaled`` draws each weight by its size (Xavier, as big_vision and MAE do) and
positions with standard deviation 1, about the size of a patch's own token. 0.02 suits a width of
768 and long training; in a narrow model trained briefly every layer starts slowly with it, and
positions are too small against the patches for the first epochs.
"""

from __future__ import annotations

import torch
from torch import nn

from elastictool.config import ModelConfig

WEIGHT_STD = 0.02
"""Standard deviation of weights and embeddings. Source: ViT as in timm; DeiT; AST."""
UNIT_STD = 1.0
"""Standard deviation of positions (and, as published, of the pooling query)."""


def initialize(model: nn.Module, config: ModelConfig) -> None:
    """Draw new values for all parameters of ``model``, from torch's global generator."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.constant_(parameter, 1.0 if name.endswith("weight") else 0.0)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif _unit_scaled(name, config.initialization):
            nn.init.normal_(parameter, std=UNIT_STD)
        elif config.initialization == "scaled" and name.endswith("weight"):
            for matrix in _matrices(name, parameter, config.width):
                nn.init.xavier_uniform_(matrix)
        else:
            nn.init.trunc_normal_(parameter, std=WEIGHT_STD)


def _unit_scaled(name: str, kind: str) -> bool:
    """Return whether a parameter starts with standard deviation 1."""
    if name.startswith("pos_embed."):
        return kind in ("official", "scaled")
    return kind == "official" and name == "attn_pool.latent"


def _matrices(name: str, weight: torch.Tensor, width: int) -> tuple[torch.Tensor, ...]:
    """Split a weight into its projections: joint q, k, v are drawn as one matrix each."""
    joint = name.endswith(("qkv.weight", "attn_pool.kv.weight"))
    return torch.split(weight, width) if joint else (weight,)
