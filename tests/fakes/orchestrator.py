"""What swarm's managers do with services: create, place, restart, replace, roll back and remove their tasks."""

from __future__ import annotations

import json
import marshal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from capmig.ports import Node, Spec
from tests.fakes.agent import SECOND, Agents, FakeTask, Run
from tests.fakes.clock import FakeClock

NOTICES = 0.03  # from an answered call to what swarm makes of it
REAPER = 0.25  # from a terminal state to the removal of a task that is to be removed
OLD_TASK_TIMEOUT = 60.0  # after which a stop-first update no longer waits for the old task to end
RETENTION = 5  # ended tasks kept per slot

# What containers of an image do; or a choice by the whole spec of the service (its Mode, labels, Command, Args).
ImageBehaviour = Run | Callable[[Spec], Run]


def over_the_wire(spec: Spec) -> Spec:
    """A copy as JSON carries it."""
    carried: Spec = json.loads(json.dumps(spec))
    return carried


def copy_of(spec: Spec) -> Spec:
    """A copy of what JSON has carried already: with copy.deepcopy it would take most of a fake deploy's time."""
    copied: Spec = marshal.loads(marshal.dumps(spec))
    return copied


@dataclass(eq=False, kw_only=True)
class FakeService:
    id: str
    name: str
    version: int
    spec: Spec
    previous: Spec | None = None
    update_state: str = ""
    update_message: str = ""
    updates: int = 0

    @property
    def mode(self) -> str:
        return str(next(iter(self.spec["Mode"])))

    @property
    def order(self) -> str:
        return str((self.spec.get("UpdateConfig") or {}).get("Order", "stop-first"))

    @property
    def failure_action(self) -> str:
        return str((self.spec.get("UpdateConfig") or {}).get("FailureAction", "pause"))

    @property
    def parallelism(self) -> int:
        """How many tasks are replaced at once; 0: all."""
        return int((self.spec.get("UpdateConfig") or {}).get("Parallelism", 1))

    @property
    def monitor(self) -> float:
        return float((self.spec.get("UpdateConfig") or {}).get("Monitor", 5 * SECOND)) / SECOND

    @property
    def updating(self) -> bool:
        return self.update_state in ("updating", "rollback_started")


