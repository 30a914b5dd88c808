"""Deploys with a backup, on the fakes: what is restored, when, and when not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from capmig.backup import by_hand as by_hand_acts
from capmig.backup import connection, subject, tool
from capmig.backup.inputs import Backup, Engine
from capmig.deploy import Report, carry_out
from capmig.entry import Phase
from capmig.errors import CapRoverRefused, EngineRefused, LinkLost, NeedsPerson, Refused
from capmig.hand import Hand
from capmig.inputs import Inputs
from capmig.jobs import KIND_LABEL
from capmig.plan import Plan
from capmig.ports import Credentials
from capmig.preflight import look
from capmig.recover import Ending
from tests.fakes.database import CLIENT, SERVER, URL, Database
from tests.fakes.log import RecordingLog
from tests.fakes.swarm import Run, Silent, fake_node
from tests.fakes.world import APP, NEW, OLD, inputs

ID = "web/20260102T030405Z-web-1.dump"
# The states of tasks that were never asked to stop.
STARTING = {"pending", "assigned", "preparing", "ready", "starting", "running"}


def asked(*, restore: bool = True, on_failure: str = "restore", source: str = "", image: str = "") -> Inputs:
    backup = Backup(engine=Engine.AUTO, source=source, image=image, timeout=60.0, keep=5, restore=restore)
    return inputs(backup=backup, on_failure=on_failure)


def of_env(world: Database, line: str, *, image: str) -> tool.Tool:
    """The tool for an app whose environment is this line."""
    spec = world.service.spec
    spec["TaskTemplate"]["ContainerSpec"]["Env"] = [line]
    world.swarm.direct.update_service(world.service, spec)
    return tool.Tool(subject=subject.subject_of(world.service, engine="auto"), image=image, node="node1")


def failing(world: Database, exit_code: int = 1) -> None:
    """The migration breaks something, and fails."""
    world.new_image(migration=Run(duration=3.0, exit_code=exit_code))


def test_backup__is_made_while_nothing_runs() -> None:
    """Checked before the stop, made after it; a good deploy restores nothing and removes old ones."""
    world = Database()
    report = world.deploy(asked())
    assert report.error is None
    assert world.did == ["check", "dump", "prune"]
    assert world.saved == 1
    assert world.schema == 2
    entry = report.ending.entry
    assert (entry.backup_bytes, entry.backup_seconds, entry.restored) == (1500000, 3.0, False)
    assert entry.backup_id.startswith("web/20")
    assert entry.backup_id.endswith("-web-1.dump")
    assert world.jobs == []


def test_backup__check_whose_output_was_pruned() -> None:
    """A check that failed without a word is made once more, so that the reason can be told."""
    world = Database()
    runs = [Run(duration=0.5, exit_code=1), Run(duration=0.5, exit_code=1, output=((0.1, "capmig: error=no rights"),))]
    world.swarm.images[CLIENT] = lambda spec: runs.pop(0)
    report = world.deploy(asked())
    assert report.error is not None
    assert "no rights" in report.error.what
    assert world.service.replicas == 2
    assert world.jobs == []


def test_backup__is_restored_after_a_failed_migration() -> None:
    """The old version runs on the database as it was, though on-failure would have let it stay down."""
    world = Database()
    failing(world)
    before = world.service.spec
    report = world.deploy(asked(on_failure="stay-down"))
    assert report.ending.result == "restored"
    assert report.ending.entry.schema == "restored"
    assert report.ending.entry.restored
    assert world.did == ["check", "dump", "restore"]
    assert world.schema == 1
    assert world.service.spec == before
    assert world.running == [OLD, OLD]
    assert world.jobs == []
    assert world.journal is None


def test_backup__is_restored_after_a_cancel() -> None:
    """A cancelled migration that can be taken back is stopped at once, whoever it is that sees that through."""
    world = Database()
    world.new_image(migration=Run(duration=50.0))
    hand = world.hand(cancelled=lambda: world.schema == "half")
    report = world.deploy(asked(), hand=hand)
    assert (report.ending.result, report.ending.entry.schema) == ("restored", "restored")
    assert report.error is not None
    assert report.error.what == "The run was cancelled."
    assert world.schema == 1
    assert world.running == [OLD, OLD]
    assert report.ending.downtime is not None
    assert report.ending.downtime < 30.0
    assert world.journal is None


def test_backup__cancelled_without_restore_goes_forward() -> None:
    """A migration that would not be taken back is not left half done: it ends, and the new version runs."""
    world = Database()
    world.new_image(migration=Run(duration=50.0))
    report = world.deploy(asked(restore=False), hand=world.hand(cancelled=lambda: world.schema == "half"))
    assert report.ending.result == "deployed"
    assert world.schema == 2


def test_backup__is_restored_when_caprover_declines() -> None:
    """Past the migration, but before anything of the new version ran, going back is whole."""
    world = Database()
    world.caprover.refuse = CapRoverRefused("Auth token corrupted", status=1106)
    report = world.deploy(asked())
    assert report.ending.entry.restored
    assert world.schema == 1
    assert world.running == [OLD, OLD]


def test_backup__is_not_restored_while_caprover_may_yet_deploy() -> None:
    """A deploy that waits in CapRover's queue would start the new version in the middle of a restore."""
    world = Database()
    world.caprover.other_builds(1000.0)
    report = world.deploy(asked())
    assert report.ending.result == "restored"
    assert not report.ending.entry.restored
    assert "restore" not in world.did


