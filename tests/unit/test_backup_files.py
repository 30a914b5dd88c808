"""Backups of an app's volumes, and by the user's own commands: what their jobs get, and deploys on the fakes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capmig.backup import by_hand, tool
from capmig.backup.inputs import Backup, Engine, Verify
from capmig.backup.subject import Subject, of_volumes
from capmig.deploy import Report, carry_out
from capmig.entry import Phase
from capmig.errors import NeedsPerson, Refused
from capmig.hand import Hand
from capmig.inputs import Inputs
from capmig.plan import Plan
from capmig.preflight import look
from capmig.recover import Ending
from tests.fakes.database import Database, pinned
from tests.fakes.swarm import Run, app_spec, fake_node
from tests.fakes.world import APP, OLD, inputs

DATA = {"Type": "volume", "Source": "captain--data", "Target": "/data"}
UPLOADS = {"Type": "bind", "Source": "/srv/uploads", "Target": "/data/uploads"}
DUMP = ("sh", "-c", 'tar -c "$FILES" && echo it\'s > /dev/null')
LOAD = ("load", "")


def spec(*mounts: dict[str, Any], env: tuple[str, ...] = ("FILES=/data", "SECRET=hush-hush")) -> dict[str, Any]:
    """The app, with these mounts and on the node that has them."""
    made = app_spec(APP, OLD, env=env)
    made["TaskTemplate"]["ContainerSpec"]["Mounts"] = list(mounts)
    made["TaskTemplate"]["Placement"] = {"Constraints": ["node.id==node2"]}
    return made


class Files(Database):
    """A world whose data is in the app's volumes, and whose image has what a backup takes."""

    def __init__(self, *mounts: dict[str, Any]) -> None:
        super().__init__(spec=spec(*(mounts or (DATA, UPLOADS))), nodes=[fake_node("node1"), fake_node("node2")])
        self.swarm.images[pinned(OLD)] = self.behave


def asked(engine: Engine, *, image: str = "") -> Inputs:
    commands: dict[str, Any] = {"command": DUMP, "restore_command": LOAD} if engine is Engine.COMMAND else {}
    backup = Backup(engine=engine, source="", image=image, timeout=60.0, keep=5, restore=True, **commands)
    return inputs(backup=backup)


def job(world: Files, action: str, engine: Engine) -> dict[str, Any]:
    made = look(world.swarm, asked(engine)).tool
    assert made is not None
    return dict(tool.job_spec(world.service, made, app=APP, name="job", action=action)["TaskTemplate"])


@pytest.mark.parametrize("engine", [Engine.VOLUMES, Engine.COMMAND])
def test_backup__is_restored_after_a_failed_migration(engine: Engine) -> None:
    """No database needs to be found; the old version runs on what was there before."""
    world = Files()
    world.new_image(migration=Run(duration=3.0, exit_code=1))
    report = world.deploy(asked(engine))
    assert report.ending.entry.restored
    assert world.did == ["check", "dump", "restore"]
    assert world.schema == 1
    assert world.running == [OLD, OLD]
    assert report.ending.entry.backup_id.endswith({"volumes": ".tar.gz", "command": ".data.gz"}[engine])
    assert (world.jobs, world.journal) == ([], None)


def test_volumes__jobs() -> None:
    """Each volume is mounted apart, so that none is within another; a dump cannot write into any; on their node."""
    world = Files(UPLOADS | {"BindOptions": {"Propagation": "rprivate"}}, DATA)
    for action, read_only in (("check", True), ("dump", True), ("list", True), ("restore", False)):
        template = job(world, action, Engine.VOLUMES)
        mounts = template["ContainerSpec"]["Mounts"][1:]
        assert [(mount["Source"], mount["Target"]) for mount in mounts] == [
            ("captain--data", "/capmig-volumes/1-data"),
            ("/srv/uploads", "/capmig-volumes/2-data-uploads"),
        ]
        assert [mount.get("ReadOnly", False) for mount in mounts] == [read_only] * 2
        assert mounts[1]["BindOptions"] == {"Propagation": "rprivate"}
        assert "CAPMIG_VOLUMES=1-data 2-data-uploads" in template["ContainerSpec"]["Env"]
        assert "hush-hush" not in str(template)
        assert template["ContainerSpec"]["Image"] == OLD
        assert template["Placement"] == {"Constraints": ["node.id==node2"]}


