"""Jobs: what they are made of, and that one runs at most once and is gone when that is said."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from capmig import jobs
from capmig.deploy import first_entry
from capmig.errors import Conflict, DeployFailed, EngineRefused, Exists, FateUnknown, TimedOut
from capmig.hand import Hand
from capmig.ports import Credentials, Spec
from capmig.preflight import look
from tests.fakes.log import RecordingLog
from tests.fakes.swarm import Run, Silent, app_spec, fake_node
from tests.fakes.world import APP, NEW, OLD, World, inputs


def holding(world: World) -> Hand:
    """A run that holds the journal."""
    hand = world.hand()
    assert hand.journal.create(first_entry(hand, look(world.swarm, inputs())))
    return hand


def rich_spec() -> Spec:
    """An app with all that its migration needs too, and with what it must not get."""
    spec = app_spec(APP, OLD, env=["DATABASE_URL=postgres://db/web", "TZ=UTC"])
    spec["TaskTemplate"]["ContainerSpec"] |= {
        "Command": ["serve"],
        "Args": ["--port", "80"],
        "Mounts": [{"Type": "volume", "Source": "data", "Target": "/data"}],
        "Secrets": [{"SecretName": "key"}],
        "Configs": [{"ConfigName": "settings"}],
        "Healthcheck": {"Test": ["CMD", "true"]},
        "User": "app",
    }
    spec["TaskTemplate"] |= {
        "Placement": {"Constraints": ["node.id==n1"], "MaxReplicas": 1},
        "Resources": {"Limits": {"MemoryBytes": 2**28}},
        "RestartPolicy": {"Condition": "any"},
    }
    return spec


def migration(world: World, spec: Spec | None = None, **changes: Any) -> Spec:
    if spec is not None:
        world.swarm.direct.update_service(world.service, spec)
    given: dict[str, Any] = {"image": NEW, "command": ("--migrate",), "entrypoint": (), "env": {}}
    return jobs.migration_spec(world.service, app=APP, name="capmig-web-1-migration", **(given | changes))


def test_migration_spec__has_what_the_app_has() -> None:
    """Env, mounts, secrets, configs, user, networks, constraints and limits are the app's."""
    app = rich_spec()
    spec = migration(World(), app)
    container, template = spec["TaskTemplate"]["ContainerSpec"], spec["TaskTemplate"]
    for key in ("Env", "Mounts", "Secrets", "Configs", "User"):
        assert container[key] == app["TaskTemplate"]["ContainerSpec"][key]
    assert template["Resources"] == app["TaskTemplate"]["Resources"]
    assert template["Placement"] == {"Constraints": ["node.id==n1"]}
    assert [net["Target"] for net in template["Networks"]] == ["captain-overlay-network"]


def test_migration_spec__is_one_attempt_that_nobody_takes_for_the_app() -> None:
    """No alias of the app, no label of CapRover's, no health check, no second attempt, no update settings."""
    spec = migration(World(), rich_spec())
    container, template = spec["TaskTemplate"]["ContainerSpec"], spec["TaskTemplate"]
    assert all("Aliases" not in net for net in template["Networks"])
    assert "Labels" not in container
    assert container["Healthcheck"] == {"Test": ["NONE"]}
    assert template["RestartPolicy"]["Condition"] == "none"
    assert spec["Mode"] == {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 1}}
    assert "UpdateConfig" not in spec
    assert "EndpointSpec" not in spec
    assert spec["Labels"] == {"capmig.app": APP, "capmig.kind": "migration"}


@pytest.mark.parametrize(
    ("entrypoint", "expected"),
    [((), {"Args": ["--migrate"]}), (("sh", "-c"), {"Command": ["sh", "-c"], "Args": ["--migrate"]})],
)
def test_migration_spec__command_follows_the_entrypoint(entrypoint: tuple[str, ...], expected: Spec) -> None:
    """The command goes to the image's entrypoint, or to the one that is given; never to the app's own override."""
    container = migration(World(), rich_spec(), entrypoint=entrypoint)["TaskTemplate"]["ContainerSpec"]
    assert {key: container[key] for key in ("Command", "Args") if key in container} == expected


def test_migration_spec__leaves_the_service_as_it_was() -> None:
    """Nothing of the service's own spec is changed in place."""
    world = World()
    world.swarm.direct.update_service(world.service, rich_spec())
    service = world.service
    before = copy.deepcopy(service.spec)
    spec = jobs.migration_spec(
        service, app=APP, name="job", image=NEW, command=(), entrypoint=(), env={"DATABASE_URL": "other"}
    )
    spec["TaskTemplate"]["ContainerSpec"]["Mounts"].clear()
    assert service.spec == before


def test_with_env__replaces_and_adds() -> None:
    """A given variable takes the place of the app's; a value may hold anything; order is kept."""
    env = ["A=1", "B=x=y", "C"]
    assert jobs.with_env(env, {"A": "2", "D": "=;\n"}) == ["B=x=y", "C", "A=2", "D==;\n"]
    assert jobs.with_env(env, {}) == env


