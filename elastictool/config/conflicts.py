"""Finds settings that do not go together, although each is valid by itself.

A setting counts as set where its value is not the default, wherever it comes from; so a recipe may
spell defaults out. Settings are checked when a user asks for them: a run that exists stays
readable, whatever its settings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from elastictool.config.coerce import flat_settings
from elastictool.config.run import RunConfig
from elastictool.utils.errors import UsageError


@dataclass(frozen=True)
class Without:
    """Settings that have no effect unless another setting switches them on.

    Attributes:
        settings: Their names.
        given_by: The settings that decide whether they have an effect, ...
        effect: ... and whether they do.
        why: Why they have none, in words.
        needs: What gives them one, as ``--set`` takes it.
    """

    settings: tuple[str, ...]
    given_by: tuple[str, ...]
    effect: Callable[[RunConfig], bool]
    why: str
    needs: str


_WITHOUT = (
    Without(("data.epoch_clips",), ("data.balanced_sampling",),
            lambda run: run.data.balanced_sampling,
            "without data.balanced_sampling an epoch has every clip once",
            "set data.balanced_sampling=true"),
    Without(tuple(f"init.{key}"
                  for key in ("model", "head", "rgb", "pos_embed", "grid_mean", "pooling",
                              "fc_norm", "source_stride", "heads", "compat")),
            ("init.from",),
            lambda run: bool(run.init.source),
            "the run starts from new weights",
            "name weights with init.from and init.path"),
    Without(("train.distill.temperature", "train.distill.weight"), ("train.distill.teacher",),
            lambda run: bool(run.train.distill.teacher),
            "there is no teacher",
            "name one with train.distill.teacher"),
    Without(("train.label_smoothing",), ("train.distill.teacher", "train.distill.weight"),
            lambda run: not run.train.distill.teacher or run.train.distill.weight < 1,
            "train.distill.weight = 1 leaves the labels out",
            "lower train.distill.weight"),
    Without(("train.schedule.decay_from", "train.schedule.decay_factor"), ("train.schedule.kind",),
            lambda run: run.train.schedule.kind == "multistep",
            "train.schedule.kind is not multistep",
            "set train.schedule.kind=multistep"),
    Without(("train.schedule.final_factor",), ("train.schedule.kind",),
            lambda run: run.train.schedule.kind == "cosine",
            "train.schedule.kind is not cosine",
            "set train.schedule.kind=cosine"),
    Without(("flexi.axes",), ("flexi.sizes", "model.preset"),
            lambda run: bool(run.flexi.sizes),
            "flexi.sizes names no patch sizes to draw from",
            "set flexi.sizes, or model.preset=flexiast"),
    Without(("augment.mixup_beta",), ("augment.mixup",),
            lambda run: run.augment.mixup > 0,
            "augment.mixup = 0 mixes no clips",
            "set augment.mixup above 0"),
    Without(("augment.mask_value",), ("augment.frequency_mask", "augment.time_mask"),
            lambda run: max(run.augment.frequency_mask, run.augment.time_mask) > 0,
            "augment.frequency_mask and augment.time_mask are off",
            "set one of them above 0"),
    Without(tuple(f"augment.length_diversity.{key}"
                  for key in ("mode", "prefix_share", "min_frames")),
            ("augment.length_diversity.share",),
            lambda run: run.augment.length_diversity.share > 0,
            "augment.length_diversity.share = 0 makes no shorter crops",
            "set augment.length_diversity.share above 0"),
    Without(("augment.resolution.reduction",), ("augment.resolution.compressions",),
            lambda run: bool(run.augment.resolution.compressions),
            "augment.resolution.compressions names no resolutions to draw from",
            "set augment.resolution.compressions"),
)  # fmt: skip


def check_together(run: RunConfig) -> None:
    """Refuses settings without effect, and those that contradict each other.

    Raises:
        UsageError: Its message names them, its hint both ways out.
    """
    for without, setting, value, default in _without_effect(run):
        raise UsageError(
            f"{setting} = {_text(value)} has no effect: {without.why}",
            f"{without.needs}, or leave {setting} out (its default is {_text(default)})",
        )
    # In patches higher than the spectrogram, silence would fill every clip up.
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
    diversity, most = run.augment.length_diversity, run.length.most_frames
    if diversity.share and diversity.min_frames >= most:
        limit = "fixed_frames" if run.length.fixed_frames else "max_frames"
        raise UsageError(
            f"augment.length_diversity.min_frames = {diversity.min_frames} leaves no shorter "
            f"crops of clips of up to length.{limit} = {most} frames",
            f"set it below {most}, or raise length.{limit}",
        )


def notes(run: RunConfig) -> list[str]:
    """Returns notes on combinations that are allowed but seldom intended."""
    if run.model.preset != "elasticast" and not run.length.fixed_frames:
        return [
            f"model.preset={run.model.preset} is made for clips of one length; without "
            "length.fixed_frames they keep their own, up to "
            f"length.max_frames={run.length.max_frames}"
        ]
    return []


def made_idle(run: RunConfig, asked: Collection[str]) -> list[str]:
    """Returns settings that ``asked`` leaves without effect in ``run`` and does not name."""
    return [
        setting
        for without, setting, _, _ in _without_effect(run)
        if not set(without.given_by).isdisjoint(asked) and setting not in asked
    ]


def _without_effect(run: RunConfig) -> Iterator[tuple[Without, str, Any, Any]]:
    """Yields settings without effect that differ from their default, with value and default."""
    values, defaults = map(flat_settings, (run, RunConfig()))
    for without in _WITHOUT:
        if not without.effect(run):
            for setting in without.settings:
                if values[setting] != defaults[setting]:
                    yield without, setting, values[setting], defaults[setting]


def _text(value: Any) -> str:
    """Returns a value as ``--set`` takes it."""
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
