"""Values of windows come in batches that several recordings share; here they find back together."""

from __future__ import annotations

import numpy as np

from elastictool.inference.recordings import Window
from elastictool.inference.results import Values, Windows


class Gathered:
    """Values of one recording's windows while batches come in.

    Attributes:
        name: The recording.
        expected: Windows that were cut so far.
        total: Windows that its header promises; 0 where nobody counted.
        read: No more windows will come.
        error: What is wrong with it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.expected = self.total = 0
        self.read = False
        self.error = ""
        self._samples = 0
        self._bounds: list[tuple[int, int]] = []
        self._values: list[Values] = []

    @property
    def complete(self) -> bool:
        """All of it was read and computed."""
        return self.read and len(self._values) == self.expected

    @property
    def share(self) -> float:
        """How much of it is done, below 1; 0 where nobody counted."""
        return min(0.99, len(self._values) / self.total) if self.total else 0.0

    def saw(self, window: Window) -> None:
        """A window was cut, be it long enough for the model or not."""
        self._samples = max(self._samples, window.stop)

    def finish(self, too_short: str) -> None:
        """All was read; without a window, the recording is ``too_short``."""
        self.read = True
        if not self.expected and not self.error:
            self.error = f"{self.name}: {too_short}"

    def add(self, window: Window, row: Values) -> None:
        """One window's values."""
        self._bounds.append((window.start, window.stop))
        self._values.append(row)

    def result(self, rate_hz: int) -> Windows:
        """All windows; none where the recording has an error."""
        if not self.error and not np.isfinite(self._values).all():
            self.error = f"{self.name}: the model's output is not finite"
        keep = not self.error
        bounds = np.array(self._bounds if keep else [], dtype=np.float64).reshape(-1, 2) / rate_hz
        values = np.array(self._values if keep else [], dtype=np.float32)
        seconds = self._samples / rate_hz if keep else 0.0
        return Windows(self.name, bounds[:, 0], bounds[:, 1], values, seconds, self.error)
