"""Starting values of a new model.

``vit`` draws everything learned from a truncated normal of standard deviation 0.02. ``official``
starts positions and the pooling query with standard deviation 1, as the published ElasticAST
code does, which holds the model back on small data. ``xavier`` draws weights by their size (as
big_vision and MAE do): 0.02 suits a width of 768, and makes a narrow model start slowly.
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
        elif config.initialization == "xavier" and name.endswith("weight"):
            for matrix in parameter.split(config.width) if _joint(name) else [parameter]:
                nn.init.xavier_uniform_(matrix)
        else:
            nn.init.trunc_normal_(parameter, std=WEIGHT_STD)
            if config.initialization == "official" and _official(name):
                nn.init.normal_(parameter, std=OFFICIAL_STD)


def _joint(name: str) -> bool:
    """Whether a weight is several projections stacked, each to be drawn as a matrix of its own."""
    return name.endswith(("qkv.weight", "to_kv.weight"))


def _official(name: str) -> bool:
    return name.startswith("positions.") or name == "pooling.query"
