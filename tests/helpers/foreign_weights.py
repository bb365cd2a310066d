"""For every checkpoint format a small file of random weights, named and shaped as published.

All tensors are drawn anew, norms and positions included, and the stream of tokens is kept small
(RESIDUAL), so that a wrong eps shows as clearly as a wrong scale or a wrong order.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from elastictool.config import DataConfig, LengthConfig, ModelConfig, RunConfig
from elastictool.config.coerce import to_dict
from elastictool.models.transformer import SpectrogramTransformer

RESIDUAL = 1e-3
"""Size of what is added to the stream: its variance is near the eps of the norms."""
_STREAM = (
    "pos_embed", "position", "cls_token", "dist", "prefix", "patch_embed",
    "attn.proj", "attention.output", "o_proj", "attn_pool.proj", ".output.dense", "fc2",
)  # fmt: skip
"""Parts of names of what is added to the stream, or pooled into what the head's norm sees."""
_BEFORE_HEAD_NORM = ("v.norm.", "audio_spectrogram_transformer.layernorm.")


def drawn(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A random tensor that makes ``name`` matter for the logits."""
    values = torch.randn(shape, generator=generator)
    if "norm" in name or "mlp_head.0" in name:
        values.mul_(0.3).add_(1.0 if name.endswith("weight") else 0.0)
        return values.mul_(RESIDUAL) if name.startswith(_BEFORE_HEAD_NORM) else values
    size = RESIDUAL if any(part in name for part in _STREAM) and "head" not in name else 1.0
    if name.endswith("weight"):
        gain = 1.0 if size < 1 else 2.0
        return values.mul_(gain * size * torch.Size(shape[1:]).numel() ** -0.5)
    return values.mul_(size * (0.5 if name.endswith("bias") else 1.0))


@dataclass
class Sample:
    """The content of a checkpoint: tensors and the JSON files in its folder."""

    tensors: dict[str, Any]
    file: str
    documents: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] | None = None
    wrapper: str = ""

    def write(self, folder: Path) -> Path:
        """Write it under ``folder``; returns what a user would name."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.file
        if self.file.endswith(".safetensors"):
            save_file(self.tensors, path, self.metadata)
        else:
            torch.save({self.wrapper: self.tensors} if self.wrapper else self.tensors, path)
        for name, document in self.documents.items():
            (folder / name).write_text(json.dumps(document))
        return folder if self.documents else path

    def copy(self) -> Sample:
        """A copy whose tensors may be changed."""
        return copy.deepcopy(self)


def _draw(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: drawn(name, shape, generator) for name, shape in shapes.items()}


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _timm_blocks(prefix: str, width: int, depth: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for n in range(depth):
        block = f"{prefix}blocks.{n}"
        shapes |= _norm(f"{block}.norm1", width) | _norm(f"{block}.norm2", width)
        shapes |= _linear(f"{block}.attn.qkv", 3 * width, width)
        shapes |= _linear(f"{block}.attn.proj", width, width)
        shapes |= _linear(f"{block}.mlp.fc1", 4 * width, width)
        shapes |= _linear(f"{block}.mlp.fc2", width, 4 * width)
    return shapes | _norm(f"{prefix}norm", width)


def _embedding(
    prefix: str, width: int, positions: int, kernel: tuple[int, int, int]
) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}cls_token": (1, 1, width),
        f"{prefix}pos_embed": (1, positions, width),
        f"{prefix}patch_embed.proj.weight": (width, *kernel),
        f"{prefix}patch_embed.proj.bias": (width,),
    }


def timm(width: int = 128, depth: int = 2, distilled: bool = False, classes: int = 7) -> Sample:
    """A ViT (or distilled DeiT) for pictures of 224 x 224."""
    shapes = _embedding("", width, 197 + distilled, (3, 16, 16))
    shapes |= _timm_blocks("", width, depth) | _linear("head", classes, width)
    if distilled:
        shapes |= {"dist_token": (1, 1, width)} | _linear("head_dist", classes, width)
    return Sample(_draw(shapes), "model.safetensors", {"config.json": {"architecture": "vit"}})


def _v(
    width: int, depth: int, positions: int, patch: tuple[int, int], distilled: bool = True
) -> Any:
    shapes = _embedding("v.", width, positions, (1, *patch))
    shapes |= _timm_blocks("v.", width, depth) | _linear("v.head", 1000, width)
    if distilled:
        shapes |= {"v.dist_token": (1, 1, width)} | _linear("v.head_dist", 1000, width)
    return shapes


