"""One seed: a world, processes that fail in it, perhaps a meddling person, and a last run that must heal it all."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from random import Random

from capmig.backup.inputs import Backup, Engine
from capmig.by_hand import post, recover_now
from capmig.deploy import deploy
from capmig.errors import CapmigError
from capmig.hand import Hand
from capmig.inputs import Inputs
from capmig.preflight import look
from tests.fakes.database import URL, Database
from tests.fakes.swarm import Run, app_spec, fake_node
from tests.fakes.world import APP, NEW, OLD, inputs
from tests.simulation import disturbances
from tests.simulation.faults import NEVER, Faults, Process, Weather, moment
from tests.simulation.scheduler import Killed, Scheduler
from tests.simulation.witness import Witness

LATE = 20.0  # seconds until the last request of a dead run has taken effect
SETTLES = 200.0  # seconds until CapRover has come to what it was asked for, and swarm has done it
THIRD = "registry/web:3"
IMAGES = (NEW, THIRD)
MISSING = "registry/web:404"  # it was never pushed
ASKED = (*IMAGES * 4, MISSING)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a seed came to: the violations, none if it is safe; and its schedule, one line each."""

    seed: int
    wrong: list[str]
    schedule: list[str]
    endings: list[str]


def simulate(seed: int) -> Outcome:
    """Play one seed to its end."""
    return Scenario(seed).play()


