"""What the nodes' agents do with tasks: prepare, start and stop a container, and report its states.

Delays and state sequences are those measured on Docker Engine 20.10; the contract tests hold them against a real one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from capmig.ports import TERMINAL, LogLine, Node, Spec
from tests.fakes.clock import FakeClock

SECOND = 10**9
HEARS = 0.2  # from a changed desired state to the agent's acting on it
GOSSIP = {True: 3.1, False: 1.1}  # from a changed desired state to SIGTERM, by whether the task has a network
HEALTH_TIMEOUT = 30.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a container does; times are seconds after its start. `duration` None: it runs until it is stopped.

    Effects and output that lie after its end do not happen. `stopping`: from SIGTERM to its exit; beyond the grace
    period it is killed (137). `pull`: seconds that a node's first task of the image spends on preparing.
    """

    duration: float | None = None
    exit_code: int = 0
    output: Sequence[tuple[float, str]] = ()
    effects: Sequence[tuple[float, Callable[[], None]]] = ()
    healthy: bool = True
    starting: float = 0.4
    stopping: float = 0.05
    pull: float = 0.0


@dataclass(eq=False, kw_only=True)
class FakeTask:
    """`alive`: its process runs, whatever the state says. `heard`: its agent has begun to stop it."""

    id: str
    service_id: str
    service_name: str
    slot: int
    spec: Spec
    created: str
    run: Run | None  # None: there is no such image
    desired: str
    node_id: str = ""
    state: str = "new"
    error: str = ""
    exit_code: int | None = None
    container_id: str = ""
    lines: list[LogLine] = field(default_factory=list)
    alive: bool = False
    heard: bool = False
    replaces: list[FakeTask] = field(default_factory=list)  # start-first: stopped once this one runs
    follows: FakeTask | None = None  # stop-first: this one starts once that one has ended
    unnoticed: bool = False  # a second one in its slot, until the service is changed

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL

    @property
    def wanted(self) -> bool:
        return self.desired in ("running", "ready", "complete")

    @property
    def image(self) -> str:
        return str(self.spec["TaskTemplate"]["ContainerSpec"]["Image"])

    @property
    def grace(self) -> float:
        return float(self.spec["TaskTemplate"]["ContainerSpec"].get("StopGracePeriod", 10 * SECOND)) / SECOND


class Agents:
    """The agents of all nodes. `running` and `ended` are told of tasks that reached these states.

    `history`: (time, task ID, service name, state) of every change of a task's state.
    """

    def __init__(
        self,
        clock: FakeClock,
        nodes: dict[str, Node],
        *,
        running: Callable[[FakeTask], None],
        ended: Callable[[FakeTask], None],
    ) -> None:
        self.history: list[tuple[float, str, str, str]] = []
        self._clock = clock
        self._nodes = nodes
        self._running = running
        self._ended = ended
        self._pulled: set[tuple[str, str]] = set()
        self._containers = 0

    def enter(self, task: FakeTask, state: str) -> None:
        """Change a task's state."""
        task.state = state
        self.history.append((self._clock.monotonic(), task.id, task.service_name, state))

    def later(self, seconds: float, task: FakeTask, act: Callable[[FakeTask], None]) -> None:
        """Do the next thing with a task, if by then it is in the same state and still wanted."""
        state = task.state

        def go() -> None:
            if task.state == state and task.wanted:
                act(task)

        self._clock.call_later(seconds, go)

    def take(self, task: FakeTask) -> None:
        """A task has been assigned to a node."""
        self.enter(task, "assigned")
        self.later(0.1, task, self._prepare)

    def start(self, task: FakeTask) -> None:
        """A task that is ready may start."""
        if task.state == "ready" and not task.container_id:
            task.error = "No such container: it was pruned"
            self._end("failed", task)
        elif task.state == "ready" and task.run:
            self.enter(task, "starting")
            self.later(task.run.starting, task, self._run if task.run.healthy else self._live)

    def stop(self, task: FakeTask) -> None:
        """A task is no longer wanted; its agent hears of it a little later, or when its node can be reached again."""
        self._clock.call_later(HEARS, partial(self._hear, task))

    def terminate(self, task: FakeTask, grace: float) -> float:
        """SIGTERM, and SIGKILL after the grace period; seconds until the process has ended."""
        if not task.alive or task.run is None:
            return 0.0
        seconds, exit_code = (task.run.stopping, 0) if task.run.stopping <= grace else (grace, 137)
        self._clock.call_later(seconds, self._while_alive(task, partial(self.exit_process, task, exit_code)))
        return seconds

    def exit_process(self, task: FakeTask, exit_code: int) -> None:
        """The process ends. Once its agent has begun to stop the task, swarm learns of it only when that is done."""
        task.alive = False
        task.exit_code = exit_code
        if not task.heard:
            if exit_code:
                task.error = f"task: non-zero exit ({exit_code})"
            self._end("failed" if exit_code else "complete", task)

    def _prepare(self, task: FakeTask) -> None:
        self.enter(task, "preparing")
        if task.run is None:
            task.error = f"No such image: {task.image}"
            self.later(0.1, task, partial(self._end, "rejected"))
            return
        pull = 0.0 if (task.node_id, task.image) in self._pulled else task.run.pull
        self.later(0.1 + pull, task, self._prepared)

    def _prepared(self, task: FakeTask) -> None:
        self._pulled.add((task.node_id, task.image))
        self._containers += 1
        task.container_id = f"container{self._containers:04d}"
        self.enter(task, "ready")
        if task.desired != "ready":
            self.start(task)

    def _run(self, task: FakeTask) -> None:
        self.enter(task, "running")
        self._live(task)
        self._running(task)

    def _live(self, task: FakeTask) -> None:
        """The process begins: what it prints and does from now on, and how it ends by itself."""
        run = task.run
        if run is None:
            return
        task.alive = True
        for at, text in run.output:
            self._clock.call_later(at, self._while_alive(task, partial(self._say, task, text)))
        for at, effect in run.effects:
            self._clock.call_later(at, self._while_alive(task, effect))
        end = (HEALTH_TIMEOUT, 137) if not run.healthy else (run.duration, run.exit_code)
        if end[0] is not None:
            self._clock.call_later(end[0], self._while_alive(task, partial(self.exit_process, task, end[1])))

    def _say(self, task: FakeTask, text: str) -> None:
        task.lines.append(LogLine(stamp=self._clock.stamp(), text=text))

    def _while_alive(self, task: FakeTask, act: Callable[[], None]) -> Callable[[], None]:
        return lambda: act() if task.alive else None

    def _hear(self, task: FakeTask) -> None:
        if task.ended or task.heard or not self._nodes[task.node_id].ready:
            return
        task.heard = True
        if not task.alive:
            self._end("shutdown", task)
            return
        gossip = GOSSIP[bool(task.spec["TaskTemplate"].get("Networks"))]
        self._clock.call_later(gossip - HEARS, partial(self._shut_down, task))

    def _shut_down(self, task: FakeTask) -> None:
        seconds = self.terminate(task, task.grace)
        self._clock.call_later(seconds + 0.1, partial(self._end, "shutdown", task))

    def _end(self, state: str, task: FakeTask) -> None:
        if not task.ended:
            self.enter(task, state)
            self._ended(task)
