"""Tables of names that several formats share: timm's ViT and Hugging Face's ViT."""

from __future__ import annotations

from elastictool.pretrained.formats import (
    Ignored,
    Key,
    kernel,
    patch_positions,
    prefix_positions,
    rows,
    tokens,
)

DATA_PARALLEL = (r"^(_orig_mod\.|module\.)+", "")
"""The prefixes of torch.compile and DataParallel."""


def linear(target: str, source: str) -> tuple[Key, ...]:
    """Weight and bias of one layer."""
    return tuple(Key(f"{target}.{part}", (f"{source}.{part}",)) for part in ("weight", "bias"))


def joint(target: str, *sources: str) -> tuple[Key, ...]:
    """Weight and bias of a joint projection, made of single ones."""
    return tuple(
        Key(f"{target}.{part}", tuple(f"{source}.{part}" for source in sources), rows)
        for part in ("weight", "bias")
    )


def grid_positions(source: str) -> tuple[Key, ...]:
    """One table of positions: prefix tokens first, then patches."""
    return (
        Key("prefix_pos_embed", (source,), prefix_positions),
        Key("pos_embed.grid", (source,), patch_positions),
    )


def conv_embedding(source: str) -> tuple[Key, ...]:
    """The patch embedding as a convolution."""
    return (
        Key("patch_embed.proj.weight", (f"{source}.weight",), kernel),
        Key("patch_embed.proj.bias", (f"{source}.bias",)),
    )


def timm_encoder(prefix: str = "") -> tuple[Key, ...]:
    """Prefix tokens, blocks and final norm as timm spells them."""
    block = f"{prefix}blocks.{{n}}"
    return (
        Key("prefix_tokens", (f"{prefix}cls_token", f"{prefix}dist_token?"), tokens),
        *linear("blocks.{n}.norm1", f"{block}.norm1"),
        *linear("blocks.{n}.attn.qkv", f"{block}.attn.qkv"),
        *linear("blocks.{n}.attn.proj", f"{block}.attn.proj"),
        *linear("blocks.{n}.norm2", f"{block}.norm2"),
        *linear("blocks.{n}.mlp.fc1", f"{block}.mlp.fc1"),
        *linear("blocks.{n}.mlp.fc2", f"{block}.mlp.fc2"),
        *linear("norm", f"{prefix}norm"),
    )


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


def hf_aliases(root: str) -> tuple[tuple[str, str], ...]:
    """Aliases of a Hugging Face model whose encoder's keys begin with ``root`` (a pattern)."""
    return (DATA_PARALLEL, (rf"^({root})\.", ""), *_HF_NEWER)


def hf_encoder() -> tuple[Key, ...]:
    """Embedding, blocks and final norm as Hugging Face's ViT, DeiT and AST share them."""
    block = "encoder.layer.{n}"
    attention = f"{block}.attention.attention"
    return (
        Key(
            "prefix_tokens",
            ("embeddings.cls_token", "embeddings.distillation_token?"),
            tokens,
        ),
        *grid_positions("embeddings.position_embeddings"),
        *conv_embedding("embeddings.patch_embeddings.projection"),
        *linear("blocks.{n}.norm1", f"{block}.layernorm_before"),
        *joint(
            "blocks.{n}.attn.qkv",
            f"{attention}.query",
            f"{attention}.key",
            f"{attention}.value",
        ),
        *linear("blocks.{n}.attn.proj", f"{block}.attention.output.dense"),
        *linear("blocks.{n}.norm2", f"{block}.layernorm_after"),
        *linear("blocks.{n}.mlp.fc1", f"{block}.intermediate.dense"),
        *linear("blocks.{n}.mlp.fc2", f"{block}.output.dense"),
        *linear("norm", "layernorm"),
    )


TWO_HEADS = "its two classifiers read one prefix token each, this model their average"
STALE_HEAD = Ignored(
    r"v\.head(_dist)?\.", "the ImageNet classifier of the ViT it grew from, never used"
)
