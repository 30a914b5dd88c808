"""The acts on the app's service: scale, drain, ask CapRover for an image, see it land, see it run.

Each act looks first, acts by compare-and-swap or at most once, and looks again, so that it may be repeated at any time.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from capmig.errors import (
    CapRoverBusy,
    CapRoverRefused,
    Conflict,
    Declined,
    DeployFailed,
    FateUnknown,
    NeedsPerson,
    TimedOut,
    remedy,
)
from capmig.hand import Hand
from capmig.ports import Service, Spec, Task

PRUNE = 8.0  # seconds after CapRover's update of a service until its prune of stopped containers is over
LOST_AFTER = 30.0  # seconds after which a request of unknown fate that shows no effect is taken as lost
CRASHES = 3  # tasks of one version that ended by themselves: it crashes
CROWDED = 3.0  # seconds after which swarm will not notice by itself that it runs two tasks in one slot
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
    down = _nodes_down(hand)
    lost = sorted({down[task.node_id] for task in alive if task.node_id in down})
    if lost:
        raise DeployFailed(
            f"Node {', '.join(lost)} is down, so it cannot be proven that the app's tasks there have stopped.",
            todo="Bring the node back. Or, once it is surely off, have the swarm forget it and its tasks, and deploy "
            f"again: docker node rm --force {' '.join(lost)}",
        )


def _nodes_down(hand: Hand) -> dict[str, str]:
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


@dataclass
class _Steady:
    """Which tasks run, and since when they have been just these."""

    ids: frozenset[str] = frozenset()
    since: float = 0.0


def see_it_run(hand: Hand, name: str, image: str, *, zero_is_right: bool, probed: bool) -> tuple[int, float]:
    """Prove that just this image runs, with all its replicas, and stays so: how many, and since when (monotonic).

    `zero_is_right`: the app was at 0 replicas before, so 0 is no failure. DeployFailed with what was seen otherwise.
    """
    clock = hand.clock
    began = clock.monotonic()
    service = service_of(hand, name)
    old_ends = {task.id for task in hand.swarm.tasks(service) if task.ended}
    steady = _Steady(since=began)
    seen = "no task yet"
    probe = hand.settings.probe if probed else None
    answer = "" if probe is None else "it was not asked yet"
    crowded_since: float | None = None

    def runs() -> tuple[int, float] | None:
        nonlocal seen, answer, crowded_since
        asked_at = clock.monotonic()  # what is read is at least as new as this
        service = service_of(hand, name)
        _must_be_ours(service, image)
        wanted = service.replicas or 0
        if wanted == 0 and not zero_is_right:
            raise DeployFailed(
                f"{name} has 0 replicas after the deploy.", todo="Set the app's instance count in CapRover."
            )
        tasks = hand.swarm.tasks(service)
        _must_not_crash([task for task in tasks if task.id not in old_ends], image)
        alive = [task for task in tasks if not task.ended and not _never_placed(task)]
        running = [
            task for task in alive if task.state == "running" and task.desired == "running" and task.image == image
        ]
        if len(running) != len(alive):
            lost = _lost(hand, alive)
            alive = [task for task in alive if task not in lost]
        seen = f"{len(running)} of {wanted} run" + "".join(
            f"; {t.state} {t.error}".rstrip() for t in alive if t not in running
        )
        ids = frozenset(task.id for task in running)
        settled = len(running) == len(alive) and service.update_state != "updating"
        whole = settled and len(running) == wanted
        crowded = settled and len(running) > wanted == len({task.slot for task in running})
        crowded_since = (crowded_since or asked_at) if crowded else None
        if crowded_since is not None and asked_at - crowded_since >= CROWDED:
            hand.log.info(f"{name}: {seen}. The swarm is made to look again.")
            _make_swarm_look(hand, service)
            crowded_since = None
        if ids != steady.ids or not whole:
            steady.ids, steady.since = ids, clock.monotonic()
            return None
        if answer and probe is not None and wanted:
            answer = probe()
            return None
        stays = asked_at - steady.since >= hand.settings.stable_for and asked_at - began >= PRUNE
        return (wanted, steady.since) if stays else None

    timeout = hand.settings.deploy_timeout + hand.settings.stable_for
    try:
        return hand.watch.until(runs, timeout=timeout, what=lambda: "")
    except TimedOut as error:
        answered = f" The check of verify-url: {answer}." if answer and seen.startswith(f"{len(steady.ids)} of") else ""
        raise DeployFailed(
            f"{image} does not run as it should after {timeout:.0f} s: {seen}.{answered}",
            todo=f"See why with: docker service ps --no-trunc {name}; docker service logs {name}",
        ) from error


def _never_placed(task: Task) -> bool:
    """An update overtook this task before it had a node: it keeps that state for ever, and never runs."""
    return not task.node_id and task.desired == "shutdown"


def _lost(hand: Hand, alive: Sequence[Task]) -> list[Task]:
    """Of these tasks, those that swarm has replaced because their node is down: they keep their state until then."""
    down = _nodes_down(hand)
    return [task for task in alive if task.node_id in down and task.desired != "running"]


def _make_swarm_look(hand: Hand, service: Service) -> None:
    """Write the spec as it is: swarm then looks at every slot, and ends the second task that one of them has.

    It may start two when it replaces a version just while it restarts one of its tasks, and counts slots from then on.
    Source: isSlotDirty in https://github.com/moby/swarmkit/blob/master/manager/orchestrator/update/updater.go
    """
    hand.journal.fence()
    with contextlib.suppress(Conflict, FateUnknown):
        hand.swarm.update_service(service, service.spec)


def _must_be_ours(service: Service, image: str) -> None:
    if service.image != image:
        raise DeployFailed(
            f"{service.name} has the image {service.image} instead of {image}"
            + (f" ({service.update_message})" if service.update_message else "")
            + ".",
            todo="Somebody deployed meanwhile, or the swarm rolled back by itself.",
        )
    if service.update_state in ("paused", "rollback_started", "rollback_paused", "rollback_completed"):
        raise DeployFailed(
            f"The swarm stopped the update of {service.name} ({service.update_state}): {service.update_message}",
            todo=f"See why with: docker service ps --no-trunc {service.name}",
        )


def _must_not_crash(tasks: list[Task], image: str) -> None:
    crashed = [task for task in tasks if task.image == image and task.state in ("failed", "rejected")]
    crashed += [task for task in tasks if task.image == image and task.state == "complete" and task.desired != "remove"]
    if len(crashed) >= CRASHES:
        errors = {task.error or f"exit code {task.exit_code}" for task in crashed}
        # CapRover prunes what has just ended, and then the engine knows no better reason than that.
        why = sorted(error for error in errors if not error.startswith("No such container")) or [
            "its container is gone"
        ]
        raise DeployFailed(
            f"{image} does not stay up: {len(crashed)} tasks of it ended ({'; '.join(why)}).",
            # The engine reports an unhealthy container that it stopped as complete, with exit code 0 and no word more.
            todo=remedy(
                "; ".join(why),
                "See the app's log in CapRover's dashboard. If its health check fails, the swarm ends it just so.",
            ),
        )


def bring_back(hand: Hand, name: str, *, image: str, replicas: int, stamp: str, asked: bool) -> float:
    """Have the old version run again, with the replicas it had; since when it does (monotonic).

    Through CapRover if that knows of the new one (`asked`), so that its own record is right as well. `stamp`:
    CapRover's label before it was asked for the old one. NeedsPerson when the old version does not come up.
    """
    if asked or service_of(hand, name).image != image:
        try:
            ask_and_see_it_land(hand, name, image, "", stamp=stamp, asked=False)
        except DeployFailed as error:
            hand.log.warning(
                f"CapRover did not deploy {image} again ({error.what}) The service itself is set back instead. Until "
                "it is deployed there once more, Save & Update in CapRover would bring the other version."
            )
    change(hand, name, lambda spec: _with_image(_with_replicas(spec, replicas), image))
    try:
        return see_it_run(hand, name, image, zero_is_right=replicas == 0, probed=False)[1]
    except DeployFailed as error:
        raise NeedsPerson(
            f"The old version {image} does not come up again: {error.what}",
            state=f"{name} is set to {image} with {replicas} replicas, as before the deploy.",
            todo=error.todo,
        ) from error


def _with_image(spec: Spec, image: str) -> Spec:
    changed = copy.deepcopy(spec)
    changed["TaskTemplate"]["ContainerSpec"]["Image"] = image
    return changed
