"""Deploys with a backup of MariaDB, of SQLite, and of a PostgreSQL that gives its user few rights."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import MakeApp, MakeStep
from tests.e2e.world import Before, assert_back, assert_deployed, told
from tests.sandbox import images
from tests.sandbox.app import DemoApp
from tests.sandbox.engine import HERE, wait_for
from tests.sandbox.mariadb import MARIADB_SERVICE
from tests.sandbox.sandbox import DATABASE_SERVICE, Sandbox

pytestmark = pytest.mark.sandbox_only("MariaDB, and the tools that look into it, are in the sandbox only")

REPLICAS = {"mariadb": 2, "sqlite": 1}
# One of each kind of thing, beside what the demo app has itself.
MORE = {
    "mariadb": """
CREATE TABLE pictures (id bigint AUTO_INCREMENT PRIMARY KEY, bytes blob, title varchar(99) UNIQUE, kind enum('a'),
    customer int, size int CHECK (size > 0), INDEX kinds (kind, size),
    FOREIGN KEY (customer) REFERENCES customers (id));
INSERT INTO pictures (bytes, title, kind, customer, size)
    SELECT concat(unhex(md5(seq)), x'00ff'), concat('Zoë 客户 🙂 \\n', seq), 'a', 2 * seq - 1, seq FROM seq_1_to_99;
DELETE FROM pictures WHERE id > 90;
CREATE VIEW titles AS SELECT title FROM pictures;
CREATE TRIGGER shout BEFORE UPDATE ON pictures FOR EACH ROW SET NEW.title = upper(NEW.title);
CREATE FUNCTION twice(n int) RETURNS int DETERMINISTIC RETURN 2 * n;
CREATE PROCEDURE greet() SELECT 'hello; world';
CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY STARTS '2037-01-01' DO DELETE FROM pictures WHERE id < 0;
""",
    "sqlite": """
CREATE TABLE pictures (id integer PRIMARY KEY AUTOINCREMENT, bytes blob, title text UNIQUE,
    kind text CHECK (kind <> ''), customer int REFERENCES customers (id));
INSERT INTO pictures (bytes, title, kind, customer) SELECT randomblob(50), 'Zoë 客户 🙂 ' || id, 'k', id FROM customers;
DELETE FROM pictures WHERE id > 90;
CREATE INDEX kinds ON pictures (kind, customer) WHERE kind <> 'b';
CREATE VIEW titles AS SELECT title FROM pictures;
CREATE TRIGGER shout AFTER UPDATE ON pictures BEGIN DELETE FROM pictures WHERE id < 0; END;
PRAGMA user_version = 7;
""",
    "plain-postgres": "CREATE TABLE pictures (id serial PRIMARY KEY); INSERT INTO pictures DEFAULT VALUES",
}
# What a migration has done when it fails, beside deleting every other customer.
DESTRUCTION = {
    "mariadb": """
SET foreign_key_checks = 0; DROP TABLE pictures; DROP VIEW titles;
DROP FUNCTION twice; DROP EVENT nightly; CREATE TABLE half (id int); CREATE PROCEDURE added() SELECT 1
""",
    "sqlite": """
ALTER TABLE customers DROP COLUMN born; DROP TABLE pictures; DROP VIEW titles; CREATE TABLE half (id int);
PRAGMA user_version = 8
""",
    "plain-postgres": "DROP TABLE pictures; CREATE TABLE half (id int)",
}


@pytest.mark.parametrize("engine", ["mariadb", "sqlite"])
def test_backup__is_restored_after_a_migration_that_destroys(
    engine: str, make_app: MakeApp, make_step: MakeStep, sandbox: Sandbox
) -> None:
    """After a bad deploy the old version's first answer comes from a database equal to before, whatever it lost."""
    app = make_app(engine=engine, replicas=REPLICAS[engine])
    good = make_step().run(app.inputs("v2", stable_for="1s", backup="auto"))
    assert_deployed(good, Before.of(app), "v2")
    assert good.outputs["backup-id"].startswith(f"{app.name}/20")
    assert int(good.outputs["backup-bytes"]) > 1000
    assert good.outputs["restored"] == "false"

    app.store.sql(MORE[engine])
    if engine == "mariadb":
        sandbox.mariadb.sql(f"CREATE USER reader@'%'; GRANT SELECT ON {app.database}.pictures TO reader@'%'")
    before, whole = Before.of(app), app.dump()
    if engine == "mariadb":
        hold(app, MARIADB_SERVICE)
    with app.prober() as prober:
        bad = make_step("next").run(app.inputs("v3-fails", stable_for="1s", backup="auto", **destroying(engine)))
        seen = {(sample.version, sample.rows) for sample in prober.samples() if sample.status == 200}
    assert bad.exit_code == 1, told(bad)
    assert "│ deleted 500 rows" in bad.log, told(bad)
    assert bad.outputs["result"] == "restored", told(bad)
    assert bad.outputs["schema-state"] == "restored", told(bad)
    assert bad.outputs["restored"] == "true"
    assert app.dump() == whole
    assert seen == {("v2", before.rows)}
    assert_back(before)