def test_backup__is_not_restored_once_the_new_version_ran() -> None:
    """A new version that crashes may have written: its data stay."""
    world = Database()
    world.new_image(serves=Run(duration=1.0, exit_code=1))
    report = world.deploy(asked())
    assert report.failed_phase == Phase.VERIFYING
    assert not report.ending.entry.restored
    assert world.schema == 2
    assert world.running == [OLD, OLD]


@pytest.mark.parametrize("quietly", [False, True])
def test_backup__is_not_restored_once_somebody_started_the_app(quietly: bool) -> None:
    """An instance that ran after the backup may have written, even if nobody saw it."""
    world = Database()
    world.new_image(migration=Run(duration=20.0, exit_code=1))

    def start() -> None:
        world.caprover.save_and_update()

    def start_and_stop() -> None:
        for replicas in (2, 0):
            spec = world.service.spec
            spec["Mode"]["Replicated"]["Replicas"] = replicas
            world.swarm.direct.update_service(world.service, spec)

    world.clock.call_later(25.0, start_and_stop if quietly else start)
    hand = world.hand()
    report = world.deploy(asked(), hand)
    assert world.did == ["check", "dump"]
    assert not report.ending.entry.restored
    assert report.ending.entry.schema == "unknown"


def test_backup__is_not_restored_if_not_asked_for() -> None:
    """restore-on-failure: false leaves it to on-failure."""
    world = Database()
    failing(world)
    report = world.deploy(asked(restore=False, on_failure="stay-down"))
    assert report.ending.result == "stayed-down"
    assert world.did == ["check", "dump"]


def test_backup__that_cannot_work_stops_nothing() -> None:
    """What the check finds is told before the stop, in its own words."""
    world = Database()
    world.jobs_do["check"] = Run(duration=1.0, exit_code=1, output=((0.5, "capmig: error=the client is too old"),))
    report = world.deploy(asked())
    assert report.ending.result == "unchanged"
    assert "the client is too old" in str(report.error)
    assert world.running == [OLD, OLD]
    assert world.migrations == 0


@pytest.mark.parametrize("run", [Run(duration=1.0, exit_code=1), Run(duration=None)])
def test_backup__that_fails_brings_the_old_version_back(run: Run) -> None:
    """Without a backup there is no migration; one that hangs is stopped."""
    world = Database()
    world.jobs_do["dump"] = run
    report = world.deploy(asked())
    assert report.ending.result == "restored"
    assert report.failed_phase == Phase.BACKING_UP
    assert report.ending.entry.schema == "unchanged"
    assert world.migrations == 0
    assert world.running == [OLD, OLD]
    assert world.jobs == []


def test_restore__that_fails_needs_a_person_and_is_tried_again_by_the_next() -> None:
    """After three attempts the app stays down, and the message says where the backup is; recover then restores."""
    world = Database()
    failing(world)
    world.jobs_do["restore"] = Run(duration=1.0, exit_code=1, output=((0.5, "capmig: error=disk full"),))
    with pytest.raises(NeedsPerson, match="disk full") as caught:
        world.deploy(asked())
    assert "web/20" in caught.value.state
    assert world.did.count("restore") == 3
    assert world.running == []
    left = world.journal
    assert left is not None
    assert left.phase is Phase.RESTORING
    del world.jobs_do["restore"]
    ending = world.recovered()
    assert ending.restored
    assert world.schema == 1
    assert world.running == [OLD, OLD]


