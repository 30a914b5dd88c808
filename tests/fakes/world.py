"""One app with its database on a fake swarm, and the hands that deploy it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from capmig.backup.inputs import Backup
from capmig.deploy import Report, deploy
from capmig.entry import Entry, Phase
from capmig.hand import Hand, Settings
from capmig.inputs import Inputs, LocalManager, Migration, Mode, OnFailure, Owner
from capmig.jobs import KIND_LABEL
from capmig.journal import LEASE, Journal, config_name
from capmig.ports import Node, Service, Spec
from capmig.preflight import look
from capmig.recover import recover
from capmig.timeline import Timeline
from capmig.watch import Watch
from tests.fakes.caprover import FakeCapRover
from tests.fakes.clock import FakeClock
from tests.fakes.log import RecordingLog
from tests.fakes.swarm import FakeSwarm, Run, app_spec

OLD = "registry/web:1"
NEW = "registry/web:2"
APP = "web"


class Killed(BaseException):
    """The process dies."""


def inputs(
    *,
    image: str = NEW,
    migrates: bool = True,
    on_failure: str = "restore",
    timeout: float = 60.0,
    backup: Backup | None = None,
) -> Inputs:
    """What a workflow asks for: a deploy of `image` to the app."""
    migration = Migration(command=("--migrate-database",), entrypoint=(), image=image, env={}, timeout=timeout)
    return Inputs(
        mode=Mode.DEPLOY,
        server="https://captain.example.com",
        app=APP,
        token="app-token",
        password="",
        otp="",
        image=image,
        git_hash="abc",
        service="",
        manager=LocalManager(socket="/var/run/docker.sock"),
        migration=migration if migrates else None,
        backup=backup,
        backup_id="",
        on_failure=OnFailure(on_failure),
        drain_timeout=60.0,
        deploy_timeout=120.0,
        stable_for=10.0,
        lock_timeout=900.0,
        probe=None,
        registry=None,
        owner=Owner(server_url="", repository="", run_id="", attempt="", job="", host="test"),
    )


class World:
    """The app at `OLD` with two replicas, CapRover, and a database that counts the migrations it has seen.

    `schema` goes to 2 when the migration of `NEW` has done its work, and is "half" while that is under way.
    """

    def __init__(
        self,
        *,
        replicas: int = 2,
        nodes: Sequence[Node] = (),
        token_only: bool = True,
        clock: FakeClock | None = None,
        spec: Spec | None = None,
    ) -> None:
        self.clock = clock or FakeClock()
        self.swarm = FakeSwarm(self.clock, nodes)
        self.schema: int | str = 1
        self.migrations = 0
        self.swarm.images[OLD] = Run()
        self.new_image()
        self.swarm.direct.create_service(spec or app_spec(APP, OLD, replicas=replicas))
        self.caprover = FakeCapRover(self.clock, self.swarm, service=APP, instance_count=2, token_only=token_only)
        self.clock.sleep(30.0)
        self._runs = itertools.count(1)

    def new_image(self, *, image: str = NEW, serves: Run | None = None, migration: Run | None = None) -> None:
        """What a new image does, as the app and as the migration (by default: serve, and migrate in 3 s)."""
        app, job = serves or Run(), migration or Run(duration=3.0, output=((0.5, "migrating"),))
        ends = [] if job.duration is None else [(job.duration, partial(self._end, job.exit_code))]
        watched = replace(job, effects=[(0.0, self._begin), *ends])

        def behave(spec: Spec) -> Run:
            kind = (spec.get("Labels") or {}).get(KIND_LABEL)
            if kind in ("pull", "canary"):
                return Run(duration=0.0, exit_code=127)
            return watched if kind == "migration" else app

        self.swarm.images[image] = behave

    def _begin(self) -> None:
        self.migrations += 1
        self.schema = "half"

    def _end(self, exit_code: int) -> None:
        if exit_code == 0 and self.schema == "half":
            self.schema = 2

    def hand(
        self, *, cancelled: Callable[[], bool] = lambda: False, asked: Inputs | None = None, owner: str = ""
    ) -> Hand:
        """A new process, which is another holder than all others; by default that of another run."""
        number = next(self._runs)
        asked = asked or inputs()
        log = RecordingLog()
        journal = Journal(
            self.swarm,
            self.clock,
            log,
            app=APP,
            owner=owner or f"run {number}",
            owner_url="",
            holder=f"holder-{number}",
        )
        return Hand(
            app=APP,
            swarm=self.swarm,
            caprover=self.caprover,
            clock=self.clock,
            log=log,
            journal=journal,
            watch=Watch(self.clock, journal, cancelled),
            timeline=Timeline(self.clock, log),
            settings=Settings(
                drain_timeout=asked.drain_timeout,
                deploy_timeout=asked.deploy_timeout,
                stable_for=asked.stable_for,
                lock_timeout=asked.lock_timeout,
            ),
        )

    def deploy(self, asked: Inputs | None = None, hand: Hand | None = None) -> Report:
        """A whole deploy, as main would begin it."""
        asked = asked or inputs()
        hand = hand or self.hand(asked=asked)
        return deploy(hand, lambda: look(self.swarm, asked))

    @contextmanager
    def dying(self, when: Callable[[str], bool]) -> Iterator[None]:
        """In this block the process dies as soon as a call has taken effect for whose name this is true."""

        def strike(name: str, args: object) -> None:
            if when(name):
                raise Killed

        self.swarm.after_call = strike
        try:
            yield
        except Killed:
            self.swarm.after_call = lambda name, args: None
        else:
            raise AssertionError("the process did not die")

    def recovered(self) -> Entry:
        """What the journal said last, once another process has taken it over and brought that deploy to its end."""
        self.clock.sleep(LEASE + 1.0)
        hand = self.hand()
        found = hand.journal.look()
        if found is None or not hand.journal.take_over(*found):
            raise AssertionError("there is no journal that can be taken over")
        return recover(hand).entry

    def in_phase(self, phase: Phase) -> bool:
        return self.journal is not None and self.journal.phase is phase

    @property
    def service(self) -> Service:
        found = self.swarm.direct.service(APP)
        if found is None:
            raise AssertionError("the app's service is gone")
        return found

    @property
    def spec(self) -> Spec:
        """The app's spec but for the label that CapRover writes anew each time."""
        spec = copy.deepcopy(self.service.spec)
        spec["TaskTemplate"]["ContainerSpec"].pop("Labels", None)
        return spec

    @property
    def running(self) -> list[str]:
        """The images that run now, one for each running task."""
        tasks = self.swarm.direct.tasks(self.service)
        return sorted(task.image for task in tasks if task.state == "running")

    @property
    def journal(self) -> Entry | None:
        config = self.swarm.direct.config(config_name(APP))
        return None if config is None else Entry.read(config.name, config.labels)

    @property
    def jobs(self) -> list[str]:
        """capmig's own services that are still there."""
        return [service.name for service in self.swarm.direct.services("capmig.app")]