def test_volumes__what_is_left_out() -> None:
    """What the app cannot write into, what goes with its container, and a second way to the same volume."""
    read_only = {"Type": "bind", "Source": "/etc/certs", "Target": "/certs", "ReadOnly": True}
    twice = DATA | {"Target": "/other"}
    tmpfs = {"Type": "tmpfs", "Target": "/scratch"}
    anonymous = {"Type": "volume", "Target": "/cache"}
    world = Files(read_only, twice, tmpfs, anonymous, DATA)
    assert of_volumes(world.service).target == "captain--data at /data"


@pytest.mark.parametrize("mounts", [(), ({"Type": "tmpfs", "Target": "/scratch"},)])
def test_volumes__none(mounts: tuple[dict[str, Any], ...]) -> None:
    """An app without volumes is refused."""
    world = Files(*mounts)
    world.swarm.direct.update_service(world.service, spec(*mounts))
    with pytest.raises(Refused, match="backup: the app has no volumes"):
        look(world.swarm, asked(Engine.VOLUMES))


@pytest.mark.parametrize("engine", [Engine.VOLUMES, Engine.COMMAND])
def test_backup__of_an_app_on_any_node(engine: Engine) -> None:
    """Nobody knows whose volume would be the right one."""
    world = Files()
    changed = spec(DATA)
    changed["TaskTemplate"]["Placement"] = {}
    world.swarm.direct.update_service(world.service, changed)
    with pytest.raises(Refused, match="may run on several nodes"):
        look(world.swarm, asked(engine))


def test_command__without_volumes_runs_where_capmig_is_connected() -> None:
    """A command that works over the network needs no node of its own."""
    world = Files()
    changed = spec()
    changed["TaskTemplate"]["Placement"] = {}
    world.swarm.direct.update_service(world.service, changed)
    assert job(world, "dump", Engine.COMMAND)["Placement"] == {"Constraints": ["node.id==node1"]}


def test_command__job_has_all_that_the_app_has() -> None:
    """The app's image, environment, networks and mounts; an image of one's own takes the first one's place."""
    world = Files()
    template = job(world, "restore", Engine.COMMAND)
    container = template["ContainerSpec"]
    assert container["Image"] == OLD
    assert {"FILES=/data", "SECRET=hush-hush"} <= set(container["Env"])
    assert [mount["Target"] for mount in container["Mounts"]] == ["/backups", "/data", "/data/uploads"]
    assert template["Networks"] == [{"Target": "captain-overlay-network"}]
    made = look(world.swarm, asked(Engine.COMMAND, image="tools:1")).tool
    assert made is not None
    assert made.image == "tools:1"


def test_command__no_variable_of_the_app_stands_in_the_way() -> None:
    """What the script reads is capmig's, whatever the app's variables are called."""
    world = Files()
    world.swarm.direct.update_service(world.service, spec(DATA, env=("CAPMIG_ID=../x", "CAPMIG_KEEP=0", "ODD")))
    env = job(world, "dump", Engine.COMMAND)["ContainerSpec"]["Env"]
    assert [line for line in env if line.startswith(("CAPMIG_ID", "CAPMIG_KEEP"))] == ["CAPMIG_ID=", "CAPMIG_KEEP=0"]


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(max_examples=25, deadline=None)
@given(more=st.lists(words, max_size=5))
def test_program__words_reach_the_command_as_they_are(more: list[str]) -> None:
    """No shell sees the user's words, whatever they hold; a function of the script's is not taken for the program."""
    script = tool.program("command", (("printf", "%s\\0", "words", *more), ("fail",))).rpartition("check() {")[0]
    ran = subprocess.run(["sh", "-c", f"{script}\nbackup_command"], capture_output=True, timeout=60, check=False)
    assert ran.stdout.split(b"\0")[:-1] == [word.encode() for word in ("words", *more)], ran.stderr
    assert (
        subprocess.run(["sh", "-c", f"{script}\nrestore_command"], capture_output=True, check=False).returncode == 127
    )