def test_start__runs_once_though_the_answer_is_lost() -> None:
    """A lost answer is resolved by looking."""
    world = World()
    hand = holding(world)
    lost = [FateUnknown("lost")]

    def lose(name: str, args: tuple[Any, ...]) -> None:
        if name == "create_service" and lost:
            raise lost.pop()

    world.swarm.after_call = lose
    jobs.start(hand, migration(world), None)
    world.clock.sleep(5.0)
    assert world.migrations == 1


def test_start__is_not_begun_again_when_somebody_removes_it() -> None:
    """Created, ended and removed before the slow answer came: it must not run a second time."""
    world = World()
    hand = holding(world)

    def remove(name: str, args: tuple[Any, ...]) -> None:
        if name == "create_service":
            world.clock.sleep(10.0)
            for job in world.swarm.direct.services("capmig.kind=migration"):
                world.swarm.direct.remove_service(job)

    world.swarm.after_call = remove
    with pytest.raises(DeployFailed, match="removed by somebody"):
        jobs.start(hand, migration(world), None)
    world.clock.sleep(30.0)
    assert world.migrations == 1


def begin_after(strike: Callable[[World, str], None]) -> World:
    """Prepare a migration and begin it; `strike` comes after each call, with its name."""
    world = World()
    hand = holding(world)
    world.swarm.after_call = lambda name, args: strike(world, name)
    job = jobs.prepare(hand, migration(world), None)
    world.clock.sleep(5.0)
    assert world.migrations == 0
    jobs.begin(hand, job)
    world.clock.sleep(5.0)
    return world


@pytest.mark.parametrize("act", ["create_service", "update_service"])
def test_begin__runs_once_though_the_answer_is_lost(act: str) -> None:
    """A lost answer is resolved by looking."""
    lost = [FateUnknown("lost")]

    def lose(world: World, name: str) -> None:
        if name == act and lost:
            raise lost.pop()

    assert begin_after(lose).migrations == 1
    assert not lost


@pytest.mark.parametrize("act", ["create_service", "update_service"])
def test_begin__never_runs_twice_though_somebody_removes_it(act: str) -> None:
    """The answer is lost, and the job ended and removed before it is looked for."""
    struck: list[World] = []

    def remove(world: World, name: str) -> None:
        if name == act and not struck:
            struck.append(world)
            world.clock.sleep(10.0)
            for job in world.swarm.direct.services("capmig.kind=migration"):
                world.swarm.direct.remove_service(job)
            raise FateUnknown("lost")

    if act == "create_service":
        begin_after(remove)  # nothing had run: another one may come
    else:
        with pytest.raises(DeployFailed, match="removed by somebody"):
            begin_after(remove)
    assert struck[0].migrations == 1


def test_begin__tries_again_when_the_swarm_has_changed_the_service() -> None:
    """Swarm itself gives a new service another version, when its networks are ready."""
    conflicts = [Conflict("update out of sequence")]

    def bump(name: str, args: tuple[Any, ...]) -> None:
        if name == "update_service" and conflicts:
            raise conflicts.pop()

    world = World()
    hand = holding(world)
    world.swarm.before_call = bump
    jobs.begin(hand, jobs.prepare(hand, migration(world), None))
    world.clock.sleep(5.0)
    assert world.migrations == 1


def test_start__finds_one_that_is_there() -> None:
    """Starting again is no error, and passes the credentials on only when it creates."""
    world = World()
    hand = holding(world)
    login = Credentials(username="u", password="p")
    first = jobs.start(hand, migration(world), login)
    assert jobs.start(hand, migration(world), login).id == first.id
    assert world.swarm.direct.created_with[1:] == [(first.name, login)]


@pytest.mark.parametrize("error", [EngineRefused("invalid mount", status=400)])
def test_start__passes_a_refusal_on(error: Exception) -> None:
    """The engine's own words reach the reader."""
    world = World()
    hand = holding(world)

    def refuse(name: str, args: tuple[Any, ...]) -> None:
        if name == "create_service":
            raise error

    world.swarm.before_call = refuse
    with pytest.raises(EngineRefused, match="invalid mount"):
        jobs.start(hand, migration(world), None)


@pytest.mark.parametrize("exit_code", [0, 3, 137])
def test_wait_for_end__tells_the_exit_code_and_shows_every_line(exit_code: int) -> None:
    """Lines come once each, also the last one before the end."""
    world = World()
    lines = [(0.1 * number, f"line {number}") for number in range(30)]
    world.new_image(migration=Run(duration=3.0, exit_code=exit_code, output=lines))
    hand = holding(world)
    job = jobs.start(hand, migration(world), None)
    ended = jobs.wait_for_end(hand, job, timeout=60.0, source="migration")
    assert ended.exit_code == exit_code
    assert isinstance(hand.log, RecordingLog)
    assert hand.log.of("output of migration") == [text for _, text in lines]


def test_wait_for_end__never_ran() -> None:
    """An image that no node can get has no exit code."""
    world = World()
    hand = holding(world)
    job = jobs.start(hand, migration(world, image="registry/web:99"), None)
    ended = jobs.wait_for_end(hand, job, timeout=60.0, source="migration")
    assert ended.exit_code is None
    assert ended.state == "rejected"
    assert "registry/web:99" in ended.error


