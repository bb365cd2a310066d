"""Options that are settings: what to write in their place."""

from __future__ import annotations

import shlex
from typing import Any

from typer.core import TyperCommand

from elastictool.utils.errors import UsageError


class SettingsCommand(TyperCommand):
    """A command with ``--set``, which knows what is a setting and no option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Point from ``--epochs 3`` to ``--set train.epochs=3``, then parse as usual."""
        options = {name for parameter in self.params for name in parameter.opts}
        for arg, following in zip(args, [*args, ""][1:], strict=True):
            name, given, value = arg.partition("=")
            if name.startswith("--") and name not in {*options, "--", "--help"}:
                _refuse_setting(name, value if given else following)
        return super().parse_args(ctx, args)


def _refuse_setting(option: str, value: str) -> None:
    """Refuse ``option`` if it is a setting; ``value`` may be another option where it has none."""
    from elastictool.config.words import settings, settings_called

    meant = settings_called(option.removeprefix("--").replace("-", "_"))
    if meant and settings().keys() >= set(meant):  # a section has no value
        value = "VALUE" if not value or value.startswith("--") else value
        ways = " or ".join(f"--set {shlex.quote(f'{name}={value}')}" for name in meant)
        raise UsageError(f"there is no option {option}: it is a setting", ways)
