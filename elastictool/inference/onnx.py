"""Write a trained model as an ONNX graph for one clip, of a fixed or of any length.

The graph takes a normalised log-mel spectrogram and gives logits: for one clip there is nothing to
pack, so the stream, its layout and the masks fall away, and what remains are plain matrix
products. Features are computed outside; what that needs (rate, shift, mean, std, labels) is in
the graph's metadata.
"""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elastictool.checkpoint.weights import LoadedRun
from elastictool.config.coerce import to_dict
from elastictool.data.collate import PackSpec, patch_coords, patchify
from elastictool.models.encoder import attention_scale, encode
from elastictool.models.pos_embed import FactorisedPosEmbed
from elastictool.models.transformer import SpectrogramTransformer
from elastictool.utils.errors import ElasticToolError, UsageError
from elastictool.utils.io import atomic_path, finite
from elastictool.utils.optional import missing_extra

INPUT, OUTPUT = "spectrogram", "logits"
TOLERANCE = 1e-3
"""Largest difference between the graph's and the model's logits that an export accepts."""
MOST_BYTES = 2**31
"""Largest size of a graph in one file, weights included: a limit of its format."""


class SingleClip(nn.Module):
    """The model's function of one clip, without packing.

    Args:
        model: Its weights are used, not copied.
        spec: How spectrograms become patches.
        frames: Length of the clip; 0 takes any whole number of patches side by side, as far as the
            trained positions reach.
    """

    fixed_positions: Tensor

    def __init__(self, model: SpectrogramTransformer, spec: PackSpec, frames: int = 0) -> None:
        super().__init__()
        self.model, self.spec, self.frames = model, spec, frames
        self.grid = spec.grid(frames or spec.patch_size[1], model.config.num_mel_bins)
        with torch.no_grad():
            coords, clip = patch_coords(*self.grid), torch.zeros(math.prod(self.grid)).long()
            fixed = model.pos_embed(coords, clip, [self.grid], spec.patch_size)
        self.register_buffer("fixed_positions", fixed)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(T, F) normalised frames to logits (C,)."""
        model, config, size = self.model, self.model.config, self.spec.patch_size
        columns = self.grid[1] if self.frames else spectrogram.shape[0] // size[1]
        patches, _ = patchify(spectrogram, self.spec, (self.grid[0], columns))
        if self.frames:
            positions = self.fixed_positions
        else:  # of clips that the trained tables cover
            pos_embed = cast(FactorisedPosEmbed, model.pos_embed)
            table = pos_embed.frequency[:, None] + pos_embed.time[None, :columns]
            positions = table.reshape(self.grid[0] * columns, -1)
        tokens = model.patch_embed(patches, size) + positions
        if model.prefix_tokens is not None and model.prefix_pos_embed is not None:
            tokens = torch.cat((model.prefix_tokens + model.prefix_pos_embed, tokens))

        def attend(*qkv: Tensor) -> Tensor:
            q, k, v = (part.transpose(0, 1)[None] for part in qkv)
            scale = attention_scale(config)
            return F.scaled_dot_product_attention(q, k, v, scale=scale)[0].transpose(0, 1)

        tokens = encode(model.blocks, tokens, attend)
        logits: Tensor = model.head(model.fc_norm(self._pool(model.norm(tokens))))
        return logits

    def _pool(self, tokens: Tensor) -> Tensor:
        pooling, config = self.model.attn_pool, self.model.config
        if pooling is not None:
            q = pooling.q(pooling.latent).view(pooling.heads, -1)
            k, v = pooling.kv(tokens).view(tokens.shape[0], 2, pooling.heads, -1).unbind(1)
            weights = (pooling.scale * (q * k).sum(-1)).softmax(dim=0)
            pooled: Tensor = pooling.proj((weights[:, :, None] * v).sum(0).flatten())
            return pooled
        if config.pooling == "prefix":
            return tokens[: config.prefix_tokens].mean(dim=0)
        return tokens[config.prefix_tokens :].mean(dim=0)


def export_onnx(run: LoadedRun, path: Path, frames: int = 0) -> float:
    """Writes the run's model as an ONNX graph and checks it with onnxruntime.

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
    fixed = _fixed_frames(run, frames)
    if lack := missing_extra("onnx", "onnx", "onnxruntime", "onnxscript"):
        raise ElasticToolError("exporting to ONNX needs the extra onnx", lack)
    import onnxruntime

    width, most = run.feature_extractor.patch_size[1], _most_columns(run)
    module = SingleClip(run.model, run.pack_spec, fixed).cpu().eval()
    example = torch.randn(fixed or min(most, 8) * width, run.config.fbank.num_mel_bins)
    columns = torch.export.Dim("columns", min=1, max=most)
    with _quiet():
        program = torch.onnx.export(
            module,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=None if fixed else {INPUT: {0: width * columns}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # it is None without dynamo
    program.model.metadata_props.update(_metadata(run, fixed))
    with atomic_path(path) as temporary:
        program.save(str(temporary), external_data=False)
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        lengths = [fixed] if fixed else [width, len(example), most * width]
        worst = 0.0
        for count in lengths:
            generator = torch.Generator().manual_seed(count)
            values = torch.randn(count, example.shape[1], generator=generator)
            with torch.no_grad():
                expected = module(values).numpy()
            (found,) = session.run([OUTPUT], {INPUT: values.numpy()})
            worst = float(np.maximum(worst, np.abs(found - expected).max()))  # keeps NaN
        if not worst <= TOLERANCE:
            raise ElasticToolError(f"the exported graph differs from the model by {worst:.2g}")
    return worst


def _fixed_frames(run: LoadedRun, frames: int) -> int:
    """The graph's fixed length; 0 for any.

    Raises:
        UsageError: The model or the length cannot be exported.
    """
    own, length = run.config.length.fixed_frames, run.feature_extractor.length
    if frames and own and frames != own:
        raise UsageError(
            f"--frames {frames}: the model always takes {own} frames", "leave --frames out"
        )
    if frames > length.most_frames:
        raise UsageError(
            f"--frames {frames} is beyond the {length.most_frames} that the model takes",
            "choose another --frames",
        )
    if not run.config.model.num_classes:
        raise UsageError("the model has no classifier, so it has no logits", "train one first")
    size = sum(value.numel() * value.element_size() for value in run.model.state_dict().values())
    if size >= MOST_BYTES:
        raise UsageError(
            f"the weights take {size / 2**30:.1f} GB, one ONNX file holds 2",
            "export to safetensors instead",
        )
    if own or frames:
        return own or frames
    config = run.config.model  # all lengths need patches side by side and positions as they are
    why = ""
    if config.patch_stride[1] != config.patch_size[1]:
        why = "its patches overlap in time"
    elif config.pos_embed != "factorised":
        why = "its positions are fitted to each length (model.pos_embed=grid)"
    elif run.feature_extractor.longest_grid()[0] != config.grid[0]:
        why = "its positions are fitted to the bands of its input"
    if why:
        raise UsageError(
            f"the model cannot be exported for clips of any length: {why}",
            f"give one length, for example --frames {length.most_frames}",
        )
    return 0 if _most_columns(run) > 1 else run.feature_extractor.patch_size[1]


def _most_columns(run: LoadedRun) -> int:
    """Returns the most patches in time that length limits and trained positions allow."""
    return min(run.feature_extractor.longest_grid()[1], run.config.model.grid[1])


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides warnings of libraries about operators that the graph does not use."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _metadata(run: LoadedRun, fixed: int) -> dict[str, str]:
    """Returns the metadata that a user of the graph needs."""
    extractor = run.feature_extractor
    any_length = f"1 to {_most_columns(run)} times {extractor.patch_size[1]}"
    return {
        "label_names": json.dumps(list(run.label_names)),
        "multi_label": json.dumps(run.multi_label),
        "thresholds": json.dumps([finite(value) for value in run.thresholds]),
        "frames": str(fixed or any_length),
        "fbank": json.dumps(to_dict(run.config.fbank)),
        "mean": str(extractor.mean),
        "std": str(extractor.std),
        "normalisation": "(x - mean) / (2 * std)",
    }