@pytest.mark.parametrize("problem", [Silent(), EngineRefused("injected error", status=500)])
def test_restore__whose_job_does_not_come_takes_another(problem: Exception) -> None:
    """What was answered as done and is not, or was refused once, needs no person."""
    world = Database()
    failing(world)
    problems = [problem]

    def spoil(name: str, seen: tuple[Any, ...]) -> None:
        if name == "create_service" and "-restore-" in seen[0]["Name"] and problems:
            raise problems.pop()

    world.swarm.before_call = spoil
    report = world.deploy(asked())
    assert report.ending.result == "restored"
    assert report.ending.entry.restored
    assert world.did == ["check", "dump", "restore"]
    assert world.schema == 1
    assert not problems


def test_returning__whose_scale_is_only_answered_as_done() -> None:
    """The old version is started all the same, and no person is asked."""
    world = Database()
    failing(world)
    problems = [Silent()]

    def spoil(name: str, seen: tuple[Any, ...]) -> None:
        if name == "update_service" and seen[1]["Mode"].get("Replicated") == {"Replicas": 2} and problems:
            raise problems.pop()

    world.swarm.before_call = spoil
    report = world.deploy(asked())
    assert report.ending.result == "restored"
    assert world.running == [OLD, OLD]
    assert not problems


@pytest.mark.parametrize("action", ["dump", "restore"])
def test_backup__job_that_somebody_stops_did_not_succeed(action: str) -> None:
    """A program that is stopped in the middle may exit with 0: no migration without a whole backup, no half restore."""
    world = Database()
    failing(world)
    world.jobs_do[action] = Run(duration=5.0)

    def stop() -> None:
        for job in world.swarm.direct.services(f"{KIND_LABEL}=backup-{action}"):
            world.swarm.direct.remove_service(job)

    def strike(name: str, args: object) -> None:
        if world.did and world.did[-1] == action and action in world.jobs_do:
            del world.jobs_do[action]
            stop()

    world.swarm.before_call = strike
    report = world.deploy(asked())
    assert report.ending.result == "restored"
    assert world.migrations == (action == "restore")
    assert world.schema == 1
    assert world.did.count("restore") == (2 if action == "restore" else 0)


def test_restore__does_not_begin_once_somebody_started_the_app() -> None:
    """After it was decided to restore, and before the restore began, the app ran: what it wrote stays."""
    world = Database()
    failing(world)
    with world.dying(lambda name: world.in_phase(Phase.RESTORING)):
        world.deploy(asked())
    world.caprover.save_and_update()
    entry = world.recovered()
    assert "restore" not in world.did
    assert not entry.restored
    assert entry.schema == "unknown"
    assert world.running == [OLD, OLD]
    assert world.journal is None


def test_restore__that_was_written_down_and_not_begun() -> None:
    """Its runner died between the two. What the app has written since, by somebody's hand, stays."""
    world = Database()
    failing(world)
    with world.dying(lambda name: bool(world.journal and world.journal.job.endswith("-restore-0"))):
        world.deploy(asked())
    world.caprover.save_and_update()
    world.clock.sleep(30.0)
    entry = world.recovered()
    assert "restore" not in world.did
    assert (entry.restored, entry.schema) == (False, "unknown")
    assert world.running == [OLD, OLD]


def test_restore__does_not_begin_once_somebody_started_the_app_meanwhile() -> None:
    """Also not when that was in the time that it took to write the journal, last of all."""
    world = Database()
    failing(world)

    def start_the_app(name: str, args: object) -> None:
        entry = world.journal
        if name == "update_config" and entry is not None and entry.job.endswith("-restore-0"):
            world.swarm.after_call = lambda name, args: None
            world.caprover.save_and_update()
            world.clock.sleep(10.0)

    world.swarm.after_call = start_the_app
    report = world.deploy(asked())
    assert "restore" not in world.did
    assert (report.ending.result, report.ending.entry.schema) == ("restored", "unknown")
    assert world.running == [OLD, OLD]
    assert world.journal is None


