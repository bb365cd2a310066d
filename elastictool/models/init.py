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


def initialize(model: nn.Module, config: ModelConfig) -> None:
    """Draws new values for all parameters of ``model``, from torch's global generator.

    Source of the standard deviation 0.02: ViT as in timm; DeiT; AST.
    """
    kind = config.initialization
    for name, parameter in model.named_parameters():
        unit = name.startswith("pos_embed.") and kind in ("official", "scaled")
        if "norm" in name:
            nn.init.constant_(parameter, 1.0 if name.endswith("weight") else 0.0)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif unit or (kind == "official" and name == "attn_pool.latent"):
            nn.init.normal_(parameter, std=1.0)
        elif kind == "scaled" and name.endswith("weight"):
            joint = name.endswith(("qkv.weight", "attn_pool.kv.weight"))
            for matrix in torch.split(parameter, config.width) if joint else (parameter,):
                nn.init.xavier_uniform_(matrix)
        else:
            nn.init.trunc_normal_(parameter, std=0.02)
