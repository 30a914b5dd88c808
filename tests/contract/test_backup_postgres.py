"""The PostgreSQL script on a real server: what comes back is what was, whoever asks and whatever dies meanwhile."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.contract.databases import UNPRIVILEGED, Backups, beside, folder, interrupting, server, small_disk, wait_for

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])).parent
PATH = f"{PROGRAMS}:{os.environ['PATH']}"
SYSTEM = ("postgres", "template0", "template1")
PASSWORD = "pass-of-them-all"

# One of everything, as far as an ordinary user may make it.
SCHEMA = r"""
CREATE EXTENSION pg_trgm;
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE SCHEMA shop;
CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, mood mood, picture bytea,
    paid numeric(10, 2) CHECK (paid >= 0), at timestamptz DEFAULT '2026-01-02 03:04:05+00', UNIQUE (name));
CREATE TABLE shop.orders (id serial PRIMARY KEY, customer bigint REFERENCES customers ON DELETE CASCADE, what jsonb);
CREATE INDEX names_like ON customers USING gin (name gin_trgm_ops);
CREATE INDEX ON shop.orders ((what ->> 'kind')) WHERE what IS NOT NULL;
CREATE VIEW shop.glad AS SELECT * FROM customers WHERE mood = 'glad';
CREATE MATERIALIZED VIEW shop.totals AS SELECT count(*) AS orders FROM shop.orders;
CREATE FUNCTION shop.shout() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.name := upper(NEW.name); RETURN NEW; END$$;
CREATE TRIGGER shout BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION shop.shout();
CREATE TABLE events (at date NOT NULL, what text) PARTITION BY RANGE (at);
CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE SEQUENCE tickets START 1000 INCREMENT 5;
COMMENT ON TABLE customers IS 'Kundinnen und Kunden — 客户';
INSERT INTO customers (name, mood, picture, paid)
    SELECT 'Zoë ' || n || E' \t\n\\ 客户 🙂', 'glad', decode(md5(n::text), 'hex') || '\x00ff'::bytea, n
    FROM generate_series(1, 200) n;
