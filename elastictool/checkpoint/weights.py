"""Write and load weights files that are complete models.

``checkpoints/{last,best,averaged}.safetensors`` hold weights with the configuration and label names
in their metadata, so one file is a model.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from elastictool.checkpoint.find import find_run
from elastictool.checkpoint.metadata import WeightsMetadata, parse_metadata, saved_at
from elastictool.config import InitConfig, ModelConfig, PositionFit, Resize, RunConfig
from elastictool.data.collate import PackSpec
from elastictool.data.device_transfer import DeviceTransfer
from elastictool.data.feature_extractor import FeatureExtractor
from elastictool.models.attention.base import ATTENTION
from elastictool.models.transformer import SpectrogramTransformer, tensor_shapes
from elastictool.packing.grid import patch_size_along
from elastictool.pretrained import importer
from elastictool.pretrained.formats import FORMATS, Described, Format, Tensors
from elastictool.pretrained.shapes import number_of_blocks
from elastictool.pretrained.source import OWN_FORMAT, OWN_NAME, Source, require_floats
from elastictool.utils.errors import CheckpointError, UsageError
from elastictool.utils.io import as_argument, atomic_path, require_readable
from elastictool.utils.registry import nearest_hint

Which = Literal["best", "last", "averaged"]


@dataclass(frozen=True)
class LoadedRun:
    """A trained model and what is needed to use it.

    Attributes:
        path: The run directory, or the folder of a lone checkpoint.
        file: The weights file itself.
        name: For tables and legends.
        config: The resolved configuration of the run.
        model: In evaluation mode.
        label_names: Class names in the order of the logits.
        multi_label: Whether a clip may have several classes.
        feature_extractor: The run's, with its mean and std.
        metrics: Numbers recorded with the weights (epoch, validation score).
        thresholds: Multi-label: the decision threshold of each class, chosen on validation with
            these weights; NaN where it could not be chosen, empty if none was.
        budget: What ``with_tokens`` changed, for file names and titles; empty for the run's own.
    """

    path: Path
    file: Path
    name: str
    config: RunConfig
    model: SpectrogramTransformer
    label_names: tuple[str, ...]
    multi_label: bool
    feature_extractor: FeatureExtractor
    metrics: Mapping[str, Any]
    thresholds: tuple[float, ...] = ()
    budget: str = ""

    @property
    def transfer(self) -> DeviceTransfer:
        """Transfer of clips of a prepared dataset to the model's device, as in its training."""
        train = self.config.train
        device = next(self.model.parameters()).device
        return DeviceTransfer.choose(device, train.fbank_on, train.prefetch)

    @property
    def pack_spec(self) -> PackSpec:
        """Packing of spectrograms that the model requires."""
        padded_rows = ATTENTION[self.model.attention].padded_rows
        return self.feature_extractor.pack_spec(self.config.model.prefix_tokens, padded_rows)

    @property
    def metadata(self) -> WeightsMetadata:
        """Returns the metadata of a weights file of the model."""
        return WeightsMetadata(
            self.config, self.label_names, self.multi_label, self.metrics, self.thresholds
        )

    @property
    def weights_sha256(self) -> str:
        """Hash of the tensors, by name: the same for a run, its copies and its exports."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def weights_record(self) -> dict[str, Any]:
        """Record of these weights that result files hold."""
        return saved_at(dict(self.metrics)) | {"sha256": self.weights_sha256}

    def with_tokens(
        self, patch_size: int | None = None, compression: float | None = None
    ) -> LoadedRun:
        """Returns the same model with other patches or frames, so with more or fewer tokens.

        Args:
            patch_size: In mel bins and frames, along the axes that the run was trained to vary
                (both, for runs with one patch size); None leaves it.
            compression: Frame shift as a multiple of the run's own; None leaves it.

        Raises:
            UsageError: A patch is larger than the spectrogram is high or smaller than a value, or
                frames are closer than a tenth of the run's shift.

        Source: FlexiAST Section 3.3, ElasticAST Section 3.4.
        """
        feature_extractor, words = self.feature_extractor, []
        if patch_size is not None:
            bins = feature_extractor.fbank.num_mel_bins
            if patch_size != int(patch_size) or not 1 <= patch_size <= bins:
                raise UsageError(
                    f"a patch size of {patch_size} is not within 1, 2, ... {bins} (mel bins)",
                    "e.g. 32",
                )
            patch_size = int(patch_size)
            along = self.config.flexi.axes
            size = patch_size_along(along, patch_size, feature_extractor.patch_size)
            feature_extractor = feature_extractor.at_patch_size(size)
            words.append(f"patch_{patch_size}")
        if compression is not None:
            if not 0.1 <= compression < math.inf:
                raise UsageError(
                    f"a resolution of {compression:g} is below 0.1 or without end", "e.g. 2"
                )
            feature_extractor = feature_extractor.at_compression(compression)
            words.append(f"resolution_{compression:g}")
        return dataclasses.replace(
            self, feature_extractor=feature_extractor, budget="_".join(words)
        )


def save_weights(path: Path, model: SpectrogramTransformer, metadata: WeightsMetadata) -> None:
    """Writes a file that is a complete model; ``metadata.config`` must be resolved."""
    tensors = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    with atomic_path(path) as temporary, disk_errors():
        save_file(tensors, str(temporary), {"format": OWN_FORMAT, **metadata.header()})
        _sort_metadata(temporary)


def _sort_metadata(file: Path) -> None:
    """Sorts the metadata: safetensors writes it in another one in every process.

    The same weights are so the same bytes. The header keeps its length.
    """
    with file.open("r+b") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            opened.seek(8)
            opened.write(text.ljust(size))


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turns what torch and safetensors raise on a full disk back into OSError."""
    try:
        yield
    except RuntimeError as error:  # torch: "unexpected pos", raised while the OSError is handled
        if not isinstance(error.__context__, OSError):
            raise
        raise error.__context__ from error
    except SafetensorError as error:  # "… (os error 27)"; before version 0.6 "Os { code: 27, …"
        found = re.search(r"(?:os error|code:) (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1]))) from error


def load_run(
    path: Path,
    which: Which = "best",
    attention: str = "auto",
    device: str = "cpu",
    pos_embed_fit: PositionFit | None = None,
    resize: Resize | None = None,
) -> LoadedRun:
    """Loads a run directory, or a ``.safetensors`` file of elastictool.

    Args:
        path: Run directory or checkpoint file.
        which: Checkpoint of a run directory.
        attention: Attention backend.
        device: Where the model goes.
        pos_embed_fit: Overrides how grid positions serve other lengths (``sweep --positions``).
        resize: Overrides how the kernel serves other patch sizes (``sweep --resize``).

    Raises:
        UsageError: There is no such run.
        CheckpointError: The file is damaged, of another program, or contradicts itself.
    """
    file = path / "checkpoints" / f"{which}.safetensors" if path.is_dir() else path
    if not file.is_file():
        others = any(file.parent.glob("*.safetensors"))
        lacks = f"no {file.name}" if others else f"no trained model ({file.name} is missing)"
        raise UsageError(f"{path} holds {lacks}", _how_to_make(path, file))
    tensors, metadata = _read(file)
    read = parse_metadata(file, metadata)
    config = read.config
    _require_fit(file, config.model, tensors)
    model_config = dataclasses.replace(
        config.model,
        pos_embed_fit=pos_embed_fit or config.model.pos_embed_fit,
        resize=resize or config.model.resize,
    )
    config = dataclasses.replace(config, model=model_config)
    model = SpectrogramTransformer(config.model, attention)
    model.load_state_dict(tensors)
    return LoadedRun(
        path=path if path.is_dir() else path.parent,
        file=file,
        name=config.name or path.name,
        config=config,
        model=model.to(device).eval(),
        label_names=read.label_names,
        multi_label=read.multi_label,
        feature_extractor=feature_extractor_of(config),
        metrics=read.metrics,
        thresholds=read.thresholds,
    )


def _how_to_make(path: Path, file: Path) -> str:
    """Returns how to make a missing checkpoint, and which others there are."""
    there = sorted(other.stem for other in file.parent.glob("*.safetensors"))
    if file.stem == "averaged" and there:
        return (
            f"there are: {', '.join(there)}; averaged needs a run with "
            "--set 'train.average_epochs=[FIRST,LAST]'"
        )
    if there:
        return f"there are: {', '.join(there)}; --which {there[-1]} takes it"
    if (path / "config.yaml").is_file():
        resume = f"elastictool train --resume --run-dir {as_argument(path)}"
        return f"the run was stopped before its first checkpoint; continue with: {resume}"
    if (path / file.name).is_file():
        return f"name the run, {path.parent}, or the file itself"
    if (path / "config.json").is_file():
        return _convert_first(path)
    return "train one with: elastictool train --dataset DATA"


def _convert_first(path: Path) -> str:
    """Returns a hint to convert weights of another project."""
    return (
        "a state_dict that you saved yourself goes back into a model by load_state_dict; "
        "weights of other projects are converted first: "
        f"elastictool convert {as_argument(path)} --from FORMAT "
        f"--out {as_argument(f'{path.stem}-own.safetensors')}"
    )


def feature_extractor_of(config: RunConfig) -> FeatureExtractor:
    """Returns the feature extractor that a resolved configuration describes."""
    if config.data.mean is None or config.data.std is None:
        raise CheckpointError(
            "the configuration holds no data.mean and data.std",
            "converted weights: convert them again with --set data.mean=… --set data.std=…",
        )
    return FeatureExtractor(
        fbank=config.fbank,
        length=config.length,
        patch_size=config.model.patch_size,
        patch_stride=config.model.patch_stride,
        mean=config.data.mean,
        std=config.data.std,
    )


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    require_readable(file)
    try:
        with safe_open(str(file), framework="pt") as opened:
            metadata = opened.metadata() or {}
            # safe_open has keys() but cannot be iterated over.
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is damaged or no safetensors file: {error}",
            _convert_first(file)
            if file.suffix in (".pth", ".pt", ".bin", ".ckpt")
            else "give a run directory or a .safetensors file that elastictool wrote",
        ) from error
    if metadata.get("format") != OWN_FORMAT:
        raise CheckpointError(
            f"{file} was not written by elastictool (format {metadata.get('format')!r})",
            _convert_first(file),
        )
    return tensors, metadata


