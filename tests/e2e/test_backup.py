"""Deploys with a backup: a migration that destroys data, and an old version that serves all of it again."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeStep
from tests.e2e.world import Before, assert_back, assert_deployed, told
from tests.sandbox.app import DemoApp
from tests.sandbox.runner import Step
from tests.sandbox.sandbox import Sandbox

# One of each kind of thing, beside what the demo app has itself.
MORE = """
CREATE EXTENSION pg_trgm;
CREATE TABLE pictures (id serial PRIMARY KEY, bytes bytea, title text UNIQUE, kind text CHECK (kind <> ''));
INSERT INTO pictures (bytes, title, kind) SELECT decode(md5(n::text), 'hex'), 'Zoë 客户 ' || n, 'k' FROM generate_series(1, 99) n;
CREATE INDEX titles ON pictures USING gin (title gin_trgm_ops);
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.title := upper(NEW.title); RETURN NEW; END$$;
CREATE TRIGGER shout BEFORE UPDATE ON pictures FOR EACH ROW EXECUTE FUNCTION shout();
CREATE VIEW titles_of AS SELECT title FROM pictures;
GRANT SELECT ON pictures TO PUBLIC;
SELECT lo_from_bytea(4711, 'large'::bytea);
"""  # noqa: E501 - a statement a line
DESTRUCTION = """
DROP TABLE pictures CASCADE; DROP FUNCTION shout; DROP EXTENSION pg_trgm; SELECT lo_unlink(4711);
CREATE TABLE half (id serial); ALTER TABLE customers DROP COLUMN born
"""


def test_backup__of_a_good_deploy(app: DemoApp, step: Step) -> None:
    """The new version runs on the migrated database; the outputs tell the backup."""
    before = Before.of(app)
    result = step.run(app.inputs("v2", stable_for="1s", backup="auto", backup_verify="restore"))
    assert_deployed(result, before, "v2")
    assert "restored into a scratch database: 2 tables have the rows that they should have" in result.log
    assert result.outputs["backup-id"].startswith(f"{app.name}/20")
    assert int(result.outputs["backup-bytes"]) > 1000
    assert result.outputs["restored"] == "false"
    assert result.outputs["backup-id"] in result.summary


def test_backup__is_restored_after_a_migration_that_destroys(app: DemoApp, step: Step) -> None:
    """The migration destroys and fails: the old version's first answer comes from a database equal to before."""
    app.place.psql(MORE, app.database)
    before, whole = Before.of(app), app.dump()
    with app.prober() as prober:
        destruction = json.dumps({"DEMO_DESTRUCTION": DESTRUCTION})
        result = step.run(app.inputs("v3-fails", stable_for="1s", backup="auto", migrate_env=destruction))
        seen = {(sample.version, sample.rows) for sample in prober.samples() if sample.status == 200}
    assert result.exit_code == 1, told(result)
    assert result.outputs["result"] == "restored", told(result)
    assert result.outputs["failed-phase"] == "migrating", told(result)
    assert result.outputs["schema-state"] == "restored", told(result)
    assert result.outputs["restored"] == "true"
    assert "│ deleted 500 rows" in result.log
    assert "The migration failed (exit code 1)." in result.log
    assert app.dump() == whole
    assert seen == {("v1", before.rows)}
    assert_back(before)


def test_backup__is_restored_after_a_migration_that_hangs(app: DemoApp, step: Step) -> None:
    """The migration deletes rows and never ends: it is stopped, and the database is what it was."""
    before, whole = Before.of(app), app.dump()
    result = step.run(app.inputs("v3-hangs", stable_for="1s", migrate_timeout="15s", backup="postgres"))
    assert result.outputs["restored"] == "true", told(result)
    assert app.dump() == whole
    assert_back(before)


def test_backup__is_not_restored_once_the_new_version_ran(app: DemoApp, step: Step) -> None:
    """A new version that crashes has run: the database stays migrated, and the message says where the backup is."""
    before = Before.of(app)
    result = step.run(app.inputs("v3-crashes", stable_for="20s", deploy_timeout="1m", backup="auto"))
    assert result.outputs["restored"] == "false", told(result)
    assert result.outputs["schema-state"] == "migrated", told(result)
    assert f"as {result.outputs['backup-id']}" in result.log
    assert app.schema() == "3"
    assert_back(before)