INSERT INTO shop.orders (customer, what) SELECT id, jsonb_build_object('kind', name) FROM customers WHERE id < 50;
INSERT INTO shop.orders (customer) VALUES (NULL);
INSERT INTO events VALUES ('2026-05-06', 'launch'), ('2026-07-08', NULL);
UPDATE customers SET paid = 7 WHERE id = 3;
SELECT nextval('tickets'), nextval('tickets');
SELECT lo_from_bytea(4711, '\x0001feff'::bytea), lo_from_bytea(4712, repeat('x', 5000)::bytea);
REFRESH MATERIALIZED VIEW shop.totals;
GRANT SELECT ON customers TO reader;
GRANT USAGE ON SCHEMA shop TO reader;
GRANT SELECT ON LARGE OBJECT 4711 TO reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT SELECT ON TABLES TO reader;
"""
# What a migration that fails may have committed before: rows, tables and rights gone, and others there.
DESTRUCTION = r"""
DELETE FROM shop.orders WHERE id % 2 = 0;
DROP VIEW shop.glad;
ALTER TABLE customers DROP COLUMN picture, ADD COLUMN more text DEFAULT 'x';
UPDATE customers SET name = 'lost ' || id;
DROP TABLE events;
CREATE SCHEMA fresh;
CREATE TABLE fresh.things (id serial PRIMARY KEY);
CREATE TABLE things (id serial PRIMARY KEY);
CREATE TYPE colour AS ENUM ('red');
CREATE FUNCTION added() RETURNS int LANGUAGE sql AS 'SELECT 1';
SELECT setval('tickets', 9999);
SELECT lo_unlink(4711), lo_from_bytea(4713, 'new'::bytea);
REVOKE SELECT ON customers FROM reader;
GRANT INSERT ON shop.orders TO reader;
ALTER DEFAULT PRIVILEGES IN SCHEMA shop GRANT INSERT ON TABLES TO reader;
DROP INDEX names_like;
DROP EXTENSION pg_trgm;
CREATE EXTENSION citext;
"""


@dataclass(frozen=True, kw_only=True)
class Postgres:
    socket: Path

    def env(self, user: str, database: str) -> dict[str, str]:
        return {"PGHOST": str(self.socket), "PGUSER": user, "PGPASSWORD": PASSWORD, "PGDATABASE": database}

    def run(self, program: str, *arguments: str, user: str = "postgres", database: str = "postgres") -> str:
        env = {"PATH": PATH, "LC_ALL": "C.UTF-8", **self.env(user, database)}
        done = subprocess.run([program, *arguments], env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout

    def sql(self, text: str, *, user: str = "postgres", database: str = "postgres") -> str:
        """Run SQL, statement by statement; what it prints, as bare lines."""
        options = ("-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1")
        return self.run("psql", *options, "-c", text, user=user, database=database).strip()

    def script(self, text: str, *, user: str, database: str) -> None:
        for statement in text.split(";\n"):
            if statement.strip():
                self.sql(statement, user=user, database=database)

    def whole(self, database: str) -> str:
        """Schema, rows, sequences, large objects, grants, and what is set for the database itself, as text."""
        text = self.run("pg_dump", "--create", database=database)
        # Newer versions of pg_dump write a random word into these two lines.
        lines = [line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]
        # Grants of the database have no order that means anything.
        return "\n".join(
            [line for line in lines if " ON DATABASE " not in line]
            + sorted(line for line in lines if " ON DATABASE " in line)
        )

    def databases(self) -> list[str]:
        return self.sql("SELECT datname FROM pg_database").splitlines()


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with folder() as place:
        data, password = place / "data", place / "password"
        password.write_text(PASSWORD)
        options = [f"--pgdata={data}", "--username=postgres", f"--pwfile={password}", "--auth=scram-sha-256"]
        subprocess.run(
            [str(PROGRAMS / "initdb"), *options, "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"],
            user=UNPRIVILEGED,
            check=True,
            capture_output=True,
        )
        found = Postgres(socket=place)
        command = [str(PROGRAMS / "postgres"), "-D", str(data), "-k", str(place), "-h", "", "-c", "fsync=off"]

        def answers() -> bool:
            env = {"PATH": PATH, "PGCONNECT_TIMEOUT": "5", **found.env("postgres", "postgres")}
            return subprocess.run(["psql", "-c", "SELECT 1"], env=env, capture_output=True, check=False).returncode == 0

        with server(command, place / "log", answers):
            for role in ("reader", "maker CREATEDB", "plain", "guest"):
                found.sql(f"CREATE ROLE {role.split()[0]} LOGIN PASSWORD '{PASSWORD}' {' '.join(role.split()[1:])}")
            yield found


numbers = itertools.count(1)


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """The name of a new database, which is not there yet; one that has to be quoted."""
    name = f'Shop {next(numbers)} "é"'
    yield name
    for left in postgres.databases():
        if left not in SYSTEM:
            postgres.sql(f"DROP DATABASE IF EXISTS {quoted(left)} WITH (FORCE)")


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def create(postgres: Postgres, database: str, user: str) -> None:
    """The database, belonging to its user; to `guest` it does not belong, and he may only make things in it."""
    owner = "postgres" if user == "guest" else user
    postgres.sql(f"CREATE DATABASE {quoted(database)} OWNER {owner}")
    if user == "guest":
        postgres.sql(f"GRANT CREATE ON DATABASE {quoted(database)} TO guest")
        postgres.sql("GRANT CREATE ON SCHEMA public TO guest", database=database)
    else:
        postgres.sql(f"ALTER DATABASE {quoted(database)} SET work_mem = '5MB'", user=user)
        postgres.sql(f"REVOKE CONNECT ON DATABASE {quoted(database)} FROM PUBLIC", user=user)
        postgres.sql(f"GRANT CONNECT ON DATABASE {quoted(database)} TO reader", user=user)


def backups(postgres: Postgres, database: str, user: str, place: Path) -> Backups:
    return Backups(engine="postgres", folder=place, env=postgres.env(user, database), path=PATH)


METHODS = [("postgres", "swap"), ("maker", "swap"), ("plain", "in-place"), ("guest", "in-place")]


@pytest.mark.parametrize(("user", "method"), METHODS)
def test_restore__gives_back_exactly_what_was(
    postgres: Postgres, database: str, tmp_path: Path, user: str, method: str
) -> None:
    """Schema, rows, rights and all: equal to before, whatever rights the app's user has; what was added is gone."""
    create(postgres, database, user)
    postgres.script(SCHEMA, user=user, database=database)
    before = postgres.whole(database)
    backup = backups(postgres, database, user, tmp_path / "backups")
    assert backup.works("check").told["method"] == method
    dumped = backup.works("dump").told
    assert dumped["id"] == backup.id
    assert int(dumped["bytes"]) == backup.file.stat().st_size > 1000
    assert dumped["sha256"] == hashlib.sha256(backup.file.read_bytes()).hexdigest()
    assert backup.file.stat().st_mode & 0o777 == 0o600
    postgres.script(DESTRUCTION, user=user, database=database)
    assert postgres.whole(database) != before
    assert backup.works("restore").told["method"] == method
    assert postgres.whole(database) == before
    assert sorted(postgres.databases()) == sorted([*SYSTEM, database])
    failed = backup.file.with_name(backup.file.name + ".failed")
    assert "fresh" in postgres.run("pg_restore", "--list", str(failed))


