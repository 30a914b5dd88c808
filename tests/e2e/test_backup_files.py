"""Deploys with a backup of the app's volumes, and with one by the user's own commands."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import pytest

from tests.e2e.conftest import MakeApp, MakeStep
from tests.e2e.world import Before, assert_back, assert_deployed, told
from tests.sandbox.app import DemoApp
from tests.sandbox.runner import Step
from tests.sandbox.sandbox import Sandbox

# A reason to be marked sandbox_only.
ON_THE_NODE = "it makes a folder on the node itself"

FILL = """
mkdir -p /data/sub/deep /data/empty /uploads/'with blank'
head -c 3000000 /dev/urandom > /data/sub/noughts
ln /data/sub/noughts /data/sub/hard
ln -s ../nowhere /data/sub/link
mkfifo /data/sub/pipe
echo Zoë > '/uploads/with blank/Zoë 客户'
echo x > '/data/new
line'
truncate -s 20M /data/sparse
chown -R 1234:4321 /data/sub
chmod 4750 /data/sub/noughts
chmod 1777 /data
touch -h -d '2001-02-03 04:05:06.789' /data/sub/noughts /data/sub/link /data/sub /data
"""
RUIN = "rm -rf /data/sub/* /data/empty; echo y > /data/sparse; mkdir /data/added; touch /data/added/.x /uploads/new"
DESTROYS = {"migrate_command": "", "migrate_entrypoint": f"sh -c '{RUIN}; exit 3'"}
COMMANDS = {
    "backup": "command",
    "backup_command": """sh -c 'exec pg_dump --format=custom "$DATABASE_URL"'""",
    "restore_command": """sh -c 'exec pg_restore --clean --if-exists --single-transaction --dbname="$DATABASE_URL"'""",
}
SHOW = r"""
cd / && find data uploads -printf '%p %y %m %U:%G %T@ %n %s %l\n' | sort
find data uploads -type f -exec sha256sum {} + | sort
"""


@pytest.fixture
def files(make_app: MakeApp, sandbox: Sandbox) -> Files:
    """A new app with a volume and a folder of its node, both filled."""
    number = secrets.token_hex(3)
    volume, folder = f"captain--data-{number}", f"/srv/uploads-{number}"
    node = sandbox.nodes[0]
    node.execute("mkdir", "-p", folder)
    volumes = [{"containerPath": "/data", "volumeName": volume}, {"containerPath": "/uploads", "hostPath": folder}]
    node_id = node.execute("docker", "info", "--format={{.Swarm.NodeID}}").strip()
    made = Files(app=make_app(volumes=volumes, nodeId=node_id), volume=volume, folder=folder)
    made.run(FILL)
    return made


@dataclass(frozen=True, kw_only=True)
class Files:
    """An app with two persistent directories, one of each kind."""

    app: DemoApp
    volume: str
    folder: str

    def run(self, script: str) -> str:
        """Run a script that has them, on their node."""
        command = ["docker", "run", "--rm", "--env=LC_ALL=C.UTF-8", "--entrypoint=sh"]
        command += [f"--volume={self.volume}:/data", f"--volume={self.folder}:/uploads"]
        return self.app.place.manager.execute(*command, self.app.place.image("v1"), "-ec", script)

    def show(self) -> str:
        """All that is in them."""
        return self.run(SHOW)


@pytest.mark.sandbox_only(ON_THE_NODE)
def test_volumes__are_restored_after_a_migration_that_destroys(files: Files, step: Step) -> None:
    """The migration removes, changes and adds files, and fails: the old version has every one as it was."""
    app = files.app
    before, whole = Before.of(app), files.show()
    assert len(whole.splitlines()) > 15
    with app.prober() as prober:
        result = step.run(app.inputs("v2", **DESTROYS, stable_for="1s", backup="volumes"))
        seen = {sample.version for sample in prober.samples() if sample.status == 200}
    assert result.exit_code == 1, told(result)
    assert "The migration failed (exit code 3)." in result.log
    assert result.outputs["restored"] == "true", told(result)
    assert result.outputs["schema-state"] == "restored", told(result)
    assert result.outputs["backup-id"].endswith(".tar.gz"), told(result)
    assert int(result.outputs["backup-bytes"]) > 3_000_000
    assert files.show() == whole
    assert seen == {"v1"}
    assert_back(before)


@pytest.mark.sandbox_only(ON_THE_NODE)
def test_volumes__of_a_good_deploy(files: Files, step: Step) -> None:
    """The new version runs, with what the migration made of the files."""
    before = Before.of(files.app)
    migration = {
        "migrate_command": "",
        "migrate_entrypoint": f"sh -c '{RUIN}; exec python -m demoapp.demo --migrate-database'",
    }
    result = step.run(files.app.inputs("v2", **migration, stable_for="1s", backup="volumes"))
    assert_deployed(result, before, "v2")
    assert result.outputs["restored"] == "false"
    assert "/data/added/.x" in f"/{files.show()}".replace("\n", "\n/")


@pytest.mark.sandbox_only(ON_THE_NODE)
def test_volumes__a_dead_run_is_restored_by_the_next(files: Files, make_step: MakeStep) -> None:
    """Killed in a migration that destroys: the next run restores with nothing but the journal."""
    app = files.app
    before, whole = Before.of(app), files.show()
    hangs = {"migrate_command": "", "migrate_entrypoint": f"sh -c '{RUIN}; echo ruined; sleep 600'"}
    dead = make_step()
    dead.start(app.inputs("v2", **hangs, stable_for="1s", migrate_timeout="20s", backup="volumes"))
    dead.wait_for_log("│ ruined")
    dead.kill_container()
    result = make_step("next").run(app.inputs("v1", mode="recover"))
    assert result.exit_code == 0, told(result)
    assert result.outputs["restored"] == "true", told(result)
    assert files.show() == whole
    assert_back(before)


@pytest.mark.sandbox_only(ON_THE_NODE)
def test_volumes__by_hand(files: Files, step: Step) -> None:
    """A backup is made while the app serves, and is restored after somebody lost files."""
    app = files.app
    before, whole = Before.of(app), files.show()
    made = step.run(app.inputs("v1", mode="backup", backup="volumes"))
    assert made.exit_code == 0, told(made)
    files.run(RUIN)
    name = made.outputs["backup-id"]
    restored = step.run(app.inputs("v1", mode="restore", backup="volumes", backup_id=name, stable_for="1s"))
    assert restored.outputs["result"] == "database-restored", told(restored)
    assert files.show() == whole
    assert_back(before)


def test_volumes__without_any_stops_nothing(app: DemoApp, step: Step) -> None:
    """An app without persistent directories is refused."""
    before = Before.of(app)
    result = step.run(app.inputs("v2", stable_for="1s", backup="volumes"))
    assert result.exit_code == 2, told(result)
    assert "backup: the app has no volumes" in result.log
    assert_back(before)


@pytest.mark.sandbox_only("it takes PostgreSQL's client from the sandbox's registry")
def test_command__is_restored_after_a_migration_that_destroys(app: DemoApp, sandbox: Sandbox, step: Step) -> None:
    """The user's own commands, in an image that has their programs and with the app's environment."""
    before, whole = Before.of(app), app.dump()
    result = step.run(app.inputs("v3-fails", **COMMANDS, backup_image=sandbox.postgres_image, stable_for="1s"))
    assert result.exit_code == 1, told(result)
    assert result.outputs["restored"] == "true", told(result)
    assert result.outputs["backup-id"].endswith(".data.gz"), told(result)
    assert app.dump() == whole
    assert_back(before)


def test_command__that_fails_stops_nothing(app: DemoApp, step: Step) -> None:
    """A program that the app's own image does not have is found out while the old version serves on."""
    before = Before.of(app)
    result = step.run(app.inputs("v3-fails", backup="command", backup_command="pg_dumpe", restore_command="cat"))
    assert result.exit_code == 1, told(result)
    assert "the image has no program pg_dumpe" in result.log
    assert result.outputs["result"] == "failed", told(result)
    assert_back(before)
