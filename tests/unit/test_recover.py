"""Recovery: from whatever phase a deploy was left in, its end is safe and its report is true."""

from __future__ import annotations

from typing import Any

import pytest

from capmig.by_hand import recover_now
from capmig.endings import Ended
from capmig.entry import Phase
from capmig.errors import Conflict, EngineRefused, FateUnknown, LinkLost
from capmig.inputs import Inputs
from capmig.ports import ONE_TASK, Service
from tests.fakes.swarm import Run
from tests.fakes.world import APP, NEW, OLD, World, inputs


def leave_in(world: World, phase: Phase, asked: Inputs | None = None) -> None:
    """A deploy whose process dies at its fourth call in this phase; in `migrating`, of those once it may have begun."""
    seen: list[str] = []

    def when(name: str) -> bool:
        if world.in_phase(phase) and (begun(world) or phase is not Phase.MIGRATING):
            seen.append(name)
        return len(seen) == 4

    with world.dying(when):
        world.deploy(asked)


def begun(world: World) -> bool:
    """Whether the journal has the migration's job, so that it may have begun."""
    return world.journal is not None and world.journal.job != ""


def overlap(world: World) -> list[float]:
    """Now, if the app and a job of it run at once."""
    jobs = any(task.alive for task in world.swarm.world.tasks if task.service_name != APP)
    return [world.clock.monotonic()] if jobs and world.swarm.alive(APP) else []


def recovered(world: World, *, raise_up: bool = True) -> Ended:
    return recover_now(world.hand(), raise_up=raise_up)


@pytest.mark.parametrize(
    ("phase", "result", "image"),
    [
        (Phase.PREPARING, "failed", OLD),
        (Phase.DRAINING, "restored", OLD),
        (Phase.MIGRATING, "deployed", NEW),
        (Phase.MIGRATED, "deployed", NEW),
        (Phase.DEPLOYING, "deployed", NEW),
        (Phase.VERIFYING, "deployed", NEW),
    ],
)
def test_recover__from_each_phase(phase: Phase, result: str, image: str) -> None:
    """Before the migration the way is back, from its begin on it is forward; the migration runs once at most."""
    world = World()
    leave_in(world, phase)
    ended = recovered(world)
    assert ended.outcome.result == result
    assert world.running == [image, image]
    assert world.journal is None
    assert world.jobs == []
    assert world.migrations == (image == NEW)


@pytest.mark.parametrize("phase", [Phase.RETURNING, Phase.DRAINING])
def test_recover__goes_on_with_the_way_back(phase: Phase) -> None:
    """Whoever dies on the way back, or before the migration, leaves the spec as it was for the next to restore."""
    world = World()
    world.new_image(migration=Run(duration=1.0, exit_code=1))
    before = world.service.spec
    leave_in(world, phase)
    assert recovered(world).outcome.result == "restored"
    assert world.service.spec == before
    assert world.running == [OLD, OLD]


def test_recover__stays_down_until_it_is_raised() -> None:
    """An app that stay-down left stopped is brought back only when a person asks for that."""
    world = World()
    world.new_image(migration=Run(duration=1.0, exit_code=1))
    leave_in(world, Phase.DOWN, inputs(on_failure="stay-down"))
    ended = recovered(world, raise_up=False)
    assert ended.exit_code == 3
    assert world.running == []
    assert world.journal is not None
    assert recovered(world).outcome.result == "restored"
    assert world.running == [OLD, OLD]
    assert world.journal is None


def test_recover__adopts_a_running_migration() -> None:
    """A migration whose runner died is seen to its end and not begun again."""
    world = World()
    world.new_image(migration=Run(duration=90.0))
    with world.dying(lambda name: world.migrations == 1):
        world.deploy(inputs(timeout=300.0))
    assert recovered(world).outcome.schema_state == "migrated"
    assert world.migrations == 1
    assert world.running == [NEW, NEW]


def test_recover__a_removed_job_is_not_gone_while_its_process_runs() -> None:
    """Somebody removes the migration's job, which takes a while to stop: no version starts before it has."""
    world = World()
    world.new_image(migration=Run(duration=None, stopping=9.0))
    overlaps: list[float] = []

    def look_on(name: str, args: tuple[Any, ...]) -> None:
        overlaps.extend(overlap(world))

    def remove() -> None:
        for job in world.swarm.direct.services("capmig.kind=migration"):
            world.swarm.direct.remove_service(job)

    world.swarm.before_call = look_on
    world.clock.call_later(19.0, remove)
    report = world.deploy(inputs(timeout=20.0))
    assert report.ending.result == "restored"
    assert overlaps == []


