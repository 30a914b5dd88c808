"""Whole deploys on the fakes: what the world looks like after each way in which one can end."""

from __future__ import annotations

import copy
from typing import Any, Literal

import pytest

from capmig.deploy import deploy
from capmig.entry import Phase
from capmig.errors import CapRoverRefused, LinkLost, NeedsPerson, TimedOut
from capmig.plan import Plan
from tests.fakes.log import RecordingLog
from tests.fakes.swarm import Run, fake_node
from tests.fakes.world import APP, NEW, OLD, World, inputs


def text_of(world: World, log: object) -> str:
    assert isinstance(log, RecordingLog)
    return log.text


def test_deploy__migrates_while_nothing_runs() -> None:
    """The new version runs with all replicas on a migrated schema, and nothing ran during the migration."""
    world = World()
    hand = world.hand()
    report = world.deploy(hand=hand)
    assert report.error is None
    assert report.ending.result == "deployed"
    assert world.running == [NEW, NEW]
    assert world.schema == 2
    assert world.migrations == 1
    assert world.journal is None
    assert world.jobs == []
    assert report.ending.downtime is not None
    assert 3.0 < report.ending.downtime < 12.0
    assert "migrating" in text_of(world, hand.log)


def test_deploy__without_a_migration_stops_nothing() -> None:
    """An ordinary deploy is a rolling one: at every moment a task runs."""
    world = World()
    report = world.deploy(inputs(migrates=False))
    assert report.ending.result == "deployed"
    assert report.ending.downtime is None
    assert world.running == [NEW, NEW]
    assert world.migrations == 0


def test_deploy__that_capmig_itself_breaks() -> None:
    """An error that nobody has foreseen ends like any other, and its lines of Python are told."""
    world = World()
    hand = world.hand()
    breaks = iter([True])

    def break_once(name: str, _: object) -> None:
        if name == "update_service" and next(breaks, False):
            raise ZeroDivisionError("of a mistake")

    world.swarm.after_call = break_once
    report = world.deploy(hand=hand)
    assert report.ending.result == "restored"
    assert world.running == [OLD, OLD]
    assert report.error is not None
    assert report.error.what == "capmig itself failed: ZeroDivisionError('of a mistake')"
    assert "report this" in report.error.todo
    assert "break_once" in text_of(world, hand.log)


