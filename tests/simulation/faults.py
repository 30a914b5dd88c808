"""What goes wrong around one process of capmig: at each of its calls, by the seed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Literal

from capmig.errors import CapmigError, CapRoverBusy, CapRoverRefused, EngineRefused, FateUnknown, LinkLost
from capmig.ports import BuildState
from tests.fakes.world import World
from tests.simulation.scheduler import Killed, Scheduler

CHANGES = frozenset(
    {"create_service", "update_service", "remove_service", "create_config", "update_config", "remove_config"}
)
ACTS = CHANGES | {"stop_containers"}
LOSSES: tuple[Literal["none", "taken", "late"], ...] = ("none", "taken", "late")


@dataclass(frozen=True, kw_only=True)
class Weather:
    """What may happen to a process. `rate`: the share of calls that something happens to.

    `killed_at`: the number of the call at which it dies, once that has taken effect if `killed_after`; `frozen_at`: the
    number of the call after which it stands still for `frozen_for` seconds while others go on; `link_down`: from when
    to when nothing of it arrives.
    """

    rate: float = 0.0
    killed_at: int = 0
    killed_after: bool = False
    frozen_at: int = 0
    frozen_for: float = 0.0
    link_down: tuple[float, float] = (0.0, 0.0)


@dataclass(kw_only=True)
class Process:
    """A process of capmig: who it is in the journal, its weather, and how many calls it has made."""

    name: str
    holder: str
    weather: Weather
    random: Random
    calls: int = 0
    after: Callable[[], None] | None = None  # what happens once the call under way has taken effect
    late: Callable[[], None] | None = None  # a change that the managers may still agree upon
    ended: bool = False

    @property
    def well(self) -> bool:
        """It lives, and nothing happens to it."""
        return not self.ended and self.weather == Weather()


class Faults:
    """The hooks of the fake swarm; and CapRover as the processes reach it (it implements ports.CapRover).

    `processes`: by the name of their actor; whoever else calls is left alone. `effect` is told of each act of a process
    when it has just taken effect. `trace`: (time, who, what) of everything.
    """

    def __init__(self, clock: Scheduler, world: World, effect: Callable[[Process, str, tuple[Any, ...]], None]) -> None:
        self.processes: dict[str, Process] = {}
        self.trace: list[tuple[float, str, str]] = []
        self._clock = clock
        self._world = world
        self._effect = effect
        world.swarm.before_call = self._before
        world.swarm.after_call = self._after

    def tell(self, who: str, what: str) -> None:
        """Add a line to the schedule that a failing seed prints."""
        self.trace.append((self._clock.monotonic(), who, what))

    def _process(self) -> Process | None:
        actor = self._clock.current
        return None if actor is None else self.processes.get(actor.name)

    def _before(self, name: str, args: tuple[Any, ...]) -> None:
        process = self._process()
        if process is not None:
            self._arrive(process, name)
            if process.weather.link_down[0] <= self._clock.monotonic() < process.weather.link_down[1]:
                self.tell(process.name, f"{name}: the link is down")
                self._clock.sleep(process.random.choice((0.5, 5.0, 14.0)))
                raise LinkLost(f"{name}: the link is down")
            if name in CHANGES and process.late is not None:
                # Managers agree on changes in their order: the one of unknown fate comes before this one, or never.
                self._settle(process, process.late, lost=process.random.random() < 0.5)
            if process.random.random() < process.weather.rate:
                self._strike(process, name, args)

    def _after(self, name: str, args: tuple[Any, ...]) -> None:
        process = self._process()
        if process is not None:
            if name in ACTS:
                self._effect(process, name, args)
            self._leave(process, name)

    def _arrive(self, process: Process, name: str) -> None:
        """A call is about to be sent."""
        process.calls += 1
        process.after = None
        self.tell(process.name, name)
        if process.calls == process.weather.killed_at and not process.weather.killed_after:
            self.tell(process.name, "…killed before it")
            raise Killed

    def _strike(self, process: Process, name: str, args: tuple[Any, ...]) -> None:
        """One thing goes wrong with a call to the swarm."""
        random, clock = process.random, self._clock
        kinds = (
            ("slow", "lost", "refused", "unknown", "taken", "late") if name in CHANGES else ("slow", "lost", "refused")
        )
        kind = random.choice(kinds)
        self.tell(process.name, f"…{kind}")
        longest = 6.0 if name == "stop_containers" else 17.0
        seconds = random.choice((0.1, 3.0, longest))
        if kind == "slow" and random.random() < 0.5:
            process.after = lambda: clock.sleep(seconds)
            return
        if kind == "taken":
            process.after = lambda: self._lose(name, seconds)
            return
        if kind == "late":
            process.late = partial(self._come_late, process, name, args, getattr(self._world.swarm.direct, name))
            clock.call_later(17.0, partial(self._settle, process, process.late))
            self._lose(name, seconds)
        clock.sleep(seconds)
        if kind == "lost":
            raise LinkLost(f"{name}: the link dropped")
        if kind == "refused":
            raise EngineRefused("rpc error: the managers of the swarm have no quorum")
        if kind == "unknown":
            raise FateUnknown(f"{name}: no answer came")

    def _settle(self, process: Process, late: Callable[[], None], *, lost: bool = False) -> None:
        """A change of unknown fate takes effect now, if that is still open; or it is lost for good."""
        if process.late is late:
            process.late = None
            if not lost:
                late()

    def _lose(self, name: str, seconds: float) -> None:
        self._clock.sleep(seconds)
        raise FateUnknown(f"{name}: no answer came")

    def _come_late(self, process: Process, name: str, args: tuple[Any, ...], act: Callable[..., None]) -> None:
        """A change takes effect, if it still can, after its sender was told that nobody knows."""
        with suppress(CapmigError):
            act(*args)
            self.tell(process.name, f"{name} takes effect, late")
            self._effect(process, name, args)

    def _leave(self, process: Process, name: str) -> None:
        """A call has taken effect."""
        weather = process.weather
        if process.calls == weather.killed_at:
            self.tell(process.name, f"…killed after {name}")
            raise Killed
        if process.calls == weather.frozen_at:
            self.tell(process.name, f"…frozen for {weather.frozen_for:.0f} s after {name}")
            self._clock.sleep(weather.frozen_for)
        if process.after is not None:
            after, process.after = process.after, None
            after()

    def deploy(self, image: str, git_hash: str) -> None:
        """As CapRover.deploy."""
        caprover, process = self._world.caprover, self._process()
        if process is None:
            caprover.deploy(image, git_hash)
            return
        self._arrive(process, f"CapRover deploys {image}")
        if process.random.random() < process.weather.rate:
            kind = process.random.choice((*LOSSES, "busy", "refused"))
            self.tell(process.name, f"…{kind}")
            if kind == "busy":
                raise CapRoverBusy("CapRover answered 429")
            if kind == "refused":
                raise CapRoverRefused("CapRover declined")
            caprover.fate = next(loss for loss in LOSSES if loss == kind)
        before = len(caprover.asked)
        try:
            caprover.deploy(image, git_hash)
        finally:
            if len(caprover.asked) > before:
                self._effect(process, "deploy", (image,))
        self._leave(process, "CapRover's deploy")

    def build(self) -> BuildState | None:
        """As CapRover.build."""
        process = self._process()
        if process is not None:
            self._arrive(process, "CapRover's build")
            if process.random.random() < process.weather.rate:
                self.tell(process.name, "…busy")
                raise CapRoverBusy("CapRover answered 502")
        return self._world.caprover.build()
