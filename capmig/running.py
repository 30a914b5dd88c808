"""What runs: prove that a version does and stays so, and have the old one run again."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from capmig.errors import Conflict, DeployFailed, FateUnknown, NeedsPerson, TimedOut, remedy
from capmig.hand import Hand
from capmig.ports import Service, Task
from capmig.rollout import ask_and_see_it_land, nodes_down, service_of, set_back

PRUNE = 8.0  # seconds after CapRover's update of a service until its prune of stopped containers is over
CRASHES = 3  # tasks of one version that ended by themselves: it crashes
CROWDED = 3.0  # seconds after which swarm will not notice by itself that it runs two tasks in one slot


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
    down = nodes_down(hand)
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
    set_back(hand, name, image, replicas)
    try:
        return see_it_run(hand, name, image, zero_is_right=replicas == 0, probed=False)[1]
    except DeployFailed as error:
        raise NeedsPerson(
            f"The old version {image} does not come up again: {error.what}",
            state=f"{name} is set to {image} with {replicas} replicas, as before the deploy.",
            todo=error.todo,
        ) from error