def test_deploy__output_that_takes_many_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a job has printed when it has ended is read to its end, however little a look takes."""
    world = World()
    printed = [f"line {number}" for number in range(8)]
    output = tuple((0.1 + number / 100, text) for number, text in enumerate(printed))
    world.new_image(migration=Run(duration=0.2, output=output))
    all_of = world.swarm.logs
    monkeypatch.setattr(world.swarm, "logs", lambda service, since="": all_of(service, since)[:1])
    hand = world.hand()
    world.deploy(hand=hand)
    assert isinstance(hand.log, RecordingLog)
    assert hand.log.of("output of migration") == printed


@pytest.mark.parametrize("exit_code", [1, 137])
def test_deploy__failed_migration_brings_the_old_version_back(exit_code: int) -> None:
    """The old version runs again with its exact former spec; the report says what failed, and the schema is unknown."""
    world = World()
    world.new_image(migration=Run(duration=2.0, exit_code=exit_code, output=((1.0, "boom"),)))
    before = world.service.spec
    report = world.deploy()
    assert report.ending.result == "restored"
    assert report.failed_phase == Phase.MIGRATING
    assert report.ending.entry.exit_code == exit_code
    assert report.ending.entry.schema == "unknown"
    assert world.service.spec == before
    assert world.running == [OLD, OLD]
    assert world.journal is None
    assert world.jobs == []


def test_deploy__hanging_migration_is_stopped_and_proved_gone() -> None:
    """After migrate-timeout the job is removed, and only then does the old version start."""
    world = World()
    world.new_image(migration=Run(duration=None))
    report = world.deploy(inputs(timeout=20.0))
    assert report.ending.result == "restored"
    assert "did not end in time" in str(report.error)
    assert world.jobs == []
    assert world.running == [OLD, OLD]


def test_deploy__crashing_new_version_brings_the_old_one_back() -> None:
    """A version that ends by itself three times is given up, and CapRover deploys the old image again."""
    world = World()
    world.new_image(serves=Run(duration=1.0, exit_code=1))
    before = world.spec
    report = world.deploy()
    assert report.ending.result == "restored"
    assert report.failed_phase == Phase.VERIFYING
    assert report.ending.entry.schema == "migrated"
    assert world.spec == before
    assert world.running == [OLD, OLD]
    assert world.caprover.deployed_image == OLD


def test_deploy__unhealthy_new_version_brings_the_old_one_back() -> None:
    """Tasks that never become healthy are no success."""
    world = World()
    world.new_image(serves=Run(healthy=False))
    report = world.deploy()
    assert report.ending.result == "restored"
    assert world.running == [OLD, OLD]


def test_deploy__refused_by_caprover_brings_the_old_version_back() -> None:
    """CapRover declines everything: the service is set back by itself, and the reader is told."""
    world = World()
    before = world.spec
    world.caprover.refuse = CapRoverRefused("Auth token corrupted", status=1106)
    hand = world.hand()
    report = world.deploy(hand=hand)
    assert report.ending.result == "restored"
    assert "Auth token corrupted" in str(report.error)
    assert world.spec == before
    assert world.running == [OLD, OLD]
    assert "Save & Update" in text_of(world, hand.log)


def test_deploy__stay_down_leaves_the_app_stopped_with_a_journal() -> None:
    """on-failure: stay-down leaves a stopped app, whose journal says why; the next good deploy ends that."""
    world = World()
    world.new_image(migration=Run(duration=1.0, exit_code=3))
    report = world.deploy(inputs(on_failure="stay-down"))
    assert report.ending.result == "stayed-down"
    assert world.running == []
    assert world.service.replicas == 0
    left = world.journal
    assert left is not None
    assert left.phase is Phase.DOWN
    assert "exit code 3" in left.reason
    world.new_image()
    again = world.deploy(inputs(on_failure="stay-down"))
    assert again.ending.result == "deployed"
    assert world.running == [NEW, NEW]
    assert world.journal is None


def left_down(replicas: int) -> World:
    """An app that a failed migration left down, and that a person has given so many replicas since."""
    world = World()
    world.new_image(migration=Run(duration=1.0, exit_code=3))
    world.deploy(inputs(on_failure="stay-down"))
    spec = world.service.spec
    spec["Mode"]["Replicated"]["Replicas"] = replicas
    world.swarm.direct.update_service(world.service, spec)
    world.clock.sleep(30.0)
    return world


@pytest.mark.parametrize(("replicas", "result"), [(0, "stayed-down"), (1, "unchanged")])
def test_deploy__that_fails_early_tells_whether_an_app_that_was_left_down_is_up(replicas: int, result: str) -> None:
    """It may have been brought up by hand since."""
    world = left_down(replicas)
    report = world.deploy(inputs(image="registry/web:99"))
    assert world.running == [OLD] * replicas
    assert (report.ending.result, report.ending.entry.schema) == (result, "unknown")
    assert (world.journal is None) == bool(replicas)


@pytest.mark.parametrize(("replicas", "result"), [(0, "stayed-down"), (1, "unchanged")])
def test_deploy__that_cannot_look_leaves_an_app_that_was_left_down_as_it_is(replicas: int, result: str) -> None:
    """Who fails before having seen whether it was brought up by hand since does not stop it."""
    world = left_down(replicas)
    hand = world.hand()

    def look_in_vain() -> Plan:
        raise LinkLost("gone")

    report = deploy(hand, look_in_vain)
    assert world.running == [OLD] * replicas
    assert (report.ending.result, report.ending.entry.replicas) == (result, replicas or 2)
    assert (world.journal is None) == bool(replicas)


@pytest.mark.parametrize(("replicas", "former"), [(0, 2), (1, 1)])
def test_deploy__that_fails_after_another_left_the_app_down(replicas: int, former: int) -> None:
    """The app goes back to what it was before it was stopped; once somebody has brought it up by hand, to that."""
    world = left_down(replicas)
    report = world.deploy()
    assert (report.ending.result, report.ending.entry.schema) == ("restored", "unknown")
    assert world.running == [OLD] * former
    assert world.journal is None


def test_deploy__app_at_zero_goes_back_to_zero() -> None:
    """An app that was at 0 before a failed migration is at 0 after it."""
    world = World(replicas=0)
    world.new_image(migration=Run(duration=1.0, exit_code=1))
    report = world.deploy()
    assert report.ending.result == "restored"
    assert world.service.replicas == 0
    assert world.journal is None


def test_deploy__missing_image_stops_nothing() -> None:
    """An image that no node can pull is found out before anything stops."""
    world = World()
    report = world.deploy(inputs(image="registry/web:99"))
    assert report.ending.result == "unchanged"
    assert "registry/web:99" in str(report.error)
    assert world.running == [OLD, OLD]
    assert world.journal is None
    assert world.jobs == []


def test_deploy__swarm_is_gone_before_the_lock() -> None:
    """Who never held the lock says that nothing was touched."""
    world = World()

    def lost(name: str, args: tuple[Any, ...]) -> None:
        if name == "create_config":
            raise LinkLost("The swarm has no leader.")

    world.swarm.before_call = lost
    with pytest.raises(LinkLost) as error:
        world.deploy()
    assert "touched nothing" in error.value.state
    assert world.running == [OLD, OLD]


WORKER = fake_node("node2", manager=False)
WORKER_DOWN = fake_node("node2", manager=False, ready=False)


def test_deploy__node_that_is_down_stops_nothing() -> None:
    """A task on a node that is down cannot be proven stopped: that is found out while the app serves on."""
    world = World(nodes=[fake_node(), WORKER])
    world.swarm.set_node(WORKER_DOWN)
    report = world.deploy()
    assert report.ending.result == "unchanged"
    assert report.failed_phase == "preparing"
    assert "Node node2-host is down" in str(report.error)
    assert world.service.replicas == 2
    assert world.migrations == 0
    assert world.journal is None


def test_deploy__node_goes_down_while_the_app_stops() -> None:
    """The old version is back on the node that is left, although the other one's task keeps its state."""
    world = World(nodes=[fake_node(), WORKER])
    lost = world.swarm.direct.tasks(world.service)[1]
    assert lost.node_id == WORKER.id

    def down(name: str, args: tuple[Any, ...]) -> None:
        if name == "stop_containers" and world.service.replicas == 0:
            world.swarm.set_node(WORKER_DOWN)

    world.swarm.before_call = down
    hand = world.hand()
    report = world.deploy(hand=hand)
    assert report.ending.result == "restored"
    assert "docker node rm --force node2-host" in str(report.error)
    assert world.migrations == 0
    alive = [task for task in world.swarm.direct.tasks(world.service) if not task.ended]
    assert sorted((task.node_id, task.desired) for task in alive) == [
        ("node1", "running"),
        ("node1", "running"),
        ("node2", "remove"),
    ]
    assert world.journal is None