def _require_fit(file: Path, config: ModelConfig, tensors: Mapping[str, Tensor]) -> None:
    """Checks the tensors against ``config`` before a model of it is built.

    Raises:
        CheckpointError: They do not fit.
    """
    depth = number_of_blocks(tensors, r"blocks\.(\d+)\.", file)
    if depth == config.depth:
        expected = tensor_shapes(config)
        problems = [f"missing {name}" for name in expected if name not in tensors]
        problems += [f"unexpected {name}" for name in tensors if name not in expected]
        problems += [
            f"{name} is {tuple(tensors[name].shape)} and should be {shape}"
            for name, shape in expected.items()
            if name in tensors and tuple(tensors[name].shape) != shape
        ]
    else:
        problems = [f"{depth} blocks, and model.depth {config.depth}"]
    if problems:
        raise CheckpointError(
            f"{file} does not fit the model that it describes: {'; '.join(problems[:4])}"
        )
    require_floats(file, tensors)


def _describe(source: Source, tensors: Tensors, init: InitConfig) -> Described:
    read = parse_metadata(source.file, source.metadata)
    return Described(read.config, read.label_names)


RUN_FORMAT = Format("elastictool run or .safetensors", (), (), _describe, own=True)
"""Own runs and converted files: names and configuration need no translation."""


def weight_formats() -> list[str]:
    """Returns the names that ``init.from`` may have: foreign formats, and ``run``."""
    return sorted([*FORMATS, OWN_NAME])


def weight_format(name: str) -> Format:
    """Returns the format that ``init.from`` calls ``name``.

    Raises:
        UsageError: There is none; the hint names the nearest.
    """
    if name == OWN_NAME:
        return RUN_FORMAT
    if name not in FORMATS:
        raise UsageError(
            f"unknown checkpoint format {name!r}", nearest_hint(name, weight_formats())
        )
    return FORMATS[name]


def import_weights(init: InitConfig) -> importer.Imported:
    """Reads the weights that ``init`` names: of a run (also by its name), or of a foreign file.

    Raises:
        UsageError: There is no such file or format.
        CheckpointError: The file is unsound, of another format, or has keys that its format does
            not explain.
    """
    if init.source == OWN_NAME:
        init = dataclasses.replace(init, path=str(find_run(init.path)))
    return importer.import_as(weight_format(init.source), init)
