"""The guard: while the app has to be stopped, whatever starts it again is seen and stopped within 2 s."""

from __future__ import annotations

from capmig.errors import DeployFailed
from capmig.hand import Hand
from capmig.rollout import digest, drain, grace, running_tasks, scale, service_of

EVERY = 2.0
DRAINS = 3  # times that an app which somebody starts again is drained before the deploy gives up


class Guard:
    """Looks at each tick of the watch, from `begin` to `end`; a context manager does both."""

    def __init__(self, hand: Hand, name: str) -> None:
        self._hand = hand
        self._name = name
        self._digest = ""
        self._next = 0.0
        self._acting = False

    def __enter__(self) -> Guard:
        self._digest = digest(service_of(self._hand, self._name).spec)
        self._hand.watch.also.append(self._tick)
        return self

    def __exit__(self, *_: object) -> None:
        self._hand.watch.also.remove(self._tick)

    def _tick(self) -> None:
        if not self._acting and self._hand.clock.monotonic() >= self._next:
            self.look()

    def settle(self) -> None:
        """See that the app is stopped, and drain it again if it is not. DeployFailed when somebody always starts it."""
        for _ in range(DRAINS):
            if self.look():
                return
            drain(self._hand, self._name)
        raise DeployFailed(
            f"{self._name} is started again by somebody each time it is stopped.",
            todo="Find out who does it (a webhook, another deploy, Save & Update) and keep it from that meanwhile.",
        )

    def look(self) -> bool:
        """Whether the app is stopped; stops it if it is not, and writes into the journal that it was touched."""
        hand = self._hand
        self._acting = True
        try:
            self._next = hand.clock.monotonic() + EVERY
            service = service_of(hand, self._name)
            alive = running_tasks(hand, service)
            if service.replicas == 0 and not alive:
                return True
            known = hand.journal.entry.touched and service.replicas == 0  # it still stops, after an earlier start
            if not known:
                hand.journal.write(touched=True)
                hand.log.warning(self._who(digest(service.spec) != self._digest, len(alive)))
            self._digest = digest(service.spec)
            service = scale(hand, self._name, 0)
            hand.journal.fence()
            hand.swarm.stop_containers(service, grace(service))
            return False
        finally:
            self._acting = False

    def _who(self, changed: bool, alive: int) -> str:
        likely = (
            "its settings were changed too: most likely Save & Update in CapRover, or a deploy by a webhook"
            if changed
            else "only its instance count was changed: most likely docker service scale, or CapRover's own restart"
        )
        return f"{self._name} was started again by somebody while it had to be stopped ({alive} tasks): {likely}."
