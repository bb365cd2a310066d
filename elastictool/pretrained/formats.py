"""Defines checkpoint formats: a table of names, and a function that reads the model's settings.

An importer is a declaration. ``aliases`` rename the file's keys to one spelling, ``keys`` map them
to the model's tensors, ``ignored`` lists the keys that the model does not need, with the reason.
A key that is in neither table stops the import: nothing is loaded because it happens to fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from elastictool.config import GridFit, InitConfig, ModelConfig, RunConfig
from elastictool.pretrained.source import Source
from elastictool.utils.registry import Registry

Join = Callable[[Sequence[Tensor], ModelConfig, InitConfig], Tensor]
"""Makes one tensor of the file's; it may depend on the file's model and the user's choices."""


def rows(parts: Sequence[Tensor], model: ModelConfig, init: InitConfig) -> Tensor:
    """Concatenates matrices or vectors along rows: q, k, v to one projection."""
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts))


def tokens(parts: Sequence[Tensor], model: ModelConfig, init: InitConfig) -> Tensor:
    """Concatenates single tokens of any leading shape to (tokens, D)."""
    return torch.cat([part.reshape(-1, model.width) for part in parts])


def kernel(parts: Sequence[Tensor], model: ModelConfig, init: InitConfig) -> Tensor:
    """Flattens a convolution's (D, channels, pf, pt) kernel to (D, P), colours joined.

    Source: a grey picture has three equal channels, so their sum keeps the function (AST); the
    mean keeps the size of the values (PaSST).
    """
    (weight,) = parts
    joined = weight.sum(1) if init.rgb == "sum" or weight.shape[1] == 1 else weight.mean(1)
    return joined.flatten(1)


def prefix_positions(parts: Sequence[Tensor], model: ModelConfig, init: InitConfig) -> Tensor:
    """Returns the rows of a (1, prefix + N, D) table for the prefix tokens."""
    return tokens(parts, model, init)[: model.prefix_tokens]


def patch_positions(parts: Sequence[Tensor], model: ModelConfig, init: InitConfig) -> Tensor:
    """Returns the rows of a (1, prefix + N, D) table for the patches."""
    return tokens(parts, model, init)[model.prefix_tokens :]


@dataclass(frozen=True)
class Key:
    """Maps keys of the file to one tensor of the model; ``{n}`` is a block's number.

    Keys that end in ``?`` may be absent from the file.
    """

    target: str
    sources: tuple[str, ...]
    join: Join = rows


@dataclass(frozen=True)
class Described:
    """Describes the model of a file before any tensor is converted.

    Attributes:
        config: The model and, where the format knows them, the filterbank's settings.
        label_names: Classes in order; empty where the format does not know them.
        notes: What was inferred and not read.
    """

    config: RunConfig
    label_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


Tensors = Mapping[str, Tensor]
"""A file's tensors under the one spelling of its format."""


@dataclass(frozen=True)
class Format:
    """A checkpoint format.

    Attributes:
        title: In words, for messages and listings.
        signature: Patterns that each match a key of every such file.
        foreign: Patterns that match no key of such a file, but of similar formats.
        keys: The table of names; empty where the file has our names already.
        describe: Reads the file's model.
        aliases: Replacements (pattern, by what) that bring keys into one spelling, in order.
        ignored: Patterns of keys that the model does not need, and why.
        official_fit: How the published code fits positions (``init.compat = official``).
        official_fc_norm: What it starts the LayerNorm before a new classifier from.
        image: The grid is that of pictures and is unrelated to mel bins and seconds.
        own: The file was written by elastictool and is recognised by its metadata.
    """

    title: str
    signature: tuple[str, ...]
    keys: tuple[Key, ...]
    describe: Callable[[Source, Tensors, InitConfig], Described]
    foreign: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)
    official_fit: GridFit = "crop"
    official_fc_norm: Literal["new", "encoder"] = "new"
    image: bool = False
    own: bool = False

    def spell(self, key: str) -> str:
        """Returns ``key`` in the one spelling of the format.

        The prefixes of torch.compile and DataParallel are taken off in every format.
        """
        key = re.sub(r"^(_orig_mod\.|module\.)+", "", key)
        for pattern, replacement in self.aliases:
            key = re.sub(pattern, replacement, key)
        return key

    def matches(self, keys: Sequence[str]) -> bool:
        """Returns whether a file with these keys (in its own spelling) looks like this format."""
        spelled = [self.spell(key) for key in keys]

        def found(pattern: str) -> bool:
            return any(re.match(pattern, key) for key in spelled)

        return all(map(found, self.signature)) and not any(map(found, self.foreign))

    def numbered_keys(self, depth: int) -> list[Key]:
        """Returns the table of names with ``{n}`` replaced by each block's number."""
        return [
            Key(
                key.target.replace("{n}", number),
                tuple(source.replace("{n}", number) for source in key.sources),
                key.join,
            )
            for key in self.keys
            for number in map(str, range(depth if "{n}" in key.target else 1))
        ]


FORMATS: Registry[Format] = Registry(
    "checkpoint format",
    tuple(
        f"elastictool.pretrained.{module}"
        for module in ("vit", "ast_family", "hf_ast", "elasticast")
    ),
)

# Parts of tables that several formats share. Our own names are timm's.

_TIMM_LAYERS = (
    "blocks.{n}.norm1", "blocks.{n}.attn.qkv", "blocks.{n}.attn.proj",
    "blocks.{n}.norm2", "blocks.{n}.mlp.fc1", "blocks.{n}.mlp.fc2", "norm",
)  # fmt: skip


def layers(names: Mapping[str, str | tuple[str, ...]]) -> tuple[Key, ...]:
    """Returns keys of layers' weights and biases: our name, the file's names to concatenate."""
    return tuple(
        Key(f"{target}.{part}", tuple(f"{name}.{part}" for name in sources))
        for target, given in names.items()
        for sources in [(given,) if isinstance(given, str) else given]
        for part in ("weight", "bias")
    )


def patches_and_positions(conv: str, table: str) -> tuple[Key, ...]:
    """Returns the keys of a patch convolution and of one position table, prefix tokens first."""
    return (
        Key("patch_embed.proj.weight", (f"{conv}.weight",), kernel),
        Key("patch_embed.proj.bias", (f"{conv}.bias",)),
        Key("prefix_pos_embed", (table,), prefix_positions),
        Key("pos_embed.grid", (table,), patch_positions),
    )


def timm_encoder(prefix: str = "") -> tuple[Key, ...]:
    """Returns the keys of prefix tokens, blocks and final norm below ``prefix``, as in timm."""
    cls = Key("prefix_tokens", (f"{prefix}cls_token", f"{prefix}dist_token?"), tokens)
    return (cls, *layers({name: f"{prefix}{name}" for name in _TIMM_LAYERS}))