def test_died__in_the_migration_is_restored(make_app: MakeApp, make_step: MakeStep) -> None:
    """Killed in migrations that destroy and hang: the next runs restore both databases with nothing but the journal.

    Both at once, since each next run has to wait for a minute until the dead one's lease ends.
    """
    apps = {engine: make_app(engine=engine, replicas=1) for engine in ("mariadb", "sqlite")}
    for engine, app in apps.items():
        app.store.sql(MORE[engine])
    befores = [Before.of(app) for app in apps.values()]
    wholes = [app.dump() for app in apps.values()]
    dead = [make_step() for _ in apps]
    for step, (engine, app) in zip(dead, apps.items(), strict=True):
        more = {"migrate_timeout": "40s", "backup": "auto", **destroying(engine)}
        step.start(app.inputs("v3-hangs", stable_for="1s", **more))
    for step in dead:
        step.wait_for_log("│ deleted")
        step.kill_container()
    following = [make_step("next") for _ in apps]
    for step, app in zip(following, apps.values(), strict=True):
        step.start(app.inputs("v1", mode="recover"))
    for step in following:
        result = step.wait()
        assert result.exit_code == 0, told(result)
        assert result.outputs["restored"] == "true", told(result)
    assert [app.dump() for app in apps.values()] == wholes
    for before in befores:
        assert_back(before)


@pytest.mark.parametrize("engine", ["mariadb", "sqlite"])
def test_by_hand__backup_list_restore(engine: str, make_app: MakeApp, make_step: MakeStep) -> None:
    """A backup made while the app serves comes back after somebody dropped it all; and so does the empty database."""
    app = make_app(engine=engine, replicas=1)
    before, whole = Before.of(app), app.dump()
    made = make_step().run(app.inputs("v1", mode="backup"))
    assert made.exit_code == 0, told(made)
    name = made.outputs["backup-id"]
    app.store.sql("DROP TABLE customers; DROP TABLE alembic_version")
    empty = app.dump()
    listed = make_step().run(app.inputs("v1", mode="list-backups"))
    assert name in listed.log, told(listed)
    restored = make_step().run(app.inputs("v1", mode="restore", backup_id=name, stable_for="1s"))
    assert restored.exit_code == 0, told(restored)
    assert restored.outputs["result"] == "database-restored"
    assert app.dump() == whole
    assert_back(before)
    kept = restored.log.partition("The state from before the restore is kept as ")[2].split()[0].rstrip(".")
    again = make_step().run(app.inputs("v1", mode="restore", backup_id=kept, stable_for="1s"))
    assert again.exit_code == 0, told(again)
    assert app.dump() == empty


def test_backup__what_cannot_work_stops_nothing(make_app: MakeApp, make_step: MakeStep, sandbox: Sandbox) -> None:
    """A wrong password, and a client that is older than the server, are found out while the old version serves on."""
    wrong = f"mysql://root:not-the-pass@{MARIADB_SERVICE}:3306/mysql"
    app = make_app(engine="mariadb", replicas=1, env={"OTHER_URL": wrong})
    before = Before.of(app)
    locked_out = make_step().run(app.inputs("v2", backup="auto", backup_source="OTHER_URL"))
    assert locked_out.exit_code == 1, told(locked_out)
    assert locked_out.outputs["result"] == "failed", told(locked_out)
    assert "Access denied for user 'root'" in locked_out.log
    assert "not-the-pass" not in locked_out.raw.replace("::add-mask::not-the-pass", "")
    older = sandbox.push(older_client(), "older-client", "1")
    refused = make_step().run(app.inputs("v2", backup="auto", backup_source="DATABASE_URL", backup_image=older))
    assert refused.exit_code == 1, told(refused)
    assert "is older than the server, which is 10." in refused.log, told(refused)
    assert_back(before)


def test_backup__in_place(make_app: MakeApp, make_step: MakeStep) -> None:
    """To a user without CREATEDB, whose database a client holds open, it is given back in place, and equal."""
    app = make_app(engine="plain-postgres", replicas=1)
    app.store.sql(MORE["plain-postgres"])
    before, whole = Before.of(app), app.dump()
    hold(app, DATABASE_SERVICE)
    result = make_step().run(app.inputs("v3-fails", stable_for="1s", backup="auto", **destroying("plain-postgres")))
    assert result.exit_code == 1, told(result)
    assert result.outputs["restored"] == "true", told(result)
    assert "restored (in place, in one transaction)." in result.log, told(result)
    assert app.dump() == whole
    assert_back(before)


def destroying(engine: str) -> dict[str, str]:
    return {"migrate_env": json.dumps({"DEMO_DESTRUCTION": DESTRUCTION[engine]})}


def hold(app: DemoApp, service: str) -> None:
    """Have another client hold the database open: in a transaction that keeps a table from being dropped."""
    user, words = app.database, "BEGIN; SELECT * FROM alembic_version; SELECT {}(600)"
    if service == MARIADB_SERVICE:
        held = words.format("sleep")
        command = ["mariadb", f"--user={user}", f"--password=pass-of-{user}", user, f"--execute={held}"]
        there = "SELECT id FROM information_schema.processlist WHERE info = 'SELECT sleep(600)'"
    else:
        command = ["psql", f"--username={user}", f"--command={words.format('pg_sleep')}"]
        there = f"SELECT pid FROM pg_stat_activity WHERE datname = '{user}' AND query LIKE '%pg_sleep(600)'"
    label = f"label=com.docker.swarm.service.name={service}"
    (container,) = app.place.manager.execute("docker", "ps", "--quiet", "--filter", label).split()
    app.place.manager.execute("docker", "exec", "--detach", container, *command)
    wait_for("the other client", lambda: app.store.sql(there))


def older_client() -> str:
    """MariaDB's image with a client that says it is an old one; its local name."""
    script = '#!/bin/sh\\n[ "$1" != --version ] || exec echo "mysql  Ver 15.1 Distrib 10.3.9-MariaDB"\\n'
    script += 'exec /usr/bin/mariadb "$@"\\n'
    path = "/usr/local/bin/mariadb"
    recipe = f"FROM {images.build(HERE / 'mariadb')}\nRUN printf '{script}' > {path} && chmod 755 {path}\n"
    return images.derive("older-client", recipe)