def test_backup__wrong_password_stops_nothing(app: DemoApp, step: Step) -> None:
    """A login that does not work is found out while the old version serves on."""
    before = Before.of(app)
    wrong = app.place.database_url(app.database).replace(":pass-", ":not-the-pass-")
    app.place.manager.execute("docker", "service", "update", "--quiet", f"--env-add=OTHER_URL={wrong}", app.service)
    before = Before.of(app)
    result = step.run(app.inputs("v2", stable_for="1s", backup="auto", backup_source="OTHER_URL"))
    assert result.exit_code == 1, told(result)
    assert result.outputs["result"] == "failed", told(result)
    assert "password authentication failed" in result.log
    assert "not-the-pass" not in result.log
    assert_back(before)


def test_died__in_the_migration_is_restored(app: DemoApp, make_step: MakeStep) -> None:
    """Killed in a migration that destroys: the next run stops that, and restores with nothing but the journal."""
    before, whole = Before.of(app), app.dump()
    dead = make_step()
    dead.start(app.inputs("v3-hangs", stable_for="1s", migrate_timeout="20s", backup="auto"))
    dead.wait_for_log("│ deleted")
    dead.kill_container()
    result = make_step("next").run(app.inputs("v1", mode="recover"))
    assert result.exit_code == 0, told(result)
    assert result.outputs["restored"] == "true", told(result)
    assert app.dump() == whole
    assert_back(before)


def test_cancelled__in_the_migration_is_restored(app: DemoApp, step: Step) -> None:
    """Cancelled in a migration that destroys: it is stopped long before its time, and the database restored."""
    before, whole = Before.of(app), app.dump()
    step.start(app.inputs("v3-hangs", stable_for="1s", migrate_timeout="1h", backup="auto"))
    step.wait_for_log("│ deleted")
    step.cancel()
    post = step.post()
    assert post.exit_code == 0, told(post)
    assert app.dump() == whole
    assert_back(before)


def test_by_hand__backup_list_restore(app: DemoApp, step: Step) -> None:
    """A backup is made while the app serves, is listed, and is restored after somebody lost rows."""
    before, whole = Before.of(app), app.dump()
    made = step.run(app.inputs("v1", mode="backup"))
    assert made.exit_code == 0, told(made)
    name = made.outputs["backup-id"]
    app.place.psql("DELETE FROM customers", app.database)
    listed = step.run(app.inputs("v1", mode="list-backups"))
    assert name in listed.log, told(listed)
    restored = step.run(app.inputs("v1", mode="restore", backup_id=name, stable_for="1s"))
    assert restored.exit_code == 0, told(restored)
    assert restored.outputs["result"] == "database-restored"
    assert app.dump() == whole
    assert_back(before)


@pytest.mark.parametrize("way", ["forwards", "runs dial-stdio"])
@pytest.mark.sandbox_only("it logs in with the sandbox's restricted keys, and looks into its volume")
def test_backup__is_downloaded(app: DemoApp, sandbox: Sandbox, step: Step, tmp_path: Path, way: str) -> None:
    """The workspace gets the file, encrypted by what the image has for that, whichever way Docker is reached."""
    forwards = way == "forwards"
    make = (
        "openssl req -x509 -newkey rsa:2048 -noenc -subj /CN=x -keyout key -out public"
        if forwards
        else "age-keygen --output key && age-keygen -y key > public"
    )
    decrypt = "openssl cms -decrypt -binary -inform DER -inkey key" if forwards else "age --decrypt --identity key"
    subprocess.run(["sh", "-c", make], cwd=tmp_path, check=True, capture_output=True)
    os.chown(step.workspace, 1234, 5678)
    made = step.run(
        app.inputs(
            "v1",
            mode="backup",
            backup_download="backups/shop.dump",
            backup_download_key=(tmp_path / "public").read_text(),
            ssh_key=sandbox.ssh.forwarding_key if forwards else sandbox.ssh.dial_key,
        )
    )
    assert made.exit_code == 0, told(made)
    assert made.outputs["backup-file"] == "backups/shop.dump"
    file = step.workspace / made.outputs["backup-file"]
    assert (file.stat().st_mode & 0o777, file.stat().st_uid) == (0o600, 1234)
    assert [path.name for path in file.parent.iterdir()] == ["shop.dump"]
    with file.open("rb") as packed:
        plain = subprocess.run(decrypt.split(), cwd=tmp_path, stdin=packed, check=True, capture_output=True).stdout
    assert len(plain) == int(made.outputs["backup-bytes"])
    manager = sandbox.nodes[0]
    there = manager.execute("sha256sum", f"/var/lib/docker/volumes/capmig-backups/_data/{made.outputs['backup-id']}")
    assert hashlib.sha256(plain).hexdigest() == there.split()[0]
    assert manager.execute("docker", "ps", "--all", "--quiet", "--filter=label=capmig.kind=download") == ""
