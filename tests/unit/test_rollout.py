"""The acts on the app's service, where a whole deploy would show them only by chance."""

from __future__ import annotations

from typing import Any

import pytest

from capmig import rollout, running
from capmig.deploy import first_entry
from capmig.errors import DeployFailed, Superseded
from capmig.hand import Hand
from capmig.preflight import look
from tests.fakes.swarm import Run, fake_node
from tests.fakes.world import APP, NEW, OLD, World, inputs


def holding(world: World) -> Hand:
    """A run that holds the journal."""
    hand = world.hand()
    assert hand.journal.create(first_entry(hand, look(world.swarm, inputs())))
    return hand


def test_drain__stops_no_container_once_superseded() -> None:
    """A run that stands still right after the scale to 0 must not stop what its successor has started meanwhile."""
    world = World()
    hand = holding(world)
    froze: list[bool] = []

    def freeze(name: str, args: tuple[Any, ...]) -> None:
        if name == "update_service" and not froze:
            froze.append(True)
            world.clock.sleep(70.0)
            successor = world.hand()
            found = successor.journal.look()
            assert found is not None
            assert successor.journal.take_over(*found)
            rollout.scale(successor, APP, 2)
            world.clock.sleep(10.0)

    world.swarm.after_call = freeze
    with pytest.raises(Superseded):
        rollout.drain(hand, APP)
    assert world.running == [OLD, OLD]
    assert world.swarm.alive(APP) == 2


def test_see_it_run__passes_over_a_task_that_never_got_a_node() -> None:
    """An update that overtakes another leaves tasks that had no node yet as they were, for ever: they never run."""
    node = fake_node(labels={"disk": "ssd"})
    world = World(nodes=[node])
    hand = holding(world)

    def constrained(constraints: list[str]) -> None:
        spec = world.service.spec
        spec["TaskTemplate"]["Placement"] = {"Constraints": constraints}
        world.swarm.direct.update_service(world.service, spec)
        world.clock.sleep(1.0)

    constrained(["node.labels.disk==none"])
    constrained([])
    world.clock.sleep(20.0)
    stuck = [task for task in world.swarm.direct.tasks(world.service) if task.state == "pending"]
    assert stuck
    wanted, _ = running.see_it_run(hand, APP, OLD, zero_is_right=False, probed=False)
    assert wanted == 2


def test_see_it_run__has_a_task_too_many_ended() -> None:
    """Swarm may run two tasks in one slot for good after it replaced a failing version; it is made to look again."""
    world = World()
    hand = holding(world)
    before = world.service.spec
    world.swarm.start_twice(APP)
    world.clock.sleep(10.0)
    assert world.running == [OLD, OLD, OLD]
    assert running.see_it_run(hand, APP, OLD, zero_is_right=False, probed=False)[0] == 2
    assert world.running == [OLD, OLD]
    assert world.service.spec == before


def test_see_it_run__judges_by_when_it_looked() -> None:
    """A run that stands still between its look and its judgement takes what it saw for no newer than it was."""
    world = World()
    world.new_image(serves=Run(duration=12.0, exit_code=1))
    spec = world.service.spec
    spec["TaskTemplate"]["ContainerSpec"]["Image"] = NEW
    hand = holding(world)
    world.swarm.direct.update_service(world.service, spec)
    seen: list[float] = []

    def freeze(name: str, args: tuple[Any, ...]) -> None:
        if name == "tasks" and world.service.update_state == "completed":
            seen.append(world.clock.monotonic())
            if len(seen) == 2:
                world.clock.sleep(30.0)

    world.swarm.after_call = freeze
    with pytest.raises(DeployFailed):
        running.see_it_run(hand, APP, NEW, zero_is_right=False, probed=False)
