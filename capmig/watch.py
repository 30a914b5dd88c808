"""The one wait: whatever the deploy waits for, the lease is renewed, the guard looks and the log moves along."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from capmig.errors import Cancelled, TimedOut
from capmig.journal import Journal
from capmig.ports import Clock

T = TypeVar("T")


class Watch:
    """`until` and `sleep` are the only waits of a deploy; both tick.

    `cancelled`: whether a signal asked to stop. It is raised once, as Cancelled; `recover` then finishes undisturbed.
    `also`: what else each tick does, such as following a job's log.
    """

    def __init__(self, clock: Clock, journal: Journal, cancelled: Callable[[], bool]) -> None:
        self._clock = clock
        self._journal = journal
        self._cancelled = cancelled
        self._heard = False
        self.also: list[Callable[[], None]] = []

    def heed(self) -> None:
        """Raise Cancelled if a signal came; only the first time."""
        if not self._heard and self._cancelled():
            self._heard = True
            raise Cancelled("The run was cancelled.")

    def deafen(self) -> None:
        """From here on no signal interrupts: the way out is being taken."""
        self._heard = True

    def tick(self) -> None:
        self.heed()
        if self._journal.held:
            self._journal.renew()
        for follow in list(self.also):
            follow()

    def sleep(self, seconds: float) -> None:
        self.tick()
        self._clock.sleep(seconds)

    def until(self, look: Callable[[], T | None], *, timeout: float, what: Callable[[], str], every: float = 0.5) -> T:
        """What `look` returns, once that is not None; it is called at least once. TimedOut says `what` was missing."""
        give_up = self._clock.monotonic() + timeout
        while True:
            found = look()
            if found is not None:
                return found
            if self._clock.monotonic() >= give_up:
                raise TimedOut(what())
            self.sleep(every)