def _parallel(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {f"module.{name}": value for name, value in _draw(shapes).items()}


def ast(
    width: int = 128, depth: int = 2, positions: int = 146, classes: int = 7, stale: bool = True
) -> Sample:
    """An AST; 146 positions are 2 + 12 x 12 (Speech Commands), 1214 are 2 + 12 x 101."""
    shapes = _v(width, depth, positions, (16, 16))
    if not stale:
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("v.head")}
    shapes |= _norm("mlp_head.0", width) | _linear("mlp_head.1", classes, width)
    return Sample(_parallel(shapes), "audioset.pth")


def ssast(width: int = 128, depth: int = 2, patch: tuple[int, int] = (16, 16)) -> Sample:
    """SSAST as pretrained: 2 + 8 x 64 positions and the parts that only pretraining uses."""
    shapes = _v(width, depth, 514, patch)
    shapes |= {"mask_embed": (1, 1, width)}
    for name, out in (("cpredlayer", 256), ("gpredlayer", 256)):
        shapes |= _linear(f"{name}.0", width, width) | _linear(f"{name}.2", out, width)
    tensors = _parallel(shapes)
    tensors |= {"module.p_input_fdim": torch.tensor(128), "module.p_input_tdim": torch.tensor(1024)}
    return Sample(tensors, "SSAST-Base-Patch-400.pth", wrapper="model_state")


def flexiast(width: int = 128, depth: int = 2, distilled: bool = False, classes: int = 7) -> Sample:
    """FlexiAST with stale positions and kernel under v., the live ones next to it."""
    positions = 513 + distilled
    shapes = _v(width, depth, positions + 700, (16, 16), distilled)
    live = _embedding("", width, positions, (1, 16, 16))
    shapes |= {"pos_embed.pos_embed": live.pop("pos_embed")}
    shapes |= {name: shape for name, shape in live.items() if name != "cls_token"}
    shapes |= _norm("mlp_head.0", width) | _linear("mlp_head.1", classes, width)
    return Sample(_parallel(shapes), "flexi.pth")


def elasticast(width: int = 128, depth: int = 2, columns: int = 64, classes: int = 7) -> Sample:
    """The authors' ElasticAST; 192 columns are those of VoxCeleb and EPIC-SOUNDS."""
    shapes = {**_linear("patch_embed.0", width, 256), "pos_embed_freq": (8, width),
              "pos_embed_time": (columns, width), "attn_pool_queries": (width,)}  # fmt: skip
    for n in range(depth):
        block = f"blocks.modules_list.{n}"
        shapes |= _norm(f"{block}.norm1", width) | _norm(f"{block}.norm2", width)
        shapes |= _linear(f"{block}.attn.to_q", width, width)
        shapes |= _linear(f"{block}.attn.to_kv", 2 * width, width)
        shapes |= _linear(f"{block}.attn.proj", width, width)
        shapes |= _linear(f"{block}.mlp.fc1", 4 * width, width)
        shapes |= _linear(f"{block}.mlp.fc2", width, 4 * width)
    shapes |= _norm("norm", width) | _norm("mlp_norm", width) | _linear("head", classes, width)
    shapes |= _linear("attn_pool.to_q", width, width) | _linear("attn_pool.proj", width, width)
    shapes |= _linear("attn_pool.to_kv", 2 * width, width)
    tensors = _parallel(shapes)
    for name in tensors:  # without 1/sqrt(d) plain sizes would make every softmax a maximum
        if "to_q" in name:
            tensors[name] /= 8
    return Sample(tensors, "elastic.pth")


_HF_MAP = {"norm1": "layernorm_before", "norm2": "layernorm_after", "mlp.fc1": "intermediate.dense",
           "mlp.fc2": "output.dense", "attn.proj": "attention.output.dense"}  # fmt: skip


