"""A trained model as an ONNX graph for one clip, of a fixed or of any length.

The graph takes a normalised log-mel spectrogram and gives logits: for one clip there is nothing to
pack, so the stream, its layout and the masks fall away, and what remains are plain matrix
products. The front end stays outside; what it needs (rate, shift, mean, std, labels) is in the
graph's metadata.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elastictool.errors import ElasticToolError, UsageError
from elastictool.files import atomic_path
from elastictool.models.encoder import attention_scale, encode
from elastictool.models.pooling import AttentionPooling
from elastictool.models.positions import FactorisedPositions
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.settings import to_dict
from elastictool.training.checkpoint import LoadedRun

INPUT, OUTPUT = "spectrogram", "logits"
TOLERANCE = 1e-3
"""Largest difference between the graph's and the model's logits that an export accepts."""


class SingleClip(nn.Module):
    """The model's function of one clip, without packing.

    Args:
        model: Its weights are used, not copied.

    Raises:
        UsageError: The model's positions cannot be taken by a plain slice.
    """

    def __init__(self, model: SpectrogramTransformer) -> None:
        super().__init__()
        self.model = model
        config = model.config
        if config.patch_size != config.patch_stride:
            raise UsageError(
                "models with overlapping patches cannot be exported to ONNX",
                "convert it to non-overlapping patches first",
            )

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(T, F) normalised frames, T a multiple of the patch's width, to logits (C,)."""
        model, config = self.model, self.model.config
        height, width = config.patch_size
        bands, columns = spectrogram.shape[1] // height, spectrogram.shape[0] // width
        grid = spectrogram.T.reshape(bands, height, columns, width).transpose(1, 2)
        patches = grid.reshape(bands * columns, height * width)
        tokens = model.embedding(patches, config.patch_size) + self._positions(bands, columns)
        if model.prefix_tokens is not None and model.prefix_positions is not None:
            tokens = torch.cat((model.prefix_tokens + model.prefix_positions, tokens))
        scale = attention_scale(config)
        tokens = encode(model.blocks, tokens, lambda q, k, v: _attend(q, k, v, scale))
        pooled = self._pool(model.norm(tokens))
        logits: Tensor = model.head(model.head_norm(pooled))
        return logits

    def _positions(self, bands: int, columns: int) -> Tensor:
        positions = self.model.positions
        if isinstance(positions, FactorisedPositions):
            table = positions.frequency[:bands, None] + positions.time[None, :columns]
            return table.reshape(bands * columns, -1)
        return positions.fitted((bands, columns), self.model.config.patch_size)

    def _pool(self, tokens: Tensor) -> Tensor:
        pooling, config = self.model.pooling, self.model.config
        if isinstance(pooling, AttentionPooling):
            q = pooling.to_q(pooling.query).view(pooling.heads, -1)
            k, v = pooling.to_kv(tokens).view(tokens.shape[0], 2, pooling.heads, -1).unbind(1)
            weights = (pooling.scale * (q * k).sum(-1)).softmax(dim=0)
            pooled: Tensor = pooling.projection((weights[:, :, None] * v).sum(0).flatten())
            return pooled
        if config.pooling == "prefix":
            return tokens[: config.prefix_tokens].mean(dim=0)
        return tokens[config.prefix_tokens :].mean(dim=0)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    q, k, v = (part.transpose(0, 1)[None] for part in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale)[0].transpose(0, 1)


def export_onnx(run: LoadedRun, path: Path, frames: int = 0) -> float:
    """Write the run's model as an ONNX graph and check it with onnxruntime.

    Args:
        run: The trained model.
        path: The file to write.
        frames: Fixed length of the input; 0 lets it vary (multiples of the patch's width, up to
            the trained positions). Standard ASTs always have their own fixed length.

    Returns:
        Largest difference between the graph's logits and the model's.

    Raises:
        UsageError: The model or the length cannot be exported.
        ElasticToolError: onnx is not installed, or the graph does not compute the model.
    """
    onnxruntime = _runtime()
    width = run.config.model.patch_size[1]
    fixed = run.config.length.fixed_frames or frames
    if fixed % width:
        raise UsageError(
            f"{fixed} frames are no multiple of the patch's {width}", "choose another --frames"
        )
    longest = run.front_end.longest_grid()[1] * width
    example = torch.randn(fixed or min(longest, 8 * width), run.config.fbank.num_mel_bins)
    module = SingleClip(run.model).cpu().eval()
    dynamic = None
    if not fixed:
        dynamic = {INPUT: {0: width * torch.export.Dim("columns", min=1, max=longest // width)}}
    with atomic_path(path) as temporary:
        torch.onnx.export(
            module,
            (example,),
            str(temporary),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"spectrogram": dynamic[INPUT]} if dynamic else None,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        _describe(temporary, run)
        lengths = [fixed] if fixed else [width, len(example), longest]
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        worst = max(_difference(module, session, n, example.shape[1]) for n in lengths)
        if not worst <= TOLERANCE:
            raise ElasticToolError(f"the exported graph differs from the model by {worst:.2g}")
    return worst


def _difference(module: SingleClip, session: Any, frames: int, bins: int) -> float:
    values = torch.randn(frames, bins, generator=torch.Generator().manual_seed(frames))
    with torch.no_grad():
        expected = module(values).numpy()
    (found,) = session.run([OUTPUT], {INPUT: values.numpy()})
    return float(np.abs(found - expected).max())


def _describe(path: Path, run: LoadedRun) -> None:
    """What a user of the graph needs, as its metadata."""
    import onnx

    graph = onnx.load(str(path))
    facts = {
        "label_names": json.dumps(list(run.label_names)),
        "multi_label": json.dumps(run.multi_label),
        "fbank": json.dumps(to_dict(run.config.fbank)),
        "mean": str(run.front_end.mean),
        "std": str(run.front_end.std),
        "normalisation": "(x - mean) / (2 * std)",
    }
    onnx.helper.set_model_props(graph, facts)
    onnx.save(graph, str(path))


def _runtime() -> Any:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ElasticToolError(
            f"exporting to ONNX needs {error.name}", 'pip install "elastictool[onnx]"'
        ) from error
    return onnxruntime
