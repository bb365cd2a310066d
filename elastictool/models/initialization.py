"""Starting values of a new model.

``vit`` draws everything learned from a truncated normal of standard deviation 0.02. ``official``
starts positions and the pooling query with standard deviation 1, as the published ElasticAST
code does, which holds the model back on small data.
"""

from __future__ import annotations

from torch import nn

from elastictool.config import ModelConfig

WEIGHT_STD = 0.02
"""Standard deviation of weights and embeddings. Source: ViT as in timm; DeiT; AST."""
OFFICIAL_STD = 1.0
"""Standard deviation of positions and pooling query in the published ElasticAST code."""


def initialize(model: nn.Module, config: ModelConfig) -> None:
    """Draw new values for all parameters of ``model``, from torch's global generator."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.constant_(parameter, 1.0 if name.endswith("weight") else 0.0)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.trunc_normal_(parameter, std=WEIGHT_STD)
            if config.initialization == "official" and _official(name):
                nn.init.normal_(parameter, std=OFFICIAL_STD)


def _official(name: str) -> bool:
    return name.startswith("positions.") or name == "pooling.query"