def dies_in(world: Files, phase: Phase, engine: Engine) -> None:
    """A deploy whose process dies while its migration runs, which is to fail, or before its restore begins."""
    world.new_image(migration=Run(duration=3.0, exit_code=1))
    last = {Phase.MIGRATING: "logs", Phase.RESTORING: "tasks"}[phase]
    with world.dying(lambda name: name == last and world.in_phase(phase)):
        world.deploy(asked(engine))


@pytest.mark.parametrize("engine", [Engine.VOLUMES, Engine.COMMAND])
def test_recover__with_the_journal_alone(engine: Engine) -> None:
    """The next run restores with the commands and the volumes that made the backup; no secret is in the journal."""
    world = Files()
    dies_in(world, Phase.MIGRATING, engine)
    left = world.swarm.direct.config(f"capmig-{APP}")
    assert left is not None
    assert "hush-hush" not in str(left)
    seen: list[Any] = []
    world.swarm.before_call = lambda name, args: seen.append(args[0]) if name == "create_service" else None
    assert world.recovered().restored
    assert world.schema == 1
    (restore,) = [each for each in seen if each["Name"].rpartition("-")[0].endswith("restore")]
    program = restore["TaskTemplate"]["ContainerSpec"]["Command"][2]
    assert program == tool.program(engine, (DUMP, LOAD) if engine is Engine.COMMAND else ())


def test_recover__when_the_volumes_are_others() -> None:
    """A backup is unpacked only into the volumes that it was made of."""
    world = Files()
    dies_in(world, Phase.RESTORING, Engine.VOLUMES)
    changed = world.service.spec
    changed["TaskTemplate"]["ContainerSpec"]["Mounts"] = [DATA]
    world.swarm.direct.update_service(world.service, changed)
    with pytest.raises(NeedsPerson, match=r"was changed since the backup.*: captain--data at /data\n") as caught:
        world.recovered()
    assert "captain--data at /data, /srv/uploads at /data/uploads" in caught.value.todo
    assert "restore" not in world.did


def by_hand_with(world: Files, act: Callable[[Hand, Plan], Ending], engine: Engine, backup_id: str) -> Report:
    wanted = replace(asked(engine), image="", migration=None, backup_id=backup_id)
    return carry_out(world.hand(), lambda: look(world.swarm, wanted), act)


def test_by_hand__restore_of_another_kind() -> None:
    """A dump of a database is no archive of volumes: nothing is stopped for it."""
    world = Files()
    name = "web/20260102T030405Z-web-1.dump"
    world.jobs_do["list"] = Run(duration=1.0, output=((0.5, f"capmig: backup={name} bytes=7"),))
    report = by_hand_with(world, by_hand.restore, Engine.VOLUMES, name)
    assert "was not made with backup: volumes" in str(report.error)
    assert report.ending.result == "unchanged"
    assert world.did == ["check", "list"]


def test_subject__hides_its_environment() -> None:
    """Its text does not show the environment, where the password is."""
    made = Subject(engine="postgres", target="t", env={"PGPASSWORD": "hush"})
    assert "hush" not in repr(made)


def test_verify__is_for_databases() -> None:
    """A job is told to restore beside; what is no database has nothing to count rows in, which is said at once."""
    world = Files()
    for engine in (Engine.VOLUMES, Engine.COMMAND):
        given = asked(engine)
        assert given.backup is not None
        given = replace(given, backup=replace(given.backup, verify=Verify.RESTORE))
        with pytest.raises(Refused, match=f"backup-verify: restore is there for .*, and not for {engine}"):
            look(world.swarm, given)


@pytest.mark.parametrize("verify", list(Verify))
def test_verify__is_told_to_the_jobs(verify: Verify) -> None:
    """As a variable."""
    world = Database()
    backup = Backup(engine=Engine.AUTO, source="", image="", timeout=60.0, keep=5, restore=True, verify=verify)
    made = look(world.swarm, inputs(backup=backup)).tool
    assert made is not None
    job = tool.job_spec(world.service, made, app=APP, name="job", action="dump")
    assert f"CAPMIG_VERIFY={verify}" in job["TaskTemplate"]["ContainerSpec"]["Env"]