@pytest.mark.parametrize("user", ["maker", "plain"])
def test_restore__empty_database(postgres: Postgres, database: str, tmp_path: Path, user: str) -> None:
    """A database with nothing in it is empty again."""
    create(postgres, database, user)
    before = postgres.whole(database)
    backup = backups(postgres, database, user, tmp_path / "backups")
    backup.works("dump")
    postgres.sql("CREATE TABLE things (id int)", user=user, database=database)
    backup.works("restore")
    assert postgres.whole(database) == before


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("user", ["maker", "plain"])
def test_restore__killed_at_each_step(postgres: Postgres, database: str, tmp_path: Path, user: str) -> None:
    """Wherever a restore dies, the next one ends with the whole database and leaves nothing else behind."""
    create(postgres, database, user)
    postgres.sql("CREATE TABLE customers AS SELECT generate_series(1, 500) AS id", user=user, database=database)
    before = postgres.whole(database)
    backup = backups(postgres, database, user, tmp_path / "backups")
    backup.works("dump")
    programs = {name: str(PROGRAMS / name) for name in ("psql", "pg_dump", "pg_restore")}
    killing = replace(backup, path=f"{interrupting(tmp_path / 'programs', programs)}:{PATH}")
    killed = 0
    for step in itertools.count(1):
        postgres.sql("DROP TABLE IF EXISTS customers", user=user, database=database)
        postgres.sql("CREATE TABLE IF NOT EXISTS things (id int)", user=user, database=database)
        attempt = {"CAPMIG_ATTEMPT": str(step)}
        ran = killing.run("restore", COUNT=str(tmp_path / f"count-{step}"), KILL_AT=str(step), **attempt)
        if ran.exit_code == 0:
            break
        assert ran.exit_code == -signal.SIGKILL, ran.output
        killed += 1
        backup.works("restore", **attempt)
        assert postgres.whole(database) == before, f"killed at step {step}"
        assert database in postgres.databases()
    assert killed >= 8
    assert postgres.whole(database) == before
    assert not [name for name in postgres.databases() if name.startswith("capmig")]