def lose_the_migrations_node(world: World, lasting: float) -> None:
    """Its node goes down as soon as the migration runs, for so many seconds."""

    down: list[str] = []

    def go_down(name: str, args: tuple[Any, ...]) -> None:
        if name == "tasks" and world.migrations and not down:
            down.append(name)
            (job,) = world.swarm.direct.services("capmig.kind=migration")
            (task,) = world.swarm.direct.tasks(job)
            world.swarm.set_node(fake_node(task.node_id, ready=False))
            world.swarm.direct.connected_node = "node2" if task.node_id == "node1" else "node1"
            world.clock.call_later(lasting, lambda: world.swarm.set_node(fake_node(task.node_id)))

    world.swarm.before_call = go_down


def test_deploy__migrations_node_goes_down_for_a_while() -> None:
    """A migration out of sight is waited for, and the log says why nothing is seen of it."""
    world = World(nodes=[fake_node(), WORKER])
    world.new_image(migration=Run(duration=30.0))
    lose_the_migrations_node(world, 20.0)
    hand = world.hand()
    report = world.deploy(hand=hand)
    assert report.ending.result == "deployed", report.error
    assert "where the migration runs, is down" in text_of(world, hand.log)


def test_deploy__migrations_node_goes_down_for_good() -> None:
    """Nothing is started beside a migration that may run on. Once its node is back it is stopped, and all goes on."""
    world = World(nodes=[fake_node(), WORKER])
    world.new_image(migration=Run(duration=None))
    lose_the_migrations_node(world, 1000.0)
    with pytest.raises(NeedsPerson) as error:
        world.deploy()
    assert error.value.what.count("not proven to have ended") == 1
    assert "(which is down)" in error.value.what
    assert "docker node rm --force" in error.value.todo
    assert world.running == []
    world.clock.sleep(1000.0)
    hand = world.hand()
    report = world.deploy(inputs(migrates=False), hand)
    assert report.ending.result == "deployed", report.error
    assert f"The unfinished deploy of {NEW} has ended: restored." in text_of(world, hand.log)
    assert world.migrations == 1


