"""Tables of names that several formats share. Our own names are timm's."""

from __future__ import annotations

from collections.abc import Mapping

from elastictool.pretrained.formats import (
    Key,
    kernel,
    patch_positions,
    prefix_positions,
    rows,
    same,
    tokens,
)

DATA_PARALLEL = (r"^(_orig_mod\.|module\.)+", "")
"""The prefixes of torch.compile and DataParallel."""
_TIMM_LAYERS = (
    "blocks.{n}.norm1", "blocks.{n}.attn.qkv", "blocks.{n}.attn.proj",
    "blocks.{n}.norm2", "blocks.{n}.mlp.fc1", "blocks.{n}.mlp.fc2", "norm",
)  # fmt: skip
_HF_LAYERS = {
    "blocks.{n}.norm1": ("layernorm_before",),
    "blocks.{n}.attn.qkv": tuple(
        f"attention.attention.{name}" for name in ("query", "key", "value")
    ),
    "blocks.{n}.attn.proj": ("attention.output.dense",),
    "blocks.{n}.norm2": ("layernorm_after",),
    "blocks.{n}.mlp.fc1": ("intermediate.dense",),
    "blocks.{n}.mlp.fc2": ("output.dense",),
}
_HF_NEWER = (
    (r"^layers\.", "encoder.layer."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
"""Newer spellings of transformers (``layers.N``, ``q_proj``) and the older ones."""


def layers(names: Mapping[str, str | tuple[str, ...]]) -> tuple[Key, ...]:
    """Returns weight and bias of layers: our name, and the file's name or names to concatenate."""
    return tuple(
        Key(f"{target}.{part}", tuple(f"{name}.{part}" for name in sources),
            same if len(sources) == 1 else rows)
        for target, given in names.items()
        for sources in [(given,) if isinstance(given, str) else given]
        for part in ("weight", "bias")
    )  # fmt: skip


def patches_and_positions(conv: str, table: str) -> tuple[Key, ...]:
    """Returns a convolution over patches, and one table of positions, prefix tokens first."""
    return (
        Key("patch_embed.proj.weight", (f"{conv}.weight",), kernel),
        Key("patch_embed.proj.bias", (f"{conv}.bias",)),
        Key("prefix_pos_embed", (table,), prefix_positions),
        Key("pos_embed.grid", (table,), patch_positions),
    )


def timm_encoder(prefix: str = "") -> tuple[Key, ...]:
    """Returns prefix tokens, blocks and final norm as timm spells them, below ``prefix``."""
    cls = Key("prefix_tokens", (f"{prefix}cls_token", f"{prefix}dist_token?"), tokens)
    return (cls, *layers({name: f"{prefix}{name}" for name in _TIMM_LAYERS}))


def hf_encoder() -> tuple[Key, ...]:
    """Returns embedding, blocks and final norm as Hugging Face's ViT, DeiT and AST share them."""
    cls = ("embeddings.cls_token", "embeddings.distillation_token?")
    blocks = {
        target: tuple(f"encoder.layer.{{n}}.{name}" for name in names)
        for target, names in _HF_LAYERS.items()
    }
    return (
        Key("prefix_tokens", cls, tokens),
        *patches_and_positions(
            "embeddings.patch_embeddings.projection", "embeddings.position_embeddings"
        ),
        *layers({**blocks, "norm": "layernorm"}),
    )


def hf_aliases(root: str) -> tuple[tuple[str, str], ...]:
    """Returns the aliases of a Hugging Face model, whose keys begin with ``root`` (a pattern)."""
    return (DATA_PARALLEL, (rf"^({root})\.", ""), *_HF_NEWER)