@pytest.mark.parametrize("phase", [Phase.BACKING_UP, Phase.MIGRATING, Phase.RESTORING])
def test_recover__in_another_process(phase: Phase) -> None:
    """A run that dies while it backs up, migrates or restores is brought to its end by the next one."""
    world = Database()
    failing(world)
    with world.dying(lambda name: name == "logs" and world.in_phase(phase)):
        world.deploy(asked())
    entry = world.recovered()
    assert entry.restored is (phase is not Phase.BACKING_UP)
    assert world.schema == 1
    assert world.running == [OLD, OLD]
    assert world.jobs == []


def test_recover__when_the_app_names_another_database_now() -> None:
    """A backup is restored only to the database that it was made of."""
    world = Database()
    failing(world)
    with world.dying(lambda name: world.in_phase(Phase.RESTORING)):
        world.deploy(asked())
    spec = world.service.spec
    spec["TaskTemplate"]["ContainerSpec"]["Env"] = ["DATABASE_URL=postgres://web:hush-hush@srv-captain--db/other"]
    world.swarm.direct.update_service(world.service, spec)
    with pytest.raises(NeedsPerson, match="named another database"):
        world.recovered()
    assert "restore" not in world.did


def test_backup__shows_its_password_nowhere() -> None:
    """The password is in the job's environment, and neither in the journal nor in the log."""
    world = Database()
    failing(world)
    seen: list[str] = []

    def look(name: str, args: tuple[object, ...]) -> None:
        if name in ("create_config", "update_config"):
            seen.append(str(args))

    world.swarm.before_call = look
    hand = world.hand()
    world.deploy(asked(), hand)
    assert isinstance(hand.log, RecordingLog)
    assert "hush-hush" not in hand.log.text
    assert seen
    assert "hush-hush" not in str(seen)


def test_backup__without_a_server_in_the_swarm_needs_an_image() -> None:
    """A database elsewhere: the input that decides is named; with it, that image is the client's."""
    world = Database()
    spec = world.service.spec
    spec["TaskTemplate"]["ContainerSpec"]["Env"] = ["DATABASE_URL=postgres://web:hush-hush@db.example.com/web"]
    world.swarm.direct.update_service(world.service, spec)
    with pytest.raises(Refused, match=r"backup-image: is required: .* such as postgres:16"):
        world.deploy(asked())
    world.deploy(asked(image=SERVER))
    assert world.did == ["check", "dump", "prune"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "%2Frun"])
def test_backup__of_a_database_within_the_app(host: str) -> None:
    """What only the app's own container reaches cannot be backed up by another."""
    found = connection.find([f"U=postgres://u@{host}/d"], engine="auto")
    with pytest.raises(Refused, match="within the app's own container"):
        subject.check_reachable(found.source, found.connection)


def test_backup__of_sqlite() -> None:
    """A file in a volume of the app: the job has the app's mounts, and runs on their node, from the app's image."""
    world = Database()
    spec = world.service.spec
    template = spec["TaskTemplate"]
    template["ContainerSpec"]["Env"] = ["U=sqlite:////data/app.db"]
    template["ContainerSpec"]["Mounts"] = [{"Type": "volume", "Source": "captain--data", "Target": "/data"}]
    template["Placement"]["Constraints"] = ["node.id==node1"]
    world.swarm.direct.update_service(world.service, spec)
    own = look(world.swarm, asked()).tool
    assert own is not None
    assert own.image == world.service.image
    made = look(world.swarm, asked(image="tools:1")).tool
    assert made is not None
    assert made.node == "node1"
    job = tool.job_spec(world.service, made, app=APP, name="job", action="dump")["TaskTemplate"]["ContainerSpec"]
    assert [mount["Target"] for mount in job["Mounts"]] == ["/backups", "/data"]
    assert "CAPMIG_DATABASE=/data/app.db" in job["Env"]


@pytest.mark.parametrize("path", ["/data2/app.db", "app.db"])
def test_backup__of_sqlite_outside_the_volumes(path: str) -> None:
    """A file within the app's own container is gone with it."""
    world = Database()
    spec = world.service.spec
    spec["TaskTemplate"]["ContainerSpec"]["Env"] = [f"U=sqlite:///{path}"]
    spec["TaskTemplate"]["ContainerSpec"]["Mounts"] = [{"Type": "volume", "Source": "data", "Target": "/data"}]
    world.swarm.direct.update_service(world.service, spec)
    with pytest.raises(Refused, match="in none of the app's volumes"):
        look(world.swarm, asked(image="tools:1"))