def test_recover__a_lost_link_right_after_the_removal_proves_nothing() -> None:
    """The job's service is removed and the link drops: on the next try there is no service, and still a process."""
    world = World()
    world.new_image(migration=Run(duration=None, stopping=9.0))
    overlaps: list[float] = []
    lost: list[str] = []

    def look_on(name: str, args: tuple[Any, ...]) -> None:
        overlaps.extend(overlap(world))
        removed = world.migrations and not world.swarm.direct.services("capmig.kind=migration")
        if name == "tasks" and removed and not lost:
            lost.append(name)
            raise LinkLost("down")

    world.swarm.before_call = look_on
    report = world.deploy(inputs(timeout=20.0))
    assert lost
    assert report.ending.result == "restored"
    assert overlaps == []


def test_recover__never_calls_a_schema_unchanged_that_it_cannot_know() -> None:
    """The run dies as soon as its job has begun, and a person removes the job: nobody knows how far it came."""
    world = World()
    world.new_image(migration=Run(duration=None))
    with world.dying(lambda name: name == "update_service" and begun(world)):
        world.deploy()
    world.clock.sleep(3.0)
    assert world.migrations == 1
    for job in world.swarm.direct.services("capmig.kind=migration"):
        world.swarm.direct.remove_service(job)
    assert recovered(world).outcome.schema_state == "unknown"


def test_recover__a_job_that_is_only_prepared_has_changed_nothing() -> None:
    """The run dies as soon as its job is created: the old version comes back, on a schema known to be unchanged."""
    world = World()
    with world.dying(lambda name: name == "create_service" and len(world.swarm.direct.created_with) == 3):
        world.deploy()
    assert len(world.jobs) == 1
    ended = recovered(world)
    assert ended.outcome.result == "restored"
    assert ended.outcome.schema_state == "unchanged"
    assert world.migrations == 0
    assert world.jobs == []
    assert world.running == [OLD, OLD]


def about_to_begin() -> tuple[World, Service]:
    """A deploy whose process dies once the journal has the migration's job, and that job."""
    world = World()
    with world.dying(lambda name: name == "update_config" and begun(world)):
        world.deploy(inputs(timeout=300.0))
    (job,) = world.swarm.direct.services("capmig.kind=migration")
    return world, job


def test_recover__keeps_a_job_from_beginning_that_was_about_to() -> None:
    """The run dies once the journal has the job, and what it had sent off to begin it comes late, or never."""
    world, job = about_to_begin()
    refused: list[Conflict] = []

    def come_late(name: str, args: tuple[Any, ...]) -> None:
        if name == "update_service" and args[0].id == job.id:
            with pytest.raises(Conflict) as late:
                world.swarm.direct.update_service(job, {**job.spec, "Mode": ONE_TASK})
            refused.append(late.value)

    world.swarm.after_call = come_late
    ended = recovered(world)
    assert refused
    assert ended.outcome.result == "restored"
    assert ended.outcome.schema_state == "unchanged"
    assert world.migrations == 0
    assert world.jobs == []
    assert world.running == [OLD, OLD]


def test_recover__adopts_a_job_that_begins_just_now() -> None:
    """The dead run's last request to begin it arrives just before it would be too late."""
    world, job = about_to_begin()
    came: list[str] = []

    def come(name: str, args: tuple[Any, ...]) -> None:
        if name == "update_service" and args[0].id == job.id and not came:
            came.append(name)
            world.swarm.direct.update_service(job, {**job.spec, "Mode": ONE_TASK})

    world.swarm.before_call = come
    assert recovered(world).outcome.result == "deployed"
    assert world.migrations == 1
    assert world.running == [NEW, NEW]


def test_recover__a_job_that_comes_late_never_begins() -> None:
    """The creation's answer got lost, the look for it failed too, and then the swarm creates the job after all."""
    world = World()
    struck: list[str] = []

    def strike(name: str, args: tuple[Any, ...]) -> None:
        if name == "create_service" and args[0]["Labels"]["capmig.kind"] == "migration":
            struck.append(name)
            world.clock.call_later(5.0, lambda: world.swarm.direct.create_service(args[0]))
            raise FateUnknown("lost")
        if struck == ["create_service"]:
            struck.append(name)
            raise EngineRefused("no quorum")

    world.swarm.before_call = strike
    report = world.deploy()
    assert report.ending.result == "restored"
    assert report.ending.entry.schema == "unchanged"
    world.swarm.before_call = lambda name, args: None
    world.clock.sleep(60.0)
    assert world.migrations == 0
    assert world.running == [OLD, OLD]
    assert world.deploy().ending.result == "deployed"
    assert world.jobs == []


def test_recover__whoever_adopts_a_migration_looks_at_the_app_first() -> None:
    """While nobody watched, somebody started the app beside the migration: it is stopped before anything else."""
    world = World()
    world.new_image(migration=Run(duration=None, stopping=9.0))
    with world.dying(lambda name: world.migrations == 1):
        world.deploy(inputs(timeout=20.0))
    world.caprover.save_and_update()
    world.clock.sleep(90.0)
    order: list[str] = []
    world.swarm.before_call = lambda name, args: order.append(name)
    recovered(world)
    assert order.index("stop_containers") < order.index("remove_service")
    assert order.index("update_service") < order.index("remove_service")