def test_wait_for_end__says_what_it_saw_last() -> None:
    """A job without a place to run ends the wait with the swarm's reason."""
    world = World()
    spec = rich_spec()
    spec["TaskTemplate"]["Placement"] = {"Constraints": ["node.labels.disk==ssd"]}
    hand = holding(world)
    job = jobs.start(hand, migration(world, spec), None)
    with pytest.raises(TimedOut, match="pending: no suitable node"):
        jobs.wait_for_end(hand, job, timeout=20.0, source="migration")


def test_stop__returns_once_the_process_has_ended() -> None:
    """Not when the service is gone."""
    world = World()
    world.new_image(migration=Run(duration=None, stopping=5.0))
    hand = holding(world)
    job = jobs.start(hand, migration(world), None)
    world.clock.sleep(3.0)
    began = world.clock.monotonic()
    jobs.stop(hand, job.name)
    assert world.clock.monotonic() - began >= 5.0
    assert not world.swarm.alive(job.name)
    jobs.stop(hand, job.name)


def test_stop__looks_whether_what_was_answered_as_done_is_done() -> None:
    """A removal that took no effect is asked for again, also when the job has ended by itself."""
    world = World()
    hand = holding(world)
    job = jobs.start(hand, migration(world), None)
    jobs.wait_for_end(hand, job, timeout=60.0, source="migration")
    asked: list[str] = []

    def ignore_once(name: str, args: object) -> None:
        if name == "remove_service":
            asked.append(name)
            if len(asked) == 1:
                raise Silent

    world.swarm.before_call = ignore_once
    jobs.stop(hand, job.name)
    assert len(asked) == 2
    assert world.jobs == []


def test_stop__cannot_be_proven_on_a_lost_node() -> None:
    """A node that nobody can reach may still run the job: the wait ends without a claim."""
    world = World(nodes=[fake_node("node1"), fake_node("node2")])
    world.new_image(migration=Run(duration=None))
    hand = holding(world)
    job = jobs.start(hand, migration(world), None)
    world.clock.sleep(3.0)
    node_id = world.swarm.direct.tasks(job)[0].node_id
    world.swarm.set_node(fake_node(node_id, ready=False))
    world.swarm.direct.connected_node = "node2" if node_id == "node1" else "node1"
    with pytest.raises(TimedOut, match=r"not proven to have ended: task .* on node.-host \(which is down\) is running"):
        jobs.stop(hand, job.name)
    assert world.swarm.alive(job.name) == 1


def test_pull__reaches_every_node_and_leaves_nothing() -> None:
    """At least one task on each node, gone afterwards; that swarm starts them again and again changes nothing."""
    world = World(nodes=[fake_node(f"node{number}") for number in (1, 2, 3)])
    hand = holding(world)
    jobs.pull(hand, world.service, NEW, None, 60.0)
    assert isinstance(hand.log, RecordingLog)
    assert ("info", f"{NEW} is on 3 nodes.") in hand.log.entries
    assert world.jobs == []
    assert world.running == [OLD, OLD]


def test_pull__missing_image_is_told_in_the_engines_words() -> None:
    """It names the image and what to check."""
    world = World()
    hand = holding(world)
    with pytest.raises(DeployFailed, match=r"registry/web:99 cannot be pulled: No such image") as caught:
        jobs.pull(hand, world.service, "registry/web:99", None, 60.0)
    assert "registry-username" in caught.value.todo


def test_pull__missing_on_two_nodes_is_told_once() -> None:
    """That swarm tries again and again on each of them does not keep the reason back."""
    world = World(nodes=[fake_node("node1"), fake_node("node2")])
    hand = holding(world)
    with pytest.raises(DeployFailed, match=r"registry/web:99 cannot be pulled: No such image[^;]*$"):
        jobs.pull(hand, world.service, "registry/web:99", None, 60.0)


def test_pull__slow_one_names_the_node() -> None:
    """A pull that does not end in time says where."""
    world = World()
    world.swarm.images["registry/slow:1"] = Run(pull=500.0)
    hand = holding(world)
    with pytest.raises(DeployFailed, match=r"node1-host \(preparing\)"):
        jobs.pull(hand, world.service, "registry/slow:1", None, 60.0)


def test_pull__passes_over_a_node_that_is_down() -> None:
    """The app's image is needed where the app may run now."""
    world = World(nodes=[fake_node("node1"), fake_node("node2", ready=False)])
    hand = holding(world)
    jobs.pull(hand, world.service, NEW, None, 60.0)
    assert world.jobs == []


def test_sweep__removes_the_apps_jobs_and_no_others() -> None:
    """Another app's jobs are none of ours."""
    world = World()
    hand = holding(world)
    jobs.start(hand, migration(world), None)
    other = migration(world) | {"Name": "capmig-other-1-migration", "Labels": {"capmig.app": "other"}}
    world.swarm.direct.create_service(other)
    jobs.sweep(hand)
    assert world.jobs == ["capmig-other-1-migration"]
    with pytest.raises(Exists):
        world.swarm.direct.create_service(other)