def test_node_of__several() -> None:
    """Where the app may be on any of several nodes, nobody knows whose volume is the right one."""
    world = Database()
    with pytest.raises(Refused, match="may run on several nodes"):
        subject.node_of(world.service, [fake_node("a"), fake_node("b")])


def test_job_spec__has_secrets_in_its_environment_only() -> None:
    """The login is in env, and the job is on its node, on the app's networks without the app's names."""
    world = Database()
    made = of_env(world, f"{URL}?sslmode=require", image=SERVER)
    spec = tool.job_spec(world.service, made, app=APP, name="job", action="dump", backup="web/x.dump")
    template = spec["TaskTemplate"]
    env = template["ContainerSpec"].pop("Env")
    assert {"PGPASSWORD=hush-hush", "PGSSLMODE=require", "PGHOST=srv-captain--db", "PGPORT=5432"} <= set(env)
    assert "hush-hush" not in str(spec)
    assert template["Placement"] == {"Constraints": ["node.id==node1"]}
    assert template["Networks"] == [{"Target": "captain-overlay-network"}]


@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_job_spec__of_mysql(engine: str) -> None:
    """The same for MySQL and MariaDB, whose backups are packed SQL."""
    world = Database()
    made = of_env(world, f"U={engine}://web:hush-hush@db/web?ssl-mode=REQUIRED", image="mariadb:11")
    container = tool.job_spec(world.service, made, app=APP, name="job", action="check")["TaskTemplate"]["ContainerSpec"]
    env = container.pop("Env")
    assert {"MYSQL_PWD=hush-hush", "CAPMIG_HOST=db", "CAPMIG_PORT=3306", "CAPMIG_SSLMODE=require"} <= set(env)
    assert "hush-hush" not in str(container)
    assert "mariadb-dump" in container["Command"][2]
    assert tool.backup_id(APP, OLD, engine, 0.0).endswith(".sql.gz")


def test_job_spec__of_mongodb() -> None:
    """The same for MongoDB; the login is part of the URI."""
    world = Database()
    made = of_env(world, "U=mongodb://web:hush-hush@srv-captain--db/web", image="mongo:7")
    container = tool.job_spec(world.service, made, app=APP, name="job", action="check")["TaskTemplate"]["ContainerSpec"]
    env = container.pop("Env")
    uri = "mongodb://web:hush-hush@srv-captain--db:27017/?authSource=web"
    assert {f"CAPMIG_URI={uri}", "CAPMIG_DATABASE=web"} <= set(env)
    assert "hush-hush" not in str(container)
    assert "mongodump" in container["Command"][2]
    assert made.subject.target == "web@srv-captain--db:27017/web"
    assert tool.backup_id(APP, OLD, "mongodb", 0.0).endswith(".archive.gz")


def test_backup__login_goes_to_its_own_registry_only() -> None:
    """The app's registry login is not sent to the registry of the database's image."""
    world = Database()
    login = Credentials(username="ann", password="hush")
    image = f"ghcr.io/acme/postgres:15@sha256:{'0' * 64}"
    world.swarm.images[image] = world.behave
    world.deploy(asked(image=image), replace(world.hand(), credentials=login))
    sent = {name.rpartition("-")[2]: given for name, given in world.swarm.direct.created_with}
    assert (sent["migration"], sent["check"], sent["backup"]) == (login, None, None)
    images = ("postgres:16", "bitnami/postgresql", "ghcr.io/a/b:1", "registry:5000/a", "localhost/a")
    assert [tool.registry_of(image) for image in images] == ["", "", "ghcr.io", "registry:5000", "localhost"]


def test_told__numbers_and_errors() -> None:
    """What a job tells is gathered over several looks; what is no number is none."""
    told = tool.Told()
    told.hear(["hello", "capmig: id=web/x bytes=12 seconds=x"])
    told.hear(["capmig: error=no space left"])
    assert told.number("bytes") == 12
    assert told.number("seconds") == 0
    assert told.values["error"] == "no space left"


def test_backup_id__sorts_in_order_of_time() -> None:
    """A name is safe as a path, and tells the version that the data belongs to."""
    first = tool.backup_id("web", f"ghcr.io:5000/acme/web:1.4.0@sha256:{'0' * 64}", "postgres", 0.0)
    later = tool.backup_id("web", NEW, "postgres", 1e9)
    assert first == "web/19700101T000000Z-web-1.4.0.dump"
    assert first < later