def test_deploy__swarm_that_doubles_jobs_stops_nothing() -> None:
    """A swarm that would run the migration twice at once is found out while the app serves on."""
    world = World(nodes=[fake_node(), fake_node("node2")])
    world.swarm.world.doubles_jobs = True
    report = world.deploy()
    assert report.ending.result == "unchanged"
    assert "twice at once" in str(report.error)
    assert world.migrations == 0
    assert world.service.replicas == 2
    assert world.jobs == []


def test_deploy__doubled_migration_is_stopped() -> None:
    """A swarm that begins to double jobs in mid-deploy: both migrations are proven gone before the app is back."""
    world = World(nodes=[fake_node(), fake_node("node2")])

    def begin(name: str, args: tuple[Any, ...]) -> None:
        world.swarm.world.doubles_jobs = world.service.replicas == 0

    world.swarm.before_call = begin
    report = world.deploy()
    assert report.ending.result == "restored"
    assert report.ending.entry.schema == "unknown"
    assert "twice at once" in str(report.error)
    assert world.running == [OLD, OLD]
    assert world.jobs == []


def test_deploy__without_a_migration_passes_over_a_node_that_is_down() -> None:
    """Where nothing has to be proven stopped, the tasks that swarm has replaced are in nobody's way."""
    world = World(nodes=[fake_node(), WORKER])
    world.swarm.set_node(WORKER_DOWN)
    report = world.deploy(inputs(migrates=False))
    assert report.ending.result == "deployed", report.error


@pytest.mark.parametrize("fate", ["none", "taken", "late"])
def test_deploy__lost_answer_of_caprover_is_resolved_by_looking(fate: Literal["none", "taken", "late"]) -> None:
    """Whether or not the request took effect, the new version runs in the end."""
    world = World()
    world.caprover.fate = fate
    report = world.deploy()
    assert report.ending.result == "deployed"
    assert world.running == [NEW, NEW]


def test_deploy__busy_caprover_is_asked_again() -> None:
    """429 and 5xx are no end."""
    world = World()
    world.caprover.busy = 5
    report = world.deploy()
    assert report.ending.result == "deployed"


def test_deploy__cancelled_before_the_migration_goes_back() -> None:
    """A signal during the drain brings the old version back without any migration."""
    world = World()
    heard: list[bool] = []
    world.swarm.after_call = lambda name, args: heard.append(True) if name == "stop_containers" else None
    report = world.deploy(hand=world.hand(cancelled=lambda: bool(heard)))
    assert report.ending.result == "restored"
    assert world.migrations == 0
    assert world.running == [OLD, OLD]


def test_deploy__cancelled_during_the_migration_goes_forward() -> None:
    """A signal while the migration runs lets it finish, and the new version is deployed."""
    world = World()
    report = world.deploy(hand=world.hand(cancelled=lambda: world.schema == "half"))
    assert report.ending.result == "deployed"
    assert world.schema == 2
    assert world.running == [NEW, NEW]