def _hf_encoder(root: str, width: int, depth: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in _timm_blocks("", width, depth).items():
        block, _, rest = name.removeprefix("blocks.").partition(".")
        layer, _, part = rest.rpartition(".")
        where = f"{root}encoder.layer.{block}"
        if name.startswith("norm."):
            shapes[f"{root}layernorm.{rest}" if rest else f"{root}layer{name}"] = shape
        elif layer == "attn.qkv":
            for qkv in ("query", "key", "value"):
                shapes[f"{where}.attention.attention.{qkv}.{part}"] = (width, *shape[1:])
        else:
            shapes[f"{where}.{_HF_MAP[layer]}.{part}"] = shape
    return shapes


def _hf_config(kind: str, width: int, depth: int, classes: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind, "hidden_size": width, "num_hidden_layers": depth,
        "num_attention_heads": width // 64, "intermediate_size": 4 * width, "hidden_act": "gelu",
        "layer_norm_eps": 1e-12, "patch_size": 16, "qkv_bias": True,
        "id2label": {str(n): f"sound {n}" for n in range(classes)}, **more,
    }  # fmt: skip


def hf_ast(width: int = 128, depth: int = 2, classes: int = 7, frames: int = 128) -> Sample:
    """An ASTForAudioClassification folder in the older spelling."""
    root = "audio_spectrogram_transformer."
    columns = (frames - 16) // 10 + 1
    embeddings = f"{root}embeddings."
    shapes = {f"{embeddings}cls_token": (1, 1, width),
              f"{embeddings}distillation_token": (1, 1, width),
              f"{embeddings}position_embeddings": (1, 2 + 12 * columns, width),
              f"{embeddings}patch_embeddings.projection.weight": (width, 1, 16, 16),
              f"{embeddings}patch_embeddings.projection.bias": (width,)}  # fmt: skip
    shapes |= _hf_encoder(root, width, depth)
    shapes |= _norm("classifier.layernorm", width) | _linear("classifier.dense", classes, width)
    config = _hf_config(
        "audio-spectrogram-transformer", width, depth, classes, frequency_stride=10,
        time_stride=10, max_length=frames, num_mel_bins=128,
    )  # fmt: skip
    extractor = {"mean": -4.0, "std": 4.5, "sampling_rate": 16000, "do_normalize": True}
    documents = {"config.json": config, "preprocessor_config.json": extractor}
    return Sample(_draw(shapes), "model.safetensors", documents)


def hf_vit(width: int = 128, depth: int = 2, distilled: bool = False, classes: int = 7) -> Sample:
    """A ViTForImageClassification (or DeiT with two classifiers) folder."""
    root = "deit." if distilled else "vit."
    embeddings = f"{root}embeddings."
    shapes = {f"{embeddings}cls_token": (1, 1, width),
              f"{embeddings}position_embeddings": (1, 197 + distilled, width),
              f"{embeddings}patch_embeddings.projection.weight": (width, 3, 16, 16),
              f"{embeddings}patch_embeddings.projection.bias": (width,)}  # fmt: skip
    shapes |= _hf_encoder(root, width, depth)
    if distilled:
        shapes |= {f"{embeddings}distillation_token": (1, 1, width)}
        shapes |= _linear("cls_classifier", classes, width)
        shapes |= _linear("distillation_classifier", classes, width)
    else:
        shapes |= _linear("classifier", classes, width)
    config = _hf_config("deit" if distilled else "vit", width, depth, classes, image_size=224)
    return Sample(_draw(shapes), "pytorch_model.bin", {"config.json": config})


def run(width: int = 128, depth: int = 2, classes: int = 7, **model: Any) -> Sample:
    """A stand-alone checkpoint of elastictool."""
    labels = [f"sound {n}" for n in range(classes)]
    config = RunConfig(
        name="own",
        data=DataConfig(mean=-5.0, std=4.0),
        length=LengthConfig(max_frames=256),
        model=dataclasses.replace(
            ModelConfig(width=width, depth=depth, heads=2, num_classes=classes, grid=(8, 16)),
            **model,
        ),
    )
    network = SpectrogramTransformer(config.model)
    tensors = _draw({name: tuple(value.shape) for name, value in network.state_dict().items()})
    metadata = {
        "format": "elastictool-1", "config": json.dumps(to_dict(config)),
        "label_names": json.dumps(labels), "multi_label": "false", "metrics": "{}",
    }  # fmt: skip
    return Sample(tensors, "own.safetensors", metadata=metadata)


SAMPLES: dict[str, Callable[..., Sample]] = {
    "timm": timm,
    "hf-vit": hf_vit,
    "ast": ast,
    "ssast": ssast,
    "hf-ast": hf_ast,
    "elasticast": elasticast,
    "flexiast": flexiast,
    "run": run,
}
