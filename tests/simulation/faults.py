"""What goes wrong around one process of capmig: at each of its calls, by the seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Literal

from capmig.entry import Entry, Phase
from capmig.errors import CapmigError, CapRoverBusy, CapRoverRefused, EngineRefused, FateUnknown, LinkLost
from capmig.ports import BuildState
from tests.fakes.swarm import Silent
from tests.fakes.world import World
from tests.simulation.scheduler import Killed, Scheduler

CHANGES = frozenset(
    {"create_service", "update_service", "remove_service", "create_config", "update_config", "remove_config"}
)
ACTS = CHANGES | {"stop_containers"}
LOOKS = frozenset({"service", "tasks"})  # what comes last before an act
# Changes that may be answered as done, and are not. With the journal's there would be no lock at all.
SILENT = frozenset({"create_service", "update_service", "remove_service"})
LOSSES: tuple[Literal["none", "taken", "late"], ...] = ("none", "taken", "late")

# The how-manieth of a process's calls, of its calls since something went wrong with it ("hit"), of its acts, or of its
# acts while its journal says this phase.
Moment = tuple[str, int]
NEVER: Moment = ("call", 0)
PHASES = tuple(phase for phase in Phase if phase != Phase.DOWN)


def moment(random: Random) -> Moment:
    """Any, such that each phase and each act in it has its turn, however few they are among the calls."""
    match random.randrange(8):
        case 0 | 1:
            return "call", random.randrange(1, 220)
        case 2:
            return "act", random.randrange(1, 30)
        case 3:
            return "hit", random.randrange(1, 5)
        case _:
            return random.choice(PHASES), min(random.randrange(1, 8), random.randrange(1, 8))


@dataclass(frozen=True, kw_only=True)
class Weather:
    """What may happen to a process. `rate`: the share of calls that something happens to.

    `struck_at`: when something surely does; `killed_at`: when it dies, once its call has taken effect if
    `killed_after`; `frozen_at`: when it stands still for `frozen_for` seconds while others go on: after this call, or,
    after an act, between the look that comes before the next one and that; `link_down`: from when to when nothing of it
    arrives.
    """

    rate: float = 0.0
    struck_at: Moment = NEVER
    killed_at: Moment = NEVER
    killed_after: bool = False
    frozen_at: Moment = NEVER
    frozen_for: float = 0.0
    link_down: tuple[float, float] = (0.0, 0.0)


@dataclass(kw_only=True)
class Process:
    """A process of capmig: who it is in the journal, its weather, what it has done so far, and the moments of now."""

    name: str
    holder: str
    weather: Weather
    random: Random
    counts: Counter[str] = field(default_factory=Counter)
    now: frozenset[Moment] = frozenset()
    freezes: bool = False  # after its next look
    hit: bool = False  # something has gone wrong with it
    after: Callable[[], None] | None = None  # what happens once the call under way has taken effect
    late: Callable[[], None] | None = None  # a change that the managers may still agree upon
    ended: bool = False

    @property
    def well(self) -> bool:
        """It lives, and nothing has gone wrong with it."""
        return not self.ended and not self.hit


class Faults:
    """The hooks of the fake swarm; and CapRover as the processes reach it (it implements ports.CapRover).

    `processes`: by the name of their actor; whoever else calls is left alone. `effect` is told of each act of a process
    when it has just taken effect; `entry`: the journal. `trace`: (time, who, what) of everything. `at`: what else
    happens just when a process has sent a call, by its name and the moment.
    """

    def __init__(
        self,
        clock: Scheduler,
        world: World,
        effect: Callable[[Process, str, tuple[Any, ...]], None],
        entry: Callable[[], Entry | None],
    ) -> None:
        self.processes: dict[str, Process] = {}
        self.trace: list[tuple[float, str, str]] = []
        self.at: dict[tuple[str, Moment], Callable[[], None]] = {}
        self._clock = clock
        self._world = world
        self._effect = effect
        self._entry = entry
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
            self._arrive(process, name, acts=name in ACTS)
            if process.weather.link_down[0] <= self._clock.monotonic() < process.weather.link_down[1]:
                self.tell(process.name, f"{name}: the link is down")
                process.hit = True
                self._clock.sleep(process.random.choice((0.5, 5.0, 14.0)))
                raise LinkLost(f"{name}: the link is down")
            if name in CHANGES and process.late is not None:
                # Managers agree on changes in their order: the one of unknown fate comes before this one, or never.
                self._settle(process, process.late, lost=process.random.random() < 0.5)
            if self._is_struck(process):
                self._strike(process, name, args)

    def _after(self, name: str, args: tuple[Any, ...]) -> None:
        process = self._process()
        if process is not None:
            if name in ACTS:
                self._effect(process, name, args)
            self._leave(process, name, acts=name in ACTS)

    def _arrive(self, process: Process, name: str, *, acts: bool) -> None:
        """A call is about to be sent."""
        entry = self._entry()
        counted = ["call", "act"] if acts else ["call"]
        if acts and entry is not None and entry.holder == process.holder:
            counted.append(entry.phase)
        if process.hit:
            counted.append("hit")
        process.counts.update(counted)
        process.now = frozenset((what, process.counts[what]) for what in counted)
        process.after = None
        self.tell(process.name, name)
        for reached in sorted(process.now):
            act = self.at.pop((process.name, reached), None)
            if act is not None:
                self._clock.call_later(0.0, act)
        if process.weather.killed_at in process.now and not process.weather.killed_after:
            self.tell(process.name, "…killed before it")
            raise Killed

    def _is_struck(self, process: Process) -> bool:
        struck = process.random.random() < process.weather.rate or process.weather.struck_at in process.now
        process.hit = process.hit or struck
        return struck

    def _strike(self, process: Process, name: str, args: tuple[Any, ...]) -> None:
        """One thing goes wrong with a call to the swarm."""
        random, clock = process.random, self._clock
        kinds = (
            ("slow", "lost", "refused", "unknown", "taken", "late") if name in CHANGES else ("slow", "lost", "refused")
        )
        kind = random.choice((*kinds, "silent") if name in SILENT else kinds)
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
        if kind == "silent":
            raise Silent

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

    def _leave(self, process: Process, name: str, *, acts: bool) -> None:
        """A call has taken effect."""
        weather = process.weather
        if weather.killed_at in process.now:
            self.tell(process.name, f"…killed after {name}")
            raise Killed
        process.freezes = process.freezes or weather.frozen_at in process.now
        if process.freezes and (name in LOOKS or weather.frozen_at[0] == "call"):
            process.freezes, process.hit = False, True
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
        self._arrive(process, f"CapRover deploys {image}", acts=True)
        if self._is_struck(process):
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
        self._leave(process, "CapRover's deploy", acts=True)

    def build(self) -> BuildState | None:
        """As CapRover.build."""
        process = self._process()
        if process is not None:
            self._arrive(process, "CapRover's build", acts=False)
            if self._is_struck(process):
                self.tell(process.name, "…busy")
                raise CapRoverBusy("CapRover answered 502")
        return self._world.caprover.build()