def test_backup__survives_a_lost_link() -> None:
    """A link that is lost while the backup is made brings the old version back."""
    world = Database()
    left = [LinkLost("gone")]

    def lose(name: str, args: object) -> None:
        if world.journal is not None and world.journal.phase is Phase.BACKING_UP and name == "logs" and left:
            raise left.pop()

    world.swarm.before_call = lose
    report = world.deploy(asked())
    assert report.ending.result == "restored"
    assert world.running == [OLD, OLD]


def by_hand(world: Database, act: Callable[[Hand, Plan], Ending], backup_id: str = "") -> Report:
    wanted = replace(asked(), image="", migration=None, backup_id=backup_id)
    return carry_out(world.hand(), lambda: look(world.swarm, wanted), act)


def test_by_hand__backup_stops_nothing() -> None:
    """A backup by hand is made while the app runs, and tells its name."""
    world = Database()
    report = by_hand(world, by_hand_acts.back_up)
    assert report.error is None
    assert report.ending.result == "backed-up"
    assert report.ending.entry.backup_id.startswith("web/20")
    assert world.did == ["check", "dump", "prune"]
    assert {state for _, _, name, state in world.swarm.history if name == APP} <= STARTING
    assert (world.jobs, world.journal) == ([], None)


def test_by_hand__failed_backup_leaves_the_app_alone() -> None:
    """A backup by hand that fails is a failure, and the app runs on."""
    world = Database()
    world.jobs_do["dump"] = Run(duration=1.0, exit_code=1, output=((0.5, "capmig: error=disk full"),))
    report = by_hand(world, by_hand_acts.back_up)
    assert "disk full" in str(report.error)
    assert report.ending.result == "unchanged"
    assert world.running == [OLD, OLD]


def test_by_hand__restore_backs_the_present_state_up_first() -> None:
    """The app is stopped, and runs again on the restored database; what was there before is kept."""
    world = Database()
    world.backups[ID] = 7
    world.jobs_do["list"] = Run(duration=1.0, output=((0.5, f"capmig: backup={ID} bytes=7"),))
    report = by_hand(world, by_hand_acts.restore, ID)
    assert report.error is None
    assert report.ending.result == "database-restored"
    assert (report.ending.entry.backup_id, report.ending.entry.schema) == (ID, "restored")
    assert world.did == ["check", "list", "dump", "restore"]
    assert (world.schema, world.saved) == (7, 1)
    assert world.running == [OLD, OLD]
    assert (world.jobs, world.journal) == ([], None)


def test_by_hand__restore_of_a_backup_that_is_not_there() -> None:
    """A wrong name stops nothing, and the message has the right ones."""
    world = Database()
    world.jobs_do["list"] = Run(duration=1.0, output=((0.5, f"capmig: backup={ID} bytes=7"),))
    report = by_hand(world, by_hand_acts.restore, "web/20200101T000000Z-x.dump")
    assert report.error is not None
    assert ID in report.error.todo
    assert report.ending.result == "unchanged"
    assert world.did == ["check", "list"]


def test_by_hand__restore_that_dies_is_finished_by_the_next() -> None:
    """Whoever takes over a restore by hand restores again and starts the app."""
    world = Database()
    world.backups[ID] = 7
    world.jobs_do["list"] = Run(duration=1.0, output=((0.5, f"capmig: backup={ID} bytes=7"),))
    with world.dying(lambda name: name == "logs" and world.in_phase(Phase.RESTORING)):
        by_hand(world, by_hand_acts.restore, ID)
    entry = world.recovered()
    assert (entry.backup_id, entry.restored) == (ID, True)
    assert world.schema == 7
    assert world.running == [OLD, OLD]


def test_by_hand__list() -> None:
    """The backups are in the log."""
    world = Database()
    world.jobs_do["list"] = Run(duration=1.0, output=((0.5, f"capmig: backup={ID} bytes=7000000"),))
    hand = world.hand()
    carry_out(hand, lambda: look(world.swarm, replace(asked(), image="", migration=None)), by_hand_acts.show)
    assert isinstance(hand.log, RecordingLog)
    assert f"{ID}  7.0 MB" in hand.log.text