class Scenario:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random = Random(seed)
        self.clock = Scheduler(Random(random.random()))
        self.replicas = random.choice((0, 1, 2, 2, 3)) if random.random() < 0.3 else 2
        self.world = self._world()
        self.witness = Witness(self.world, self.clock.monotonic, replicas=self.replicas)
        self.faults = Faults(self.clock, self.world, self.witness.effect, lambda: self.witness.entry)
        self.began = self.clock.monotonic()
        self.clock.each_step = self.witness.step
        self.stay_down = random.random() < 0.25
        self.timeout = random.choice((5.0, 20.0, 100.0))
        self.rough = random.random() < 0.8
        self.also_replicas: set[int] = set()  # that the app may end with, by the hand of a person
        self.endings: list[str] = []
        self._count = 0

    def _world(self) -> Database:
        random = self.random
        spec = app_spec(
            APP,
            OLD,
            env=[URL],
            replicas=self.replicas,
            order=random.choice(("start-first", "stop-first")),
            failure_action=random.choice(("pause", "pause", "rollback", "continue")),
        )
        world = Database(
            clock=self.clock,
            nodes=[fake_node(f"node{number}") for number in range(1, random.choice((2, 2, 3)))],
            token_only=random.random() < 0.5,
            spec=spec,
        )
        world.caprover.instance_count = self.replicas
        for action in ("dump", "restore"):
            world.jobs_do[action] = self._backs_up(action)
        world.swarm.images[OLD] = Run(stopping=random.choice((0.05, 0.05, 1.0, 20.0)))
        self.sound = [OLD]  # images that serve
        for image in IMAGES:
            serves = self._serves()
            world.new_image(image=image, serves=serves, migration=self._migrates())
            if serves.healthy and serves.duration is None:
                self.sound.append(image)
        return world

    def _backs_up(self, action: str) -> Run:
        """A dump may fail or hang; a restore only takes its time, or nobody could ask for a good end."""
        random = self.random
        duration = random.choice((0.5, 2.0, 8.0))
        line = {"dump": "capmig: id=x bytes=1500000 seconds=3", "restore": "capmig: method=swap"}[action]
        match random.randrange(10) if action == "dump" else 9:
            case 0:
                return Run(duration=duration, exit_code=1)
            case 1:
                return Run(duration=None, stopping=random.choice((0.05, 30.0)))
            case _:
                return Run(duration=duration, output=((0.2, line),), stopping=random.choice((0.05, 30.0)))

    def _serves(self) -> Run:
        match self.random.randrange(10):
            case 0:
                return Run(duration=self.random.choice((0.2, 3.0)), exit_code=1)
            case 1:
                return Run(healthy=False)
            case _:
                return Run(stopping=self.random.choice((0.05, 2.0)))

    def _migrates(self) -> Run:
        random = self.random
        duration = random.choice((0.1, 1.0, 3.0, 12.0, 80.0))
        match random.randrange(10):
            case 0 | 1:
                return Run(duration=duration, exit_code=random.choice((1, 137)))
            case 2 | 3:
                return Run(duration=None, stopping=random.choice((0.05, 30.0)))
            case _:
                return Run(duration=duration, output=((0.05, "migrating"),))

    def play(self) -> Outcome:
        for number in range(self.random.choice((1, 1, 1, 2, 2, 3))):
            self._add_run(0.0 if number == 0 else self.random.uniform(0.0, 120.0))
        disturbances.add(self)
        self.clock.run()
        disturbances.end(self)
        self.clock.sleep(self.random.choice((LATE, LATE, SETTLES)))
        self._heal()
        self.clock.run()
        for error in self.clock.errors:
            self.witness.say(f"something breaks: {error!r}")
        if self.clock.endless:
            self.witness.say("it does not end")
        return Outcome(
            seed=self.seed,
            wrong=self.witness.wrong,
            schedule=[f"{at:9.2f}  {who:12} {what}" for at, who, what in self.faults.trace],
            endings=self.endings,
        )

    def _inputs(self, image: str) -> Inputs:
        restore = self.random.random() < 0.8
        backup = Backup(
            engine=Engine.AUTO, source="", image="", timeout=20.0, keep=self.random.choice((1, 5)), restore=restore
        )
        asked = inputs(
            image=image,
            backup=backup if self.random.random() < 0.5 else None,
            migrates=self.random.random() < 0.85,
            on_failure="stay-down" if self.stay_down else "restore",
            timeout=self.timeout,
        )
        return replace(asked, drain_timeout=30.0, deploy_timeout=90.0, lock_timeout=300.0)

    def _weather(self) -> Weather:
        random = self.random
        if not self.rough:
            return Weather()
        at, killed_after, frozen_for = moment(random), random.random() < 0.5, random.choice((30.0, 65.0, 65.0, 200.0))
        match random.randrange(6):
            case 0:
                return Weather(struck_at=at)
            case 1:
                return Weather(killed_at=at, killed_after=killed_after)
            case 2:
                return Weather(frozen_at=at, frozen_for=frozen_for)
        length = random.uniform(5.0, 100.0)
        down = self.clock.monotonic() + random.uniform(0.0, 60.0) if random.random() < 0.15 else 0.0
        return Weather(
            rate=random.choice((0.0, 0.0, 0.01, 0.05, 0.2)),
            struck_at=moment(random) if random.random() < 0.3 else NEVER,
            killed_at=moment(random) if random.random() < 0.5 else NEVER,
            killed_after=killed_after,
            frozen_at=moment(random) if random.random() < 0.3 else NEVER,
            frozen_for=frozen_for,
            link_down=(down, down + length),
        )

    def _add_run(self, starts: float) -> None:
        random = self.random
        self._count += 1
        owner, name = f"run {self._count}", f"run {self._count}"
        asked = self._inputs(random.choice(ASKED))
        cancelled_at = self.clock.monotonic() + starts + random.uniform(0.0, 60.0) if random.random() < 0.2 else None
        weather = self._weather()
        process, hand = self._process(name, owner, asked, weather, cancelled_at)
        if weather.frozen_at != NEVER and random.random() < 0.7:
            self._add_run(starts + random.uniform(0.0, 60.0))  # it waits, to take over as soon as it may
        has_post = random.random() < 0.6
        post_after = random.uniform(1.0, 30.0)

        def begin_post() -> None:
            process, hand = self._process(f"post {name}", owner, asked, Weather())
            self.clock.add(post_after, process.name, partial(self._act, process, lambda: self._post(process, hand)))

        def act() -> None:
            try:
                self._act(process, lambda: self._deploy(process, hand, asked))
            finally:
                if has_post and cancelled_at is None:
                    begin_post()

        self.clock.add(starts, name, act)
        if has_post and cancelled_at is not None:
            self.clock.call_later(cancelled_at - self.clock.monotonic(), begin_post)

    def _heal(self) -> None:
        """The last run, in fair weather."""
        asked = self._inputs(self.random.choice(ASKED))
        process, hand = self._process("last run", "last run", asked, Weather())
        deploys = self.random.random() < 0.5
        if deploys:
            act: Callable[[], None] = partial(self._deploy, process, hand, asked)
        else:
            act = partial(self._recover, process, hand)

        def heal() -> None:
            self._act(process, act, must_succeed=not self.witness.unlocked_at > 0)
            self.clock.sleep(SETTLES)
            replicas = tuple({self.replicas, *self.also_replicas})
            self.witness.end(may_stay_down=self.stay_down, replicas=replicas, swept=deploys)

        self.clock.add(0.0, process.name, heal)

    def _process(
        self, name: str, owner: str, asked: Inputs, weather: Weather, cancelled_at: float | None = None
    ) -> tuple[Process, Hand]:
        clock = self.clock
        hand = self.world.hand(
            asked=asked, owner=owner, cancelled=lambda: cancelled_at is not None and clock.monotonic() >= cancelled_at
        )
        process = Process(name=name, holder=hand.journal.holder, weather=weather, random=Random(self.random.random()))
        self.faults.processes[name] = self.witness.processes[process.holder] = process
        return process, replace(hand, caprover=self.faults)

    def _act(self, process: Process, act: Callable[[], None], *, must_succeed: bool = False) -> None:
        """One process, from its start to its end, however it ends."""
        try:
            act()
        except CapmigError as error:
            self.endings.append(f"{process.name}: {type(error).__name__}: {error.what.splitlines()[0]}")
            self.faults.tell(process.name, f"ends with {type(error).__name__}: {error}")
            if must_succeed:
                self.witness.say(f"{process.name} ends with {type(error).__name__}: {error.what}")
        except Killed:
            self.endings.append(f"{process.name}: killed")
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a bug to tell of
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.witness.say(f"{process.name} breaks: {error!r} at {where.filename}:{where.lineno}")
        finally:
            process.ended = True

    def _deploy(self, process: Process, hand: Hand, asked: Inputs) -> None:
        report = deploy(hand, lambda: look(self.world.swarm, asked))
        self.endings.append(f"{process.name}: {report.ending.result}")
        self.faults.tell(process.name, f"ends: {report.ending.result} ({report.error or ''})")
        self.witness.report(process, report.ending)

    def _post(self, process: Process, hand: Hand) -> None:
        ended = post(hand)
        self.endings.append(f"{process.name}: {'quiet' if ended.quiet else ended.outcome.result}")

    def _recover(self, process: Process, hand: Hand) -> None:
        ended = recover_now(hand, raise_up=not self.stay_down)
        self.endings.append(f"{process.name}: {'quiet' if ended.quiet else ended.outcome.result}")