def test_restore__killed_while_rows_come_in(postgres: Postgres, database: str, tmp_path: Path) -> None:
    """A restore that dies amid its work has touched nothing yet, and is simply made again."""
    create(postgres, database, "maker")
    postgres.sql("CREATE TABLE big AS SELECT n, md5(n::text) FROM generate_series(1, 300000) n", database=database)
    postgres.sql("ALTER TABLE big OWNER TO maker", database=database)
    before = postgres.whole(database)
    backup = backups(postgres, database, "maker", tmp_path / "backups")
    backup.works("dump")
    postgres.sql("DELETE FROM big", database=database)
    with backup.start("restore") as process:
        wait_for(
            "rows to come in",
            lambda: postgres.sql("SELECT 1 FROM pg_stat_activity WHERE query LIKE 'COPY public.big%FROM stdin%'"),
        )
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert postgres.sql("SELECT count(*) FROM big", database=database) == "0"
    backup.works("restore")
    assert postgres.whole(database) == before


@pytest.mark.parametrize(
    ("user", "other", "method"),
    [("maker", "maker", "swap"), ("maker", "postgres", "in-place"), ("plain", "plain", "in-place")],
)
def test_restore__while_others_hold_the_database_open(
    postgres: Postgres, database: str, tmp_path: Path, user: str, other: str, method: str
) -> None:
    """Sessions of the app's user are ended; beside those of others, which he may not end, it is restored in place."""
    create(postgres, database, user)
    postgres.sql("CREATE TABLE things AS SELECT 1 AS id", user=user, database=database)
    before = postgres.whole(database)
    backup = backups(postgres, database, user, tmp_path / "backups")
    backup.works("dump")
    postgres.sql("DROP TABLE things", user=user, database=database)
    env = {"PATH": PATH, **postgres.env(other, database)}
    with subprocess.Popen(["psql", "-X"], env=env, stdin=subprocess.PIPE, stdout=-3, stderr=-3) as client:
        quoted_name = database.replace("'", "''")
        there = f"SELECT 1 FROM pg_stat_activity WHERE datname = '{quoted_name}' AND usename = '{other}'"
        wait_for("the other client", lambda: postgres.sql(there))
        assert backup.works("restore").told["method"] == method
        client.communicate(b"\\q\n")
    assert postgres.whole(database) == before


def test_check__wrong_password(postgres: Postgres, database: str, tmp_path: Path) -> None:
    """It says that the login does not work, and does not say the password."""
    create(postgres, database, "plain")
    backup = backups(postgres, database, "plain", tmp_path / "backups")
    ran = backup.run("check", PGPASSWORD="hush-hush")
    assert ran.exit_code == 1
    assert "password authentication failed" in ran.told["error"]
    assert "hush-hush" not in ran.output