def test_deploy__link_lost_at_the_failure() -> None:
    """A link that is lost just when the migration has failed is no way out of the recovery: the same run goes on."""
    world = World()
    world.new_image(migration=Run(duration=3.0, exit_code=1))
    lost = [LinkLost("the link is down")] * 3

    def hook(name: str, args: tuple[object, ...]) -> None:
        if world.journal is not None and world.journal.exit_code == 1 and lost:
            raise lost.pop()

    hand = world.hand()
    world.swarm.before_call = hook
    report = world.deploy(hand=hand)
    assert not lost
    assert report.ending.result == "restored"
    assert report.error is not None
    assert "The migration failed" in report.error.what
    assert world.running == [OLD, OLD]


def test_deploy__save_and_update_during_the_migration_is_stopped() -> None:
    """Whoever starts the old version meanwhile is stopped within seconds, and the journal says that it was touched."""
    world = World()
    world.new_image(migration=Run(duration=20.0))
    world.clock.call_later(12.0, world.caprover.save_and_update)
    hand = world.hand()
    report = world.deploy(hand=hand)
    assert report.ending.result == "deployed"
    assert report.ending.entry.touched
    assert "started again by somebody" in text_of(world, hand.log)


def test_deploy__save_and_update_is_told_once() -> None:
    """While what was started stops at its own pace, nobody is said to have started it again."""
    world = World()
    world.swarm.images[OLD] = Run(stopping=9.0)
    world.new_image(migration=Run(duration=40.0))
    world.clock.call_later(16.0, world.caprover.save_and_update)
    hand = world.hand()
    assert world.deploy(hand=hand).ending.result == "deployed"
    assert isinstance(hand.log, RecordingLog)
    assert len([text for text in hand.log.of("warning") if "started again by somebody" in text]) == 1


def test_deploy__waits_for_a_live_one_and_fails_with_its_name() -> None:
    """A lock that another live run holds is waited for, then named."""
    world = World()
    first = world.hand()
    from capmig.deploy import first_entry
    from capmig.preflight import look

    assert first.journal.create(first_entry(first, look(world.swarm, inputs())))
    second = world.hand()
    second.watch.also.append(first.journal.renew)
    with pytest.raises(TimedOut, match="run 1"):
        world.deploy(hand=second)
    assert world.running == [OLD, OLD]


def test_deploy__service_gone_needs_a_person() -> None:
    """If the service vanishes in mid-deploy, the journal stays and a person is told."""
    world = World()
    world.new_image(migration=Run(duration=5.0, exit_code=0))
    world.clock.call_later(8.0, lambda: world.swarm.direct.remove_service(world.service))
    with pytest.raises(NeedsPerson, match=APP):
        world.deploy()


def test_deploy__a_migration_that_cannot_start_leaves_the_schema_as_it_was() -> None:
    """Half-done stays half-done: the next migration's failure to start does not make the database unchanged."""
    world = World()
    world.new_image(migration=Run(duration=1.0, exit_code=3))
    world.deploy(inputs(on_failure="stay-down"))
    world.new_image()
    removed = world.swarm.images.pop

    def lose_the_image(name: str, args: tuple[object, ...]) -> None:
        if name == "stop_containers":
            removed(NEW, None)

    world.swarm.after_call = lose_the_image
    report = world.deploy(inputs(on_failure="stay-down"))
    assert report.ending.result == "stayed-down"
    assert report.ending.entry.schema == "unknown"


def test_deploy__left_down_twice_stays_known_to_be_down() -> None:
    """Brought up by hand after it was left down, left down again by a plain deploy: the next one still knows that."""
    world = World()
    world.new_image(migration=Run(duration=1.0, exit_code=1), serves=Run(duration=1.0, exit_code=1))
    assert world.deploy(inputs(on_failure="stay-down")).ending.result == "stayed-down"
    spec = copy.deepcopy(world.service.spec)
    spec["Mode"]["Replicated"]["Replicas"] = 2
    world.swarm.direct.update_service(world.service, spec)
    world.clock.sleep(30.0)
    assert world.deploy(inputs(migrates=False, on_failure="stay-down")).ending.result == "stayed-down"
    assert world.service.replicas == 0
    assert world.deploy(inputs(image="registry/web:none")).ending.result == "stayed-down"
    assert world.journal is not None
