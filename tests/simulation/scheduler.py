"""Several runs on one simulated clock, strictly one at a time: whoever is due first goes on.

A run is ordinary synchronous code in a thread of its own. It gives up its turn only where it sleeps, and every call of
the fakes sleeps, so outward calls are the only points at which runs interleave, and one seed always gives one schedule.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from random import Random

from tests.fakes.clock import FakeClock

STEPS = 60_000  # turns after which a schedule is taken as endless


class Killed(BaseException):
    """The run's process dies here; no `except Exception` sees it."""


class Actor:
    """Somebody who acts on the world: a run, a post step, a person. Until `frozen_until` no turn is given."""

    def __init__(self, name: str, acts: Callable[[], None]) -> None:
        self.name = name
        self.acts = acts
        self.turn = threading.Lock()
        self.turn.acquire()
        self.thread: threading.Thread | None = None
        self.frozen_until = 0.0


class Scheduler(FakeClock):
    """A fake clock on which actors sleep. `each_step` is called after everything that happens.

    `errors`: what was raised by actors and by what came due.
    """

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.current: Actor | None = None
        self.each_step: Callable[[], None] = lambda: None
        self.endless = False
        self._random = random
        self._waiting: list[tuple[float, float, int, Actor]] = []
        self._steps = 0
        self._threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []
        self._all_done = threading.Lock()
        self._all_done.acquire()

    def add(self, seconds: float, name: str, acts: Callable[[], None]) -> None:
        """Have somebody begin to act, that many seconds from now."""
        self._wait(Actor(name, acts), seconds)

    def run(self) -> None:
        """Until all have ended."""
        if self._waiting:
            self._give_turn()
            self._all_done.acquire()
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def call_later(self, seconds: float, fn: Callable[[], None]) -> None:
        def act() -> None:
            try:
                fn()
            except Exception as error:  # noqa: BLE001 - whatever it is, somebody has to tell of it
                self.errors.append(error)
            self.each_step()

        super().call_later(seconds, act)

    def sleep(self, seconds: float) -> None:
        """Give up the turn for that long; outside of any actor, move the clock."""
        actor = self.current
        if actor is None:
            super().sleep(seconds)
            return
        self.each_step()
        self._wait(actor, seconds)
        following = self._next()
        if following is not actor:
            self._start(following)
            actor.turn.acquire()
        if self.endless:
            raise Killed

    def _wait(self, actor: Actor, seconds: float) -> None:
        due = max(self.monotonic() + max(seconds, 0.0), actor.frozen_until)
        self._steps += 1
        heapq.heappush(self._waiting, (due, self._random.random(), self._steps, actor))

    def _next(self) -> Actor:
        """Whose turn it is, once the world has moved on to then."""
        self.endless = self.endless or self._steps > STEPS
        due, _, _, actor = heapq.heappop(self._waiting)
        self.current = None
        super().sleep(due - self.monotonic())
        self.current = actor
        return actor

    def _start(self, actor: Actor) -> None:
        if actor.thread is None:
            actor.thread = threading.Thread(target=self._act, args=(actor,), daemon=True)
            self._threads.append(actor.thread)
            actor.thread.start()
        else:
            actor.turn.release()

    def _act(self, actor: Actor) -> None:
        try:
            actor.acts()
        except Killed:
            pass
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody has to tell of it
            self.errors.append(error)
        self.each_step()
        self._give_turn()

    def _give_turn(self) -> None:
        self.current = None
        if self._waiting:
            self._start(self._next())
        else:
            self._all_done.release()
