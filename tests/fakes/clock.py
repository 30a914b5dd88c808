"""A clock that moves only when someone sleeps, and then does what has come due, in order."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from datetime import UTC, datetime

EPOCH = 1_790_000_000


class FakeClock:
    """Implements ports.Clock. Seconds; what is due at the same moment runs in the order it was asked for."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def monotonic(self) -> float:
        return self._now

    def time(self) -> float:
        """Seconds since the epoch, as the manager's clock would say."""
        return EPOCH + self._now

    def stamp(self) -> str:
        """Now as RFC 3339 with nanoseconds: comparable as text."""
        nanoseconds = round(self._now * 1e9)
        seconds = datetime.fromtimestamp(EPOCH + nanoseconds // 10**9, UTC)
        return f"{seconds:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 10**9:09d}Z"

    def call_later(self, seconds: float, fn: Callable[[], None]) -> None:
        """Call `fn` once that many seconds have been slept."""
        self._count += 1
        heapq.heappush(self._due, (self._now + seconds, self._count, fn))

    def sleep(self, seconds: float) -> None:
        """Move on, running what comes due; a callback may sleep too."""
        until = self._now + max(seconds, 0.0)
        while self._due and self._due[0][0] <= until:
            at, _, fn = heapq.heappop(self._due)
            self._now = max(self._now, at)
            fn()
        self._now = max(self._now, until)