class Orchestrator:
    """Holds services, tasks and nodes, and moves them along as the clock moves. `images`: all that can be pulled."""

    def __init__(self, clock: FakeClock, nodes: Sequence[Node]) -> None:
        self.nodes = {node.id: node for node in nodes}
        self.images: dict[str, ImageBehaviour] = {}
        self.services: dict[str, FakeService] = {}
        self.tasks: list[FakeTask] = []
        self.doubles_jobs = False  # as an engine does that led, was superseded, and leads again
        self.agents = Agents(clock, self.nodes, running=self._running, ended=self._ended)
        self._clock = clock
        self._index = 10
        self._serial = 0

    def next_index(self) -> int:
        """A new version for an object that changes."""
        self._index += 1
        return self._index

    def new_id(self, kind: str) -> str:
        self._serial += 1
        return f"{kind}{self._serial:04d}"

    def create(self, spec: Spec) -> FakeService:
        service = FakeService(
            id=self.new_id("service"), name=spec["Name"], version=self.next_index(), spec=over_the_wire(spec)
        )
        self.services[service.id] = service
        self._clock.call_later(NOTICES, partial(self._reconcile, service))
        return service

    def change(self, service: FakeService, spec: Spec) -> None:
        """An update: remembers the spec before it, and forgets the status of the last update."""
        service.previous, service.spec = service.spec, over_the_wire(spec)
        service.updates += 1
        for task in self.of(service.id):
            task.unnoticed = False
        self._cancel_update(service)
        self._set_update(service, "", "")
        self._clock.call_later(NOTICES, partial(self._reconcile, service))

    def roll_back(self, service: FakeService, message: str) -> None:
        """Back to the spec before the last update, replicas and all."""
        if service.previous is None:
            raise AssertionError("there is no previous spec to roll back to")
        service.spec, service.previous = service.previous, None
        service.updates += 1
        self._cancel_update(service)
        self._set_update(service, "rollback_started", message)
        self._reconcile(service)

    def start_twice(self, service: FakeService) -> None:
        """A second task in the first slot, which swarm does not notice until the service is changed."""
        self._new(service, 1).unnoticed = True

    def remove(self, service: FakeService) -> None:
        """The service goes at once; its tasks stop in their own time."""
        del self.services[service.id]
        for task in self.of(service.id):
            self._want(task, "remove")

    def of(self, service_id: str) -> list[FakeTask]:
        return [task for task in self.tasks if task.service_id == service_id]

    def set_node(self, node: Node) -> None:
        """Change a node. One that is not ready cannot be reached: its processes go on, its tasks keep their state, and
        those of replicated services are started elsewhere."""
        self.nodes[node.id] = node
        for task in [task for task in self.tasks if task.node_id == node.id and not task.ended]:
            if not node.ready and task.desired in ("running", "ready"):
                task.desired = "shutdown"
            elif node.ready and not task.wanted:
                self.agents.stop(task)
        for service in list(self.services.values()):
            self._reconcile(service)
        for task in [task for task in self.tasks if task.state == "pending" and task.wanted]:
            self._place(task)

    def _live(self, service: FakeService) -> list[FakeTask]:
        return [task for task in self.of(service.id) if task.wanted and not task.ended]

    def _reconcile(self, service: FakeService) -> None:
        """Bring the number and the place of the tasks to what the spec wants, then their template."""
        if service.id not in self.services:
            return
        if service.mode == "ReplicatedJob":
            if not self.of(service.id):
                for slot in range(service.spec["Mode"]["ReplicatedJob"].get("TotalCompletions", 1)):
                    for _ in range(2 if self.doubles_jobs else 1):
                        self._new(service, slot, desired="complete")
        elif service.mode == "GlobalJob":
            started = {task.node_id for task in self.of(service.id)}
            for node in self._eligible(service.spec):
                if node.id not in started:
                    self._new(service, 0, node_id=node.id, desired="complete")
        elif service.mode == "Global":
            eligible = [node.id for node in self._eligible(service.spec)]
            for task in self._live(service):
                if task.node_id not in eligible:
                    self._want(task, "remove")
            occupied = {task.node_id for task in self._live(service)}
            for node_id in eligible:
                if node_id not in occupied:
                    self._new(service, 0, node_id=node_id)
            self._replace(service)
        else:
            replicas = service.spec["Mode"]["Replicated"].get("Replicas", 1)
            slots = sorted({task.slot for task in self._live(service)})
            kept = slots[:replicas]
            filled = [slot for slot in range(1, replicas + 1) if slot not in kept][: replicas - len(kept)]
            for task in self.of(service.id):
                if task.slot not in kept + filled:
                    self._want(task, "remove")
            for slot in filled:
                self._new(service, slot)
            self._replace(service)

    def _cancel_update(self, service: FakeService) -> None:
        """Tasks that were to replace others no longer do: the updater of the last change stops when the next begins."""
        for task in self.of(service.id):
            task.replaces = []

    def _replace(self, service: FakeService) -> None:
        """Replace tasks of an older template, as many at a time and in the order that the spec wants."""
        if service.update_state in ("paused", "rollback_paused"):
            return
        slots: dict[tuple[int, str], list[FakeTask]] = {}
        for task in self._live(service):
            slots.setdefault((task.slot, task.node_id if service.mode == "Global" else ""), []).append(task)
        todo, under_way = [], 0
        for tasks in slots.values():
            stale = [task for task in tasks if task.spec["TaskTemplate"] != service.spec["TaskTemplate"]]
            fresh = [task for task in tasks if task not in stale]
            under_way += sum(task.state != "running" for task in fresh)
            first = next((task for task in fresh if task.state == "running"), None)
            if first is not None:
                for task in tasks:
                    if task is not first and not task.unnoticed:
                        self._want(task, "shutdown")
            elif stale and not fresh:
                todo.append(stale)
        room = max(0, service.parallelism - under_way) if service.parallelism else len(todo)
        for stale in todo[:room]:
            if not service.updating:
                self._set_update(service, "updating", "update in progress")
            slot, node_id = stale[0].slot, stale[0].node_id if service.mode == "Global" else ""
            if service.order == "start-first":
                self._new(service, slot, node_id=node_id).replaces = stale
            else:
                for task in stale:
                    self._want(task, "shutdown")
                task = self._new(service, slot, node_id=node_id, desired="ready")
                task.follows = stale[-1]
                self._clock.call_later(OLD_TASK_TIMEOUT, partial(self._follow, task))
        if service.updating:
            self._clock.call_later(service.monitor, partial(self._settle, service, service.updates))

    def _settle(self, service: FakeService, update: int) -> None:
        """End an update once all its tasks have run for as long as it is monitored."""
        if not service.updating or service.updates != update:
            return
        began = {task_id: at for at, task_id, _, state in self.agents.history if state == "running"}
        enough = self._clock.monotonic() - service.monitor + 1e-6
        for task in self._live(service):
            stale = task.spec["TaskTemplate"] != service.spec["TaskTemplate"]
            if stale or task.state != "running" or began[task.id] > enough:
                return
        if service.update_state == "updating":
            self._set_update(service, "completed", "update completed")
        else:
            self._set_update(service, "rollback_completed", "rollback completed")

    def _set_update(self, service: FakeService, state: str, message: str) -> None:
        service.update_state, service.update_message = state, message
        service.version = self.next_index()

    def _new(self, service: FakeService, slot: int, *, node_id: str = "", desired: str = "running") -> FakeTask:
        spec = copy_of(service.spec)
        behaviour = self.images.get(spec["TaskTemplate"]["ContainerSpec"]["Image"])
        task = FakeTask(
            id=self.new_id("task"),
            service_id=service.id,
            service_name=service.name,
            slot=slot,
            spec=spec,
            created=self._clock.stamp(),
            run=behaviour(spec) if callable(behaviour) else behaviour,
            desired=desired,
            node_id=node_id,
        )
        self.tasks.append(task)
        self.agents.enter(task, "pending")
        self.agents.later(0.07, task, self._place)
        return task

    def _place(self, task: FakeTask) -> None:
        eligible = [node.id for node in self._eligible(task.spec) if task.node_id in ("", node.id)]
        if not eligible:
            task.error = "no suitable node (scheduling constraints not satisfied)"
            return
        others = [other.node_id for other in self.of(task.service_id) if other is not task and not other.ended]
        task.node_id = min(eligible, key=lambda node_id: (others.count(node_id), node_id))
        task.error = ""
        self.agents.take(task)

    def _eligible(self, spec: Spec) -> list[Node]:
        constraints = (spec["TaskTemplate"].get("Placement") or {}).get("Constraints") or []
        able = [node for node in self.nodes.values() if node.ready and node.active]
        return [node for node in able if all(_meets(node, constraint) for constraint in constraints)]

    def _want(self, task: FakeTask, desired: str) -> None:
        """Change the desired state: visible at once, acted upon by the task's agent in its own time."""
        stops = task.wanted
        task.desired = desired
        if task.ended or task.state == "pending":
            self._clock.call_later(REAPER, partial(self._reap, task))
        elif stops:
            self.agents.stop(task)

    def _reap(self, task: FakeTask) -> None:
        if task in self.tasks and task.desired == "remove":
            self.tasks.remove(task)

    def _running(self, task: FakeTask) -> None:
        for old in task.replaces:
            self._want(old, "shutdown")
        task.replaces = []
        if task.service_id in self.services:
            self._replace(self.services[task.service_id])

    def _ended(self, task: FakeTask) -> None:
        if task.desired == "remove":
            self._clock.call_later(REAPER, partial(self._reap, task))
        for follower in [other for other in self.tasks if other.follows is task]:
            self._follow(follower)
        history = [other for other in self.of(task.service_id) if other.slot == task.slot and other.ended]
        for old in history[:-RETENTION]:
            self.tasks.remove(old)
        if task.service_id in self.services and task.wanted:
            service = self.services[task.service_id]
            self._restart(service, task)
            self._note_failure(service, task)

    def _follow(self, task: FakeTask) -> None:
        """Start a task that waited for another to end, or has waited for long enough."""
        if task.follows is not None:
            task.follows = None
            self._release(task)

    def _note_failure(self, service: FakeService, task: FakeTask) -> None:
        """During an update, a task of the new template that ended is its failure."""
        if not service.updating or task.spec["TaskTemplate"] != service.spec["TaskTemplate"]:
            return
        why = f"due to failure or early termination of task {task.id}"
        if service.update_state == "rollback_started":
            self._set_update(service, "rollback_paused", f"rollback paused {why}")
        elif service.failure_action == "rollback":
            self.roll_back(service, f"update rolled back {why}")
        elif service.failure_action == "pause":
            self._set_update(service, "paused", f"update paused {why}")

    def _restart(self, service: FakeService, task: FakeTask) -> None:
        """A new task in the place of one that ended by itself, made ready at once and started after the delay."""
        policy = service.spec["TaskTemplate"].get("RestartPolicy") or {}
        condition = policy.get("Condition", "any")
        job = task.desired == "complete"
        if job and task.state == "complete":
            return
        task.desired = "shutdown"
        if condition == "none" or (condition == "on-failure" and task.state == "complete"):
            # Seen with Engine 20.10: on two nodes a global job's failed tasks are made again without end, on one never.
            if service.mode == "GlobalJob" and len(self._eligible(service.spec)) > 1:
                self._new(service, 0, node_id=task.node_id, desired="complete")
            return
        node_id = task.node_id if service.mode in ("Global", "GlobalJob") else ""
        delay = float(policy.get("Delay", 5 * SECOND)) / SECOND
        fresh = self._new(service, task.slot, node_id=node_id, desired="ready")
        fresh.replaces = task.replaces if service.updating else []
        self._clock.call_later(delay, partial(self._release, fresh))

    def _release(self, task: FakeTask) -> None:
        """A task that was only to be made ready may start."""
        if task.desired == "ready" and task.follows is None:
            task.desired = "running"
            self.agents.start(task)


def _meets(node: Node, constraint: str) -> bool:
    equal = "==" in constraint
    key, _, value = (part.strip() for part in constraint.partition("==" if equal else "!="))
    facts = {
        "node.id": node.id,
        "node.hostname": node.hostname,
        "node.role": "manager" if node.manager else "worker",
        **{f"node.labels.{label}": text for label, text in node.labels.items()},
    }
    return (facts.get(key) == value) == equal