def test_check__older_client(postgres: Postgres, database: str, tmp_path: Path) -> None:
    """A client older than the server is found out, with the image that would do."""
    create(postgres, database, "plain")
    old = tmp_path / "old"
    old.mkdir()
    (old / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 11.2'\n")
    (old / "pg_dump").chmod(0o755)
    backup = replace(backups(postgres, database, "plain", tmp_path / "backups"), path=f"{old}:{PATH}")
    assert "set backup-image to postgres:" in backup.fails("check")


def test_check__no_client(postgres: Postgres, database: str, tmp_path: Path) -> None:
    """An image without the client is found out."""
    backup = replace(backups(postgres, database, "plain", tmp_path / "backups"), path="/usr/bin:/bin")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("sh", "date", "mktemp", "rm", "tr", "tail", "cut"):
        (bare / name).symlink_to(Path("/bin") / name)
    assert "no program psql" in replace(backup, path=str(bare)).fails("check")


def test_check__what_the_user_may_not_read(postgres: Postgres, database: str, tmp_path: Path) -> None:
    """A table that the app's user may not read, or that belongs to somebody else, is named before anything stops."""
    create(postgres, database, "plain")
    postgres.sql("CREATE TABLE secrets (id int)", database=database)
    backup = backups(postgres, database, "plain", tmp_path / "backups")
    assert "may not read everything: secrets" in backup.fails("check")
    postgres.sql("GRANT SELECT ON secrets TO plain", database=database)
    assert "could not restore what belongs to others: table secrets of postgres" in backup.fails("check")


def test_check__too_little_space(postgres: Postgres, database: str, tmp_path: Path) -> None:
    """A disk that is much smaller than the data is found out."""
    create(postgres, database, "plain")
    postgres.sql(
        "CREATE TABLE big AS SELECT n, repeat(md5(n::text), 9) AS t FROM generate_series(1, 20000) n",
        user="plain",
        database=database,
    )
    with small_disk(tmp_path / "disk", "1m") as disk:
        assert "too little space" in backups(postgres, database, "plain", disk).fails("check")


def test_dump__disk_full(postgres: Postgres, database: str, tmp_path: Path) -> None:
    """A disk that fills up in mid-dump: a clear end, and nothing of the dump is left."""
    create(postgres, database, "plain")
    postgres.sql(
        "CREATE TABLE big AS SELECT decode(string_agg(md5((n * 77 + m)::text), ''), 'hex') AS b "
        "FROM generate_series(1, 6000) n, generate_series(1, 77) m GROUP BY n",
        user="plain",
        database=database,
    )
    with small_disk(tmp_path / "disk", "5m") as disk:
        backup = backups(postgres, database, "plain", disk)
        backup.works("check")
        assert "No space left on device" in backup.fails("dump")
        assert list(backup.file.parent.iterdir()) == []


def test_dump__stopped(postgres: Postgres, database: str, tmp_path: Path) -> None:
    """A dump that waits for a lock ends at once when its job is stopped, and leaves no backup."""
    create(postgres, database, "plain")
    postgres.sql("CREATE TABLE things (id int)", user="plain", database=database)
    backup = backups(postgres, database, "plain", tmp_path / "backups")
    env = {"PATH": PATH, **postgres.env("plain", database)}
    with subprocess.Popen(["psql", "-X"], env=env, stdin=subprocess.PIPE, stdout=-3, text=True) as client:
        assert client.stdin is not None
        client.stdin.write("BEGIN; LOCK TABLE things;\n")
        client.stdin.flush()
        held = "SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation >= 16384"
        wait_for("the lock", lambda: postgres.sql(held, database=database))
        with backup.start("dump") as process:
            waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            wait_for("the dump to wait", lambda: postgres.sql(waits))
            process.terminate()
            process.communicate(timeout=60)
        client.communicate("\\q\n")
    assert process.returncode == 143
    assert not backup.file.exists()


def test_restore__no_such_backup(postgres: Postgres, database: str, tmp_path: Path) -> None:
    """A backup that is not there changes nothing."""
    create(postgres, database, "plain")
    assert "has no backup shop/" in backups(postgres, database, "plain", tmp_path / "backups").fails("restore")


def test_restore__broken_backup(postgres: Postgres, database: str, tmp_path: Path) -> None:
    """A file that was cut short changes nothing, either way of restoring."""
    for user in ("maker", "plain"):
        name = f"{database} {user}"
        create(postgres, name, user)
        postgres.sql(
            "CREATE TABLE big AS SELECT n, md5(n::text) FROM generate_series(1, 50000) n", user=user, database=name
        )
        before = postgres.whole(name)
        backup = backups(postgres, name, user, tmp_path / user)
        backup.works("dump")
        os.truncate(backup.file, backup.file.stat().st_size // 2)
        backup.fails("restore")
        assert postgres.whole(name) == before
        assert not [left for left in postgres.databases() if left.startswith("capmig")]
        postgres.sql(f"DROP DATABASE {quoted(name)}")


def test_prune__keeps_the_newest(tmp_path: Path) -> None:
    """The oldest go, with the failed states that belong to them; other apps' stay."""
    place = tmp_path / "backups"
    for app, day in (("shop", 1), ("shop", 2), ("shop", 3), ("shop2", 1)):
        (place / app).mkdir(parents=True, exist_ok=True)
        (place / app / f"2026010{day}T000000Z-x.dump").write_text("x" * day)
    (place / "shop" / "20260101T000000Z-x.dump.failed").write_text("x")
    backup = Backups(engine="postgres", folder=place, env={"PGDATABASE": "x"}, path=PATH)
    backup.works("prune")
    assert sorted(path.name for path in place.glob("*/*")) == [
        "20260101T000000Z-x.dump",
        "20260102T000000Z-x.dump",
        "20260103T000000Z-x.dump",
    ]
    assert backup.works("list").output.splitlines() == [
        "capmig: backup=shop/20260102T000000Z-x.dump bytes=2",
        "capmig: backup=shop/20260103T000000Z-x.dump bytes=3",
    ]


VERIFY = {"CAPMIG_VERIFY": "restore"}


@pytest.mark.parametrize("user", ["postgres", "maker"])
def test_verify__restores_beside(postgres: Postgres, database: str, tmp_path: Path, user: str) -> None:
    """Every table comes back with its rows in a database that is gone afterwards; the app's own is left alone."""
    create(postgres, database, user)
    postgres.script(SCHEMA, user=user, database=database)
    before = postgres.whole(database)
    backup = backups(postgres, database, user, tmp_path / "backups")
    backup.works("check", **VERIFY)
    ran = backup.works("dump", **VERIFY)
    assert "restored into a scratch database: 3 tables have the rows that they should have" in ran.output
    assert ran.told["sha256"] == hashlib.sha256(backup.file.read_bytes()).hexdigest()
    assert sorted(postgres.databases()) == sorted([*SYSTEM, database])
    assert postgres.whole(database) == before


def test_verify__finds_rows_that_do_not_come_back(postgres: Postgres, database: str, tmp_path: Path) -> None:
    """A backup that reads well and restores to less is none: it is not kept, nor is the scratch database."""
    create(postgres, database, "maker")
    postgres.script(SCHEMA, user="maker", database=database)
    loses = 'case "$*" in *--dbname*) exec REAL --schema-only "$@" ;; *) exec REAL "$@" ;; esac'
    path = beside(tmp_path / "programs", PATH, "pg_restore", loses)
    backup = replace(backups(postgres, database, "maker", tmp_path / "backups"), path=path)
    assert "do not have as many rows: public.customers|200" in backup.fails("dump", **VERIFY)
    assert list(backup.file.parent.iterdir()) == []
    assert sorted(postgres.databases()) == sorted([*SYSTEM, database])
    backup.works("dump")


def test_verify__counts_what_the_dump_sees(postgres: Postgres, database: str, tmp_path: Path) -> None:
    """Rows that come while the backup is made are neither in it nor missed: an app that runs goes on writing."""
    create(postgres, database, "maker")
    postgres.script(SCHEMA, user="maker", database=database)
    path = beside(tmp_path / "programs", PATH, "pg_dump", 'psql -q -c "DELETE FROM events" && exec REAL "$@"')
    backup = replace(backups(postgres, database, "maker", tmp_path / "backups"), path=path)
    backup.works("dump", **VERIFY)
    assert postgres.sql("SELECT count(*) FROM events", database=database) == "0"


@pytest.mark.parametrize("user", ["plain", "guest"])
def test_verify__needs_the_right_to_make_databases(
    postgres: Postgres, database: str, tmp_path: Path, user: str
) -> None:
    """Which is said before anything stops."""
    create(postgres, database, user)
    backup = backups(postgres, database, user, tmp_path / "backups")
    backup.works("check")
    assert "backup-verify: restore needs a user who may create databases" in backup.fails("check", **VERIFY)


def test_verify__removes_what_a_killed_job_left(postgres: Postgres, database: str, tmp_path: Path) -> None:
    """The next check finds the scratch database and drops it, whether it is to verify or not."""
    create(postgres, database, "maker")
    postgres.script(SCHEMA, user="maker", database=database)
    dies = 'case "$*" in *--dbname*) kill -KILL 0 ;; *) exec REAL "$@" ;; esac'
    path = beside(tmp_path / "programs", PATH, "pg_restore", dies)
    backup = backups(postgres, database, "maker", tmp_path / "backups")
    assert replace(backup, path=path).run("dump", **VERIFY).exit_code == -signal.SIGKILL
    assert [name for name in postgres.databases() if name.startswith("capmig_verify_")]
    backup.works("check")
    assert sorted(postgres.databases()) == sorted([*SYSTEM, database])
