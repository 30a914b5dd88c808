"""The acts on the app's service: scale, drain, ask CapRover for an image, see it land.

Each act looks first, acts by compare-and-swap or at most once, and looks again, so that it may be repeated at any time.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from capmig.errors import (
    CapRoverBusy,
    CapRoverRefused,
    Conflict,
    Declined,
    DeployFailed,
    FateUnknown,
    NeedsPerson,
    TimedOut,
)
from capmig.hand import Hand
from capmig.ports import Service, Spec, Task

LOST_AFTER = 30.0  # seconds after which a request of unknown fate that shows no effect is taken as lost
DEFAULT_GRACE = 10.0

Edit = Callable[[Spec], Spec]


def service_of(hand: Hand, name: str) -> Service:
    """The app's service as it is now."""
    service = hand.swarm.service(name)
    if service is None:
        raise NeedsPerson(
            f"The app's service {name} is gone from the swarm.",
            state="The app is not running.",
            todo="Press Save & Update for the app in CapRover's dashboard, which makes its service again, then deploy.",
        )
    return service


def digest(spec: Spec) -> str:
    """Tells whether anything but the number of replicas differs between two specs of a service."""
    rest = {**spec, "Mode": {mode: {} for mode in spec.get("Mode", {})}}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def grace(service: Service) -> float:
    """Seconds that the app's containers get between SIGTERM and SIGKILL."""
    nanoseconds = service.spec["TaskTemplate"]["ContainerSpec"].get("StopGracePeriod")
    return DEFAULT_GRACE if nanoseconds is None else nanoseconds / 1e9


def scale(hand: Hand, name: str, replicas: int) -> Service:
    """Set the replicas, and nothing else of the spec."""
    return change(hand, name, lambda spec: _with_replicas(spec, replicas))


def _with_replicas(spec: Spec, replicas: int) -> Spec:
    changed = copy.deepcopy(spec)
    changed["Mode"]["Replicated"]["Replicas"] = replicas
    return changed


def set_back(hand: Hand, name: str, image: str, replicas: int) -> None:
    """Set the image and the replicas, and nothing else of the spec."""
    for _ in range(2):  # the second looks whether what was answered as done is
        change(hand, name, lambda spec: _with_image(_with_replicas(spec, replicas), image))


def _with_image(spec: Spec, image: str) -> Spec:
    changed = copy.deepcopy(spec)
    changed["TaskTemplate"]["ContainerSpec"]["Image"] = image
    return changed


def change(hand: Hand, name: str, edit: Edit) -> Service:
    """Change the service's spec by compare-and-swap; nothing is sent when it is already as wanted.

    What is returned has the new spec and the version from before it.
    """

    def done() -> Service | None:
        service = service_of(hand, name)
        wanted = edit(service.spec)
        if wanted == service.spec:
            return service
        hand.journal.fence()
        with contextlib.suppress(Conflict, FateUnknown):
            hand.swarm.update_service(service, wanted)
            return replace(service, spec=wanted)
        return None

    return hand.watch.until(done, timeout=60, every=0.1, what=lambda: f"The service {name} could not be changed.")


def drain(hand: Hand, name: str) -> None:
    """Stop every task of the app and prove that they stopped. DeployFailed when that cannot be proven in time."""
    began = hand.clock.monotonic()
    before = service_of(hand, name).replicas
    service = scale(hand, name, 0)
    # The swarm itself sends SIGTERM only some 3 s after the scale, and what it has begun to stop cannot be hastened.
    hand.journal.fence()
    hand.swarm.stop_containers(service, grace(service))
    alive: list[Task] = []

    def stopped() -> bool | None:
        nonlocal alive
        alive = running_tasks(hand, service)
        if not alive:
            return True
        nodes_must_answer(hand, alive)
        return None

    try:
        hand.watch.until(stopped, timeout=hand.settings.drain_timeout, every=0.2, what=lambda: "")
    except TimedOut as error:
        raise DeployFailed(
            f"{len(alive)} tasks did not stop within {hand.settings.drain_timeout:.0f} s: {where(hand, alive)}.",
            todo="Raise drain-timeout above the app's own stop grace period, or see why it does not stop on SIGTERM.",
        ) from error
    hand.log.info(f"{name}: {before} → 0 replicas, stopped in {hand.clock.monotonic() - began:.1f} s")


