"""When each step of a deploy began and ended, for the summary's picture."""

from __future__ import annotations

from capmig.ports import Clock, Log
from capmig.report import Stage


class Timeline:
    """Steps in their order; beginning one ends the former."""

    def __init__(self, clock: Clock, log: Log) -> None:
        self._clock = clock
        self._log = log
        self._zero = clock.monotonic()
        self._began: list[tuple[str, float]] = []

    def step(self, title: str) -> None:
        """Begin a step, here and in the log."""
        self._began.append((title, self.now()))
        self._log.step(title)

    def now(self) -> float:
        """Seconds since the deploy began."""
        return self._clock.monotonic() - self._zero

    def stages(self) -> tuple[Stage, ...]:
        ends = [began for _, began in self._began[1:]] + [self.now()]
        return tuple(
            Stage(title=title, began=began, ended=end) for (title, began), end in zip(self._began, ends, strict=False)
        )
