"""Defines checkpoint formats: a table of names, and a function that reads the model's settings.

An importer is a declaration. ``aliases`` bring the file's keys into one spelling, ``keys`` say
which of them make which of our tensors, ``ignored`` which of them the model does not need and why.
A key that is in neither table stops the import: nothing is loaded because it happens to fit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from elastictool.config import GridFit, InitConfig, ModelConfig, Rgb, RunConfig
from elastictool.pretrained.source import Source
from elastictool.utils.registry import Registry

BLOCK = "{n}"
"""Stands for the number of a block in the tables of names."""


@dataclass(frozen=True)
class Context:
    """What the conversion of a tensor may depend on."""

    model: ModelConfig
    rgb: Rgb


Join = Callable[[Sequence[Tensor], Context], Tensor]


def same(parts: Sequence[Tensor], context: Context) -> Tensor:
    """Returns the tensor unchanged."""
    (only,) = parts
    return only


def rows(parts: Sequence[Tensor], context: Context) -> Tensor:
    """Concatenates matrices or vectors along rows: q, k, v to one projection."""
    return torch.cat(tuple(parts))


def tokens(parts: Sequence[Tensor], context: Context) -> Tensor:
    """Concatenates single tokens of any leading shape to (tokens, D)."""
    return torch.cat([part.reshape(-1, context.model.width) for part in parts])


def kernel(parts: Sequence[Tensor], context: Context) -> Tensor:
    """Flattens a convolution's (D, channels, pf, pt) kernel to (D, P), colours joined.

    Source: a grey picture has three equal channels, so their sum keeps the function (AST); the
    mean keeps the size of the values (PaSST).
    """
    (weight,) = parts
    joined = weight.sum(1) if context.rgb == "sum" or weight.shape[1] == 1 else weight.mean(1)
    return joined.flatten(1)


def prefix_positions(parts: Sequence[Tensor], context: Context) -> Tensor:
    """Returns the rows of a (1, prefix + N, D) table for the prefix tokens."""
    return tokens(parts, context)[: context.model.prefix_tokens]


def patch_positions(parts: Sequence[Tensor], context: Context) -> Tensor:
    """Returns the rows of a (1, prefix + N, D) table for the patches."""
    return tokens(parts, context)[context.model.prefix_tokens :]


@dataclass(frozen=True)
class Key:
    """One of our tensors and the file's keys that it is made of; ``{n}`` is a block's number.

    Keys that end in ``?`` may be absent from the file.
    """

    target: str
    sources: tuple[str, ...]
    join: Join = same


@dataclass(frozen=True)
class Ignored:
    """Keys that match ``pattern`` are left out, for ``reason``."""

    pattern: str
    reason: str


@dataclass(frozen=True)
class Described:
    """The model of a file, known before a single tensor is converted.

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
Describe = Callable[[Source, Tensors, InitConfig], Described]


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
        ignored: Keys that the model does not need.
        official_fit: How the published code fits positions (``init.compat = official``).
        image: The grid is that of pictures and is unrelated to mel bins and seconds.
        own: The file was written by elastictool and is recognised by its metadata.
    """

    title: str
    signature: tuple[str, ...]
    keys: tuple[Key, ...]
    describe: Describe
    foreign: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    ignored: tuple[Ignored, ...] = ()
    official_fit: GridFit = "crop"
    image: bool = False
    own: bool = False

    def spell(self, key: str) -> str:
        """Returns ``key`` in the one spelling of the format."""
        for pattern, replacement in self.aliases:
            key = re.sub(pattern, replacement, key)
        return key

    def matches(self, keys: Sequence[str]) -> bool:
        """Says whether a file with these keys (as spelled in it) looks like one of this format."""
        spelled = [self.spell(key) for key in keys]
        return all(_any(pattern, spelled) for pattern in self.signature) and not any(
            _any(pattern, spelled) for pattern in self.foreign
        )

    def reason_to_ignore(self, key: str) -> str | None:
        """Returns why the model does not need ``key`` (in the one spelling); None if it does."""
        return next((i.reason for i in self.ignored if re.match(i.pattern, key)), None)


def _any(pattern: str, keys: Sequence[str]) -> bool:
    return any(re.match(pattern, key) for key in keys)


FORMATS: Registry[Format] = Registry(
    "checkpoint format",
    tuple(
        f"elastictool.pretrained.{module}"
        for module in ("vit", "ast_family", "hf_ast", "elasticast")
    ),
)
