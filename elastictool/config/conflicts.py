"""Settings that do not go together: each fine by itself, and together not what anyone wants.

A setting counts as set where its value is not the default, wherever it comes from; so a recipe may
spell defaults out. Only what a user asks for is judged, when it is asked for: a run that exists
stays readable, whatever its settings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from elastictool.config.run import RunConfig
from elastictool.config.words import names_by_key
from elastictool.utils.errors import UsageError


@dataclass(frozen=True)
class Without:
    """Settings that have no effect unless another one asks for them.

    Attributes:
        section: Where they stand.
        keys: Their names in it.
        given_by: The settings that decide whether they have one, ...
        effect: ... and whether they do.
        why: Why they have none, in words.
        needs: What gives them one, as ``--set`` takes it.
    """

    section: str
    keys: tuple[str, ...]
    given_by: tuple[str, ...]
    effect: Callable[[RunConfig], bool]
    why: str
    needs: str


_WITHOUT = (
    Without(
        "data",
        ("epoch_clips",),
        ("data.balanced_sampling",),
        lambda run: run.data.balanced_sampling,
        "without data.balanced_sampling an epoch has every clip once",
        "set data.balanced_sampling=true",
    ),
    Without(
        "init",
        ("model", "head", "rgb", "pos_embed", "grid_mean", "pooling", "source_stride", "heads",
         "compat"),
        ("init.from",),
        lambda run: bool(run.init.source),
        "the run starts from new weights",
        "name weights with init.from and init.path",
    ),
    Without(
        "train.distill",
        ("temperature", "weight"),
        ("train.distill.teacher",),
        lambda run: bool(run.train.distill.teacher),
        "there is no teacher",
        "name one with train.distill.teacher",
    ),
    Without(
        "train",
        ("label_smoothing",),
        ("train.distill.teacher", "train.distill.weight"),
        lambda run: not run.train.distill.teacher or run.train.distill.weight < 1,
        "train.distill.weight = 1 leaves the labels out",
        "lower train.distill.weight",
    ),
    Without(
        "train.schedule",
        ("decay_from", "decay_factor"),
        ("train.schedule.kind",),
        lambda run: run.train.schedule.kind == "multistep",
        "train.schedule.kind is not multistep",
        "set train.schedule.kind=multistep",
    ),
    Without(
        "train.schedule",
        ("final_factor",),
        ("train.schedule.kind",),
        lambda run: run.train.schedule.kind == "cosine",
        "train.schedule.kind is not cosine",
        "set train.schedule.kind=cosine",
    ),
    Without(
        "flexi",
        ("axes",),
        ("flexi.sizes", "model.preset"),
        lambda run: bool(run.flexi.sizes),
        "flexi.sizes names no patch sizes to draw from",
        "set flexi.sizes, or model.preset=flexiast",
    ),
    Without(
        "augment",
        ("mixup_beta",),
        ("augment.mixup",),
        lambda run: run.augment.mixup > 0,
        "augment.mixup = 0 mixes no clips",
        "set augment.mixup above 0",
    ),
    Without(
        "augment",
        ("mask_value",),
        ("augment.frequency_mask", "augment.time_mask"),
        lambda run: max(run.augment.frequency_mask, run.augment.time_mask) > 0,
        "augment.frequency_mask and augment.time_mask are off",
        "set one of them above 0",
    ),
    Without(
        "augment.length_diversity",
        ("mode", "prefix_share", "min_frames"),
        ("augment.length_diversity.share",),
        lambda run: run.augment.length_diversity.share > 0,
        "augment.length_diversity.share = 0 makes no shorter views",
        "set augment.length_diversity.share above 0",
    ),
    Without(
        "augment.resolution",
        ("reduction",),
        ("augment.resolution.compressions",),
        lambda run: bool(run.augment.resolution.compressions),
        "augment.resolution.compressions names no resolutions to draw from",
        "set augment.resolution.compressions",
    ),
)  # fmt: skip


def check_together(run: RunConfig) -> None:
    """Refuse settings without effect, and those that contradict each other.

    Raises:
        UsageError: Its message names them, its hint both ways out.
    """
    for without in _WITHOUT:
        _check_effect(run, without)
    _check_patches(run)
    _check_views(run)


def notes(run: RunConfig) -> list[str]:
    """What is allowed and yet seldom meant."""
    if run.model.preset != "elasticast" and not run.length.fixed_frames:
        return [
            f"model.preset={run.model.preset} is made for clips of one length; without "
            "length.fixed_frames they keep their own, up to "
            f"length.max_frames={run.length.max_frames}"
        ]
    return []


def made_idle(run: RunConfig, asked: Collection[str]) -> list[str]:
    """Settings that those of ``asked`` leave without effect and that are not of them themselves.

    Args:
        run: All settings, those of ``asked`` among them.
        asked: Keys, dotted.
    """
    return [
        idle.setting
        for without in _WITHOUT
        if not {*without.given_by}.isdisjoint(asked)
        for idle in _idle(run, without)
        if idle.setting not in asked
    ]


class _Idle(NamedTuple):
    """A setting that has no effect, and yet another value than the default."""

    setting: str
    value: Any
    default: Any


def _idle(run: RunConfig, without: Without) -> Iterator[_Idle]:
    if without.effect(run):
        return
    found = _section(run, without.section)
    for key in without.keys:
        name = names_by_key(type(found))[key]
        value, default = getattr(found, name), getattr(type(found)(), name)
        if value != default:
            yield _Idle(f"{without.section}.{key}", value, default)


def _check_effect(run: RunConfig, without: Without) -> None:
    for setting, value, default in _idle(run, without):
        raise UsageError(
            f"{setting} = {_text(value)} has no effect: {without.why}",
            f"{without.needs}, or leave {setting} out (its default is {_text(default)})",
        )


def _check_patches(run: RunConfig) -> None:
    """Patches higher than the spectrogram would be filled up with silence in every clip."""
    bins = run.fbank.num_mel_bins
    heights = {"model.patch_size": run.model.patch_size[0]}
    if run.flexi.sizes and run.flexi.axes != "time":
        heights["flexi.sizes"] = max(run.flexi.sizes)
    for setting, height in heights.items():
        if height > bins:
            raise UsageError(
                f"{setting}: patches of {height} mel bins do not fit into the {bins} of "
                "fbank.num_mel_bins",
                f"take patches of {bins} or less, or raise fbank.num_mel_bins and "
                "model.num_mel_bins",
            )


def _check_views(run: RunConfig) -> None:
    """Shorter views must be shorter than the longest clip, or there are none."""
    diversity, most = run.augment.length_diversity, run.length.most_frames
    if diversity.share and diversity.min_frames >= most:
        limit = "fixed_frames" if run.length.fixed_frames else "max_frames"
        raise UsageError(
            f"augment.length_diversity.min_frames = {diversity.min_frames} leaves no shorter "
            f"views of clips of up to length.{limit} = {most} frames",
            f"set it below {most}, or raise length.{limit}",
        )


def _section(run: RunConfig, path: str) -> Any:
    found: Any = run
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _text(value: Any) -> str:
    """A value as ``--set`` takes it."""
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
