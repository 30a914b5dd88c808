"""CapRover in memory, acting on the fake swarm as version 1.15 was seen to do on a real one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from capmig.errors import CapRoverBusy, CapRoverRefused, FateUnknown
from capmig.ports import BuildState
from tests.fakes.clock import FakeClock
from tests.fakes.orchestrator import copy_of
from tests.fakes.swarm import FakeSwarm

ACCEPTED_TO_UPDATE = 0.05
PRUNES_AFTER = 5.0
RESTART = 30.0
LATE = 8.0


class FakeCapRover:
    """Implements ports.CapRover for one app, whose service `service` exists in the swarm.

    Switches: `token_only` (it cannot ask for the build's state); `busy`: how many of the next deploys are told to come
    again; `refuse`: raised by every deploy; `fate` of the next deploy whose answer gets lost: it took no effect, took
    it, or takes it after 8 s; `delay`: seconds from the end of the build to the service's update (a hook);
    `other_builds(seconds)`: the queue is taken by other apps.
    """

    def __init__(
        self,
        clock: FakeClock,
        swarm: FakeSwarm,
        *,
        service: str = "web",
        instance_count: int = 2,
        token_only: bool = False,
    ) -> None:
        self.service = service
        self.instance_count = instance_count
        self.token_only = token_only
        self.busy = 0
        self.refuse: CapRoverRefused | None = None
        self.fate: Literal["none", "taken", "late"] | None = None
        self.delay = 0.0
        self.latency = 0.03
        self.prunes_created = False
        self.pending = False  # it has accepted a deploy, or will, and has not come to it yet
        self.asked: list[tuple[str, str]] = []  # the image and the git hash of every deploy that was accepted
        current = swarm.direct.service(service)
        self.deployed_image = current.image if current else ""
        self._clock = clock
        self._swarm = swarm
        self._building = False
        self._failed = False
        self._lines: Sequence[str] = ()
        self._queue_free_at = 0.0
        self._up_at = 0.0
        self._turn = 0
        self._updates = 0

    def deploy(self, image: str, git_hash: str) -> None:
        self._clock.sleep(self.latency)
        self._check_up()
        if self.busy:
            self.busy -= 1
            raise CapRoverBusy("CapRover answered 429: another operation is in progress")
        if self.refuse is not None:
            raise self.refuse
        fate, self.fate = self.fate, None
        if fate == "late":
            self.pending = True
            self._clock.call_later(LATE, partial(self._accept, image, git_hash))
        elif fate != "none":
            self._accept(image, git_hash)
        if fate is not None:
            raise FateUnknown("CapRover's answer to the deploy never came")

    def build(self) -> BuildState | None:
        self._clock.sleep(self.latency)
        if self.token_only:
            return None
        self._check_up()
        return BuildState(building=self._building, failed=self._failed, lines=self._lines)

    def other_builds(self, seconds: float) -> None:
        """Other apps' builds take the queue for so long."""
        self._queue_free_at = max(self._queue_free_at, self._clock.monotonic()) + seconds

    def save_and_update(self) -> None:
        """A person presses Save & Update: the image deployed last, at the instance count of the definition."""
        self._update_service(self.deployed_image)

    def restart(self) -> None:
        """CapRover goes away for 30 s and forgets what it was building; the swarm's services stay as they are."""
        self._turn += 1
        self.pending = self._building = self._failed = False
        self._lines = ()
        self._queue_free_at = 0.0
        self._up_at = self._clock.monotonic() + RESTART

    def _check_up(self) -> None:
        if self._clock.monotonic() < self._up_at:
            raise CapRoverBusy("CapRover is starting")

    def _accept(self, image: str, git_hash: str) -> None:
        """Into the queue; a newer deploy of the app takes the place of one that still waits there."""
        self.asked.append((image, git_hash))
        self._turn += 1
        self.pending = True
        self._building, self._failed, self._lines = True, False, ("Build started",)
        wait = self._queue_free_at - self._clock.monotonic()
        self._clock.call_later(max(wait, 0.0) + ACCEPTED_TO_UPDATE, partial(self._do, self._turn, image, wait > 0))

    def _do(self, turn: int, image: str, queued: bool) -> None:
        if turn != self._turn:
            return
        if image not in self._swarm.images:
            if queued:
                self.restart()
            else:
                self.pending, self._building, self._failed = False, False, True
                self._lines = ("Build started", f"pull access denied for {image}")
            return
        self._building = False
        self._lines = ("Build started", "Build has finished successfully!")
        self.deployed_image = image
        self._clock.call_later(self.delay, partial(self._update_unless_restarted, turn, image))

    def _update_unless_restarted(self, turn: int, image: str) -> None:
        if turn == self._turn:
            self.pending = False
            self._update_service(image)

    def _update_service(self, image: str) -> None:
        service = self._swarm.direct.service(self.service)
        if service is None:
            self._failed = True
            return
        self._updates += 1
        spec = copy_of(service.spec)
        container = spec["TaskTemplate"]["ContainerSpec"]
        container["Image"] = image
        container["Labels"] = {
            **(container.get("Labels") or {}),
            "randomLabelForceUpdate": f"stamp-{self._updates:04d}",
        }
        spec["Mode"] = {"Replicated": {"Replicas": self.instance_count}}
        self._swarm.direct.update_service(service, spec)
        self._clock.call_later(PRUNES_AFTER, lambda: self._swarm.prune(created=self.prunes_created))