def running_tasks(hand: Hand, service: Service) -> list[Task]:
    """Every task that may still run: what counts is its state, not the state that is wanted of it."""
    return [task for task in hand.swarm.tasks(service) if not task.ended]


def nodes_must_answer(hand: Hand, alive: Sequence[Task]) -> None:
    """DeployFailed if a node of these tasks is down: they keep their last state for a day, and may well run."""
    down = nodes_down(hand)
    lost = sorted({down[task.node_id] for task in alive if task.node_id in down})
    if lost:
        raise DeployFailed(
            f"Node {', '.join(lost)} is down, so it cannot be proven that the app's tasks there have stopped.",
            todo="Bring the node back. Or, once it is surely off, have the swarm forget it and its tasks, and deploy "
            f"again: docker node rm --force {' '.join(lost)}",
        )


def nodes_down(hand: Hand) -> dict[str, str]:
    """Host names by ID of the nodes that do not answer the managers."""
    return {node.id: node.hostname for node in hand.swarm.nodes() if not node.ready}


def where(hand: Hand, tasks: Sequence[Task]) -> str:
    """Where these tasks are, and in what state, for a reader."""
    nodes = {node.id: node.hostname + ("" if node.ready else " (which is down)") for node in hand.swarm.nodes()}
    return ", ".join(f"task {task.id[:12]} on {nodes.get(task.node_id, 'no node')} is {task.state}" for task in tasks)


def ask_and_see_it_land(hand: Hand, name: str, image: str, git_hash: str, *, stamp: str, asked: bool) -> Service:
    """Have CapRover deploy the image, and return its service once CapRover has updated it to that.

    `stamp`: CapRover's label before it was asked; `asked`: whether it may have been asked already, in which case it is
    looked for before it is asked again. DeployFailed when CapRover declines, fails, or does not come to it in time.
    """
    clock, timeout = hand.clock, hand.settings.deploy_timeout
    asked_at = clock.monotonic() if asked else None
    patience = LOST_AFTER
    failing_since: float | None = None
    last = "CapRover has accepted the deploy and did not come to it"

    def landed() -> Service | None:
        nonlocal asked_at, patience, failing_since, last
        service = service_of(hand, name)
        if service.image == image and service.stamp != stamp:
            return service
        build = None
        if asked_at is not None:
            try:
                build = hand.caprover.build()
            except CapRoverBusy as error:
                last = error.what
        now = clock.monotonic()
        if build is not None and build.building:
            asked_at = now
            last = "CapRover is building, or waiting for another app's build"
        # The build ends before the service is updated, and can still fail after that: one look is not enough.
        failing_since = (failing_since or now) if build is not None and build.failed and not build.building else None
        if failing_since is not None and build is not None and now - failing_since >= 5.0:
            raise Declined(f"CapRover could not deploy {image}. The end of its log:\n" + _tail(build.lines))
        if asked_at is None or now - asked_at > patience:
            hand.watch.heed()
            hand.journal.fence()
            try:
                hand.caprover.deploy(image, git_hash)
                hand.log.info("CapRover has accepted the deploy.")
                asked_at, patience = clock.monotonic(), max(LOST_AFTER, timeout / 2)
            except FateUnknown as error:
                asked_at, patience, last = clock.monotonic(), LOST_AFTER, error.what
            except CapRoverBusy as error:
                if error.what != last:
                    hand.log.info(f"CapRover cannot take the deploy now, trying again: {error.what}")
                last = error.what
            except CapRoverRefused as error:
                # An earlier request may still be on its way.
                kind = DeployFailed if asked_at is not None else Declined
                raise kind(f"CapRover declined to deploy {image}: {error.what}", todo=error.todo) from error
        return None

    try:
        return hand.watch.until(landed, timeout=timeout, what=lambda: "")
    except TimedOut as error:
        raise DeployFailed(
            f"CapRover did not deploy {image} within {timeout:.0f} s. Last seen: {last}.",
            todo="See the app's build log in CapRover's dashboard. If others' builds take long, raise deploy-timeout.",
        ) from error


def _tail(lines: Sequence[str]) -> str:
    return "\n".join(line for line in lines if line.strip())[-2000:] or "(it is empty)"
