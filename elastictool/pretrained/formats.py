"""What a checkpoint format is: a table of names, and what the names do not say.

An importer is a declaration. ``aliases`` bring the file's keys into one spelling, ``keys`` say
which of them make which tensor of ours, ``ignored`` which of them mean nothing and why. Whatever
is in neither table stops the import; nothing is loaded on the chance that it fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from elastictool.config import InitConfig, ModelConfig, Rgb, RunConfig
from elastictool.pretrained.source import Source
from elastictool.utils.registry import Registry

BLOCK = "{n}"
"""Stands for the number of a block in the tables of names."""


@dataclass(frozen=True)
class Context:
    """What a tensor's conversion may depend on."""

    model: ModelConfig
    rgb: Rgb


Join = Callable[[Sequence[Tensor], Context], Tensor]


def same(parts: Sequence[Tensor], context: Context) -> Tensor:
    """The tensor as it is."""
    (only,) = parts
    return only


def rows(parts: Sequence[Tensor], context: Context) -> Tensor:
    """Matrices or vectors below one another: q, k, v to one projection."""
    return torch.cat(tuple(parts))


def tokens(parts: Sequence[Tensor], context: Context) -> Tensor:
    """Single tokens of any leading shape to (tokens, D)."""
    return torch.cat([part.reshape(-1, context.model.width) for part in parts])


def kernel(parts: Sequence[Tensor], context: Context) -> Tensor:
    """A convolution's (D, channels, pf, pt) kernel to (D, P), colours joined.

    Source: a grey picture has three equal channels, so their sum keeps the function (AST); the
    mean keeps the size of the values (PaSST).
    """
    (weight,) = parts
    joined = weight.sum(1) if context.rgb == "sum" or weight.shape[1] == 1 else weight.mean(1)
    return joined.flatten(1)


def prefix_positions(parts: Sequence[Tensor], context: Context) -> Tensor:
    """The first rows of a (1, prefix + N, D) table."""
    return tokens(parts, context)[: context.model.prefix_tokens]


def patch_positions(parts: Sequence[Tensor], context: Context) -> Tensor:
    """The rows of a (1, prefix + N, D) table behind its first."""
    return tokens(parts, context)[context.model.prefix_tokens :]


@dataclass(frozen=True)
class Key:
    """One tensor of ours and the file's keys that it is made of; ``{n}`` is a block's number.

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
    """What a file's model is, before a single tensor is converted.

    Attributes:
        config: The model and, where the format knows them, the front end's settings.
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
        keys: The table of names; empty where the names are ours already.
        describe: What the file's model is.
        aliases: Replacements (pattern, by what) that bring keys into one spelling, in order.
        ignored: Keys without meaning for the model.
        official: Choices that the published code makes otherwise than ``crop``.
        image: The grid is of pictures and says nothing about mel bins and seconds.
        own: The file was written by elastictool and is recognised by its metadata.
    """

    title: str
    signature: tuple[str, ...]
    keys: tuple[Key, ...]
    describe: Describe
    foreign: tuple[str, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    ignored: tuple[Ignored, ...] = ()
    official: Mapping[str, Any] = field(default_factory=dict)
    image: bool = False
    own: bool = False

    def spell(self, key: str) -> str:
        """``key`` in the one spelling of the format."""
        for pattern, replacement in self.aliases:
            key = re.sub(pattern, replacement, key)
        return key

    def matches(self, keys: Sequence[str]) -> bool:
        """Whether a file with these keys (as spelled in it) looks like one of this format."""
        spelled = [self.spell(key) for key in keys]
        return all(_any(pattern, spelled) for pattern in self.signature) and not any(
            _any(pattern, spelled) for pattern in self.foreign
        )

    def reason_to_ignore(self, key: str) -> str | None:
        """Why a key (in the one spelling) means nothing; None where it should mean something."""
        return next((i.reason for i in self.ignored if re.match(i.pattern, key)), None)


def _any(pattern: str, keys: Sequence[str]) -> bool:
    return any(re.match(pattern, key) for key in keys)


FORMATS: Registry[Format] = Registry(
    "checkpoint format",
    tuple(
        f"elastictool.pretrained.{module}"
        for module in (
            "timm_vit",
            "hf_vit",
            "ast_file",
            "ssast",
            "hf_ast",
            "elasticast",
            "flexiast",
        )
    ),
)
