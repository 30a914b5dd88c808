"""The script for MySQL and MariaDB on a real MariaDB: what comes back is what was, and failures are told."""

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

PATH = f"{os.environ['PATH']}:/usr/sbin"
PASSWORD = "pass-of-them-all"
SCHEMA = r"""
CREATE TABLE customers (
    id bigint AUTO_INCREMENT PRIMARY KEY, name varchar(100) NOT NULL UNIQUE, mood enum('glad', 'sad'), picture blob,
    paid decimal(10, 2) CHECK (paid >= 0), at timestamp NULL DEFAULT NULL, INDEX moods (mood, paid));
CREATE TABLE orders (id int AUTO_INCREMENT PRIMARY KEY, customer bigint, what json,
    FOREIGN KEY (customer) REFERENCES customers (id) ON DELETE CASCADE);
CREATE TABLE latin (word varchar(20)) CHARACTER SET latin1;
INSERT INTO customers (name, mood, picture, paid)
    SELECT concat('Zoë \t\n\\ '' 客户 🙂 ', seq), 'glad', concat(unhex(md5(seq)), x'00ff'), seq FROM seq_1_to_200;
INSERT INTO orders (customer, what) SELECT id, json_object('kind', name) FROM customers WHERE id < 50;
INSERT INTO latin VALUES ('Müller');
DELETE FROM customers WHERE id = 200;
CREATE VIEW glad AS SELECT * FROM customers WHERE mood = 'glad';
CREATE TRIGGER shout BEFORE UPDATE ON customers FOR EACH ROW SET NEW.name = upper(NEW.name);
CREATE FUNCTION twice(n int) RETURNS int DETERMINISTIC RETURN 2 * n;
CREATE PROCEDURE greet() SELECT 'hello; world';
CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY STARTS '2030-01-01' DO DELETE FROM orders WHERE id < 0;
"""
DESTRUCTION = """
DROP TABLE orders;
DELETE FROM customers WHERE id % 2 = 0;
ALTER TABLE customers DROP COLUMN picture, ADD COLUMN more int;
CREATE TABLE things (id int);
DROP VIEW glad;
DROP FUNCTION twice;
DROP EVENT nightly;
CREATE PROCEDURE added() SELECT 1;
"""


@dataclass(frozen=True, kw_only=True)
class MariaDB:
    socket: Path

    def run(self, program: str, *arguments: str, text: str = "", user: str = "root") -> str:
        command = [program, "--no-defaults", f"--socket={self.socket}", f"--user={user}"]
        env = {"PATH": PATH, "MYSQL_PWD": "" if user == "root" else PASSWORD}
        command += ["--default-character-set=utf8mb4", *arguments]
        done = subprocess.run(command, env=env, input=text, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout

    def sql(self, text: str, *, user: str = "root", database: str = "") -> str:
        arguments = ["--batch", "--skip-column-names", *([f"--database={database}"] if database else [])]
        return self.run("mariadb", *arguments, text=text, user=user).strip()

    def whole(self, database: str) -> str:
        """Schema, rows, routines, events, counters and character sets as text."""
        options = ("--routines", "--triggers", "--events", "--hex-blob", "--skip-dump-date")
        return self.run("mariadb-dump", *options, "--databases", database)


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDB]:
    with folder() as place:
        data, socket = place / "data", place / "socket"
        options = ["--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
        subprocess.run(
            ["mariadb-install-db", *options, "--skip-test-db"], user=UNPRIVILEGED, check=True, capture_output=True
        )
        command = ["/usr/sbin/mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={socket}"]
        command += ["--skip-networking", f"--pid-file={place / 'pid'}", "--innodb-flush-log-at-trx-commit=0"]
        found = MariaDB(socket=socket)

        def answers() -> bool:
            try:
                return found.sql("SELECT 1") == "1"
            except RuntimeError:
                return False

        with server(command, place / "log", answers):
            found.sql("DELETE FROM mysql.global_priv WHERE user = ''; FLUSH PRIVILEGES")
            found.sql(f"CREATE USER app@'%' IDENTIFIED BY '{PASSWORD}'")
            yield found


numbers = itertools.count(1)


@pytest.fixture
def database(mariadb: MariaDB) -> Iterator[str]:
    """A new database that belongs to the app's user; with a name that has to be quoted."""
    name = f"shop-{next(numbers)} `"
    mariadb.sql(f"CREATE DATABASE {quoted(name)} CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci")
    mariadb.sql(f"GRANT ALL ON {quoted(name)}.* TO app@'%'")
    yield name
    mariadb.sql(f"DROP DATABASE IF EXISTS {quoted(name)}")


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def backups(mariadb: MariaDB, database: str, place: Path) -> Backups:
    env = {"CAPMIG_HOST": str(mariadb.socket), "CAPMIG_PORT": "3306", "CAPMIG_USER": "app"}
    env |= {"CAPMIG_DATABASE": database, "MYSQL_PWD": PASSWORD}
    return Backups(engine="mariadb", folder=place, env=env, path=PATH, id="shop/20260102T030405Z-shop-1.sql.gz")


def test_restore__gives_back_exactly_what_was(mariadb: MariaDB, database: str, tmp_path: Path) -> None:
    """Schema, rows, triggers, routines, events: equal to before; what was added is gone."""
    mariadb.sql(SCHEMA, user="app", database=database)
    before = mariadb.whole(database)
    backup = backups(mariadb, database, tmp_path / "backups")
    backup.works("check")
    dumped = backup.works("dump").told
    assert int(dumped["bytes"]) == backup.file.stat().st_size > 1000
    assert dumped["sha256"] == hashlib.sha256(backup.file.read_bytes()).hexdigest()
    assert backup.file.stat().st_mode & 0o777 == 0o600
    mariadb.sql(DESTRUCTION, user="app", database=database)
    assert mariadb.whole(database) != before
    backup.works("restore")
    assert mariadb.whole(database) == before
    assert backup.file.with_name(backup.file.name + ".failed").stat().st_size > 500


def test_restore__empty_database(mariadb: MariaDB, database: str, tmp_path: Path) -> None:
    """A database with nothing in it is empty again, with its character set."""
    before = mariadb.whole(database)
    backup = backups(mariadb, database, tmp_path / "backups")
    backup.works("dump")
    mariadb.sql(
        f"CREATE TABLE things (id int); ALTER DATABASE {quoted(database)} CHARACTER SET latin1", database=database
    )
    backup.works("restore")
    assert mariadb.whole(database) == before


@pytest.mark.timeout(600)
def test_restore__killed_at_each_step(mariadb: MariaDB, database: str, tmp_path: Path) -> None:
    """Wherever a restore dies, the next one ends with the whole database."""
    mariadb.sql("CREATE TABLE customers AS SELECT seq FROM seq_1_to_500", user="app", database=database)
    before = mariadb.whole(database)
    backup = backups(mariadb, database, tmp_path / "backups")
    backup.works("dump")
    programs = {name: f"/usr/bin/{name}" for name in ("mariadb", "mariadb-dump", "gzip")}
    killing = replace(backup, path=f"{interrupting(tmp_path / 'programs', programs)}:{PATH}")
    killed = 0
    for step in itertools.count(1):
        mariadb.sql("DROP TABLE IF EXISTS customers; CREATE TABLE IF NOT EXISTS things (id int)", database=database)
        ran = killing.run("restore", COUNT=str(tmp_path / f"count-{step}"), KILL_AT=str(step))
        if ran.exit_code == 0:
            break
        assert ran.exit_code == -signal.SIGKILL, ran.output
        killed += 1
        backup.works("restore")
        assert mariadb.whole(database) == before, f"killed at step {step}"
    assert killed >= 5
    assert mariadb.whole(database) == before


def test_restore__while_the_app_holds_the_database_open(mariadb: MariaDB, database: str, tmp_path: Path) -> None:
    """A session of the app's user that has a table locked is ended."""
    mariadb.sql("CREATE TABLE things AS SELECT 1 AS id", user="app", database=database)
    before = mariadb.whole(database)
    backup = backups(mariadb, database, tmp_path / "backups")
    backup.works("dump")
    mariadb.sql("DELETE FROM things", user="app", database=database)
    command = ["mariadb", "--no-defaults", f"--socket={mariadb.socket}", "--user=app", f"--database={database}"]
    command += ["--execute", "BEGIN; SELECT * FROM things; SELECT sleep(600)"]
    env = {"PATH": PATH, "MYSQL_PWD": PASSWORD}
    with subprocess.Popen(command, env=env, stdout=-3, stderr=-3) as client:
        wait_for("the lock", lambda: "sleep(600)" in mariadb.sql("SHOW FULL PROCESSLIST"))
        backup.works("restore")
        client.wait(timeout=60)
    assert mariadb.whole(database) == before


def test_check__wrong_password(mariadb: MariaDB, database: str, tmp_path: Path) -> None:
    """It says that the login does not work, and does not say the password."""
    ran = backups(mariadb, database, tmp_path / "backups").run("check", MYSQL_PWD="hush-hush")
    assert ran.exit_code == 1
    assert "Access denied for user 'app'" in ran.told["error"]
    assert "hush-hush" not in ran.output


def test_check__what_belongs_to_others(mariadb: MariaDB, database: str, tmp_path: Path) -> None:
    """A view that another user made could not be made again."""
    mariadb.sql("CREATE VIEW one AS SELECT 1", database=database)
    error = backups(mariadb, database, tmp_path / "backups").fails("check")
    assert "could not restore what belongs to others: view one of root@localhost" in error


def test_check__other_client(mariadb: MariaDB, database: str, tmp_path: Path) -> None:
    """A client that is older than the server, or of the other kind, is found out."""
    for version, words in (("Ver 15.1 Distrib 10.3.9-MariaDB", "is older than"), ("Ver 8.0.36", "is MySQL's")):
        old = tmp_path / words
        old.mkdir()
        (old / "mariadb").write_text(
            f'#!/bin/sh\n[ "$1" != --version ] || exec echo "mysql  {version}"\nexec /usr/bin/mariadb "$@"\n'
        )
        (old / "mariadb").chmod(0o755)
        backup = replace(backups(mariadb, database, tmp_path / "backups"), path=f"{old}:{PATH}")
        assert words in backup.fails("check")


def test_dump__disk_full(mariadb: MariaDB, database: str, tmp_path: Path) -> None:
    """A disk that fills up in mid-dump: a clear end, and nothing of the dump is left."""
    mariadb.sql(
        "CREATE TABLE big AS SELECT unhex(sha2(seq, 512)) AS b FROM seq_1_to_60000", user="app", database=database
    )
    with small_disk(tmp_path / "disk", "3m") as disk:
        backup = backups(mariadb, database, disk)
        assert "No space left on device" in backup.fails("dump")
        assert list(backup.file.parent.iterdir()) == []


def test_restore__broken_backup(mariadb: MariaDB, database: str, tmp_path: Path) -> None:
    """A file that was cut short changes nothing."""
    mariadb.sql("CREATE TABLE big AS SELECT seq, md5(seq) FROM seq_1_to_9999", user="app", database=database)
    before = mariadb.whole(database)
    backup = backups(mariadb, database, tmp_path / "backups")
    backup.works("dump")
    os.truncate(backup.file, backup.file.stat().st_size // 2)
    assert "is broken" in backup.fails("restore")
    assert mariadb.whole(database) == before


VERIFY = {"CAPMIG_VERIFY": "restore"}


@pytest.fixture
def may_verify(mariadb: MariaDB) -> Iterator[None]:
    """The app's user may make databases beside its own, and no events there: these would run."""
    mariadb.sql(r"GRANT ALL ON `capmig\_verify\_%`.* TO app@'%'; REVOKE EVENT ON `capmig\_verify\_%`.* FROM app@'%'")
    yield
    mariadb.sql(r"REVOKE ALL ON `capmig\_verify\_%`.* FROM app@'%'")
    assert scratch(mariadb) == ""


def scratch(mariadb: MariaDB) -> str:
    return mariadb.sql("SHOW DATABASES LIKE 'capmig%'")


@pytest.mark.usefixtures("may_verify")
def test_verify__restores_beside(mariadb: MariaDB, database: str, tmp_path: Path) -> None:
    """Every table comes back with its rows in a database that is gone afterwards; the app's own is left alone."""
    mariadb.sql(SCHEMA, user="app", database=database)
    before = mariadb.whole(database)
    backup = backups(mariadb, database, tmp_path / "backups")
    backup.works("check", **VERIFY)
    ran = backup.works("dump", **VERIFY)
    assert "restored into a scratch database: 3 tables have the rows that they should have" in ran.output
    assert mariadb.whole(database) == before
    assert scratch(mariadb) == ""


@pytest.mark.usefixtures("may_verify")
def test_verify__finds_rows_that_do_not_come_back(mariadb: MariaDB, database: str, tmp_path: Path) -> None:
    """A backup that reads well and restores to less is none: it is not kept, nor is the scratch database."""
    mariadb.sql(SCHEMA, user="app", database=database)
    path = beside(tmp_path / "programs", PATH, "gzip", """REAL "$@" | sed '/^INSERT INTO `orders`/,/;$/d'""")
    backup = replace(backups(mariadb, database, tmp_path / "backups"), path=path)
    assert "do not have as many rows: orders 49" in backup.fails("dump", **VERIFY)
    assert list(backup.file.parent.iterdir()) == []


@pytest.mark.usefixtures("may_verify")
def test_verify__leaves_out_what_others_write(mariadb: MariaDB, database: str, tmp_path: Path) -> None:
    """A table that has changed since the dump cannot be compared; the others are."""
    mariadb.sql(SCHEMA, user="app", database=database)
    delete = f"mariadb --no-defaults --socket={mariadb.socket} --user=root --execute='DELETE FROM latin' '{database}'"
    path = beside(tmp_path / "programs", PATH, "mariadb-dump", f'REAL "$@" && MYSQL_PWD= {delete}')
    backup = replace(backups(mariadb, database, tmp_path / "backups"), path=path)
    assert "2 tables have the rows" in backup.works("dump", **VERIFY).output
    assert mariadb.sql("SELECT count(*) FROM latin", database=database) == "0"


def test_verify__needs_the_right_to_make_databases(mariadb: MariaDB, database: str, tmp_path: Path) -> None:
    """Which is said before anything stops, with what to grant."""
    backup = backups(mariadb, database, tmp_path / "backups")
    backup.works("check")
    assert r"GRANT ALL ON `capmig\_verify\_%`.*" in backup.fails("check", **VERIFY)


@pytest.mark.usefixtures("may_verify")
def test_verify__removes_what_a_killed_job_left(mariadb: MariaDB, database: str, tmp_path: Path) -> None:
    """The next check drops the scratch database, and can make one of its own."""
    mariadb.sql(SCHEMA, user="app", database=database)
    path = beside(
        tmp_path / "programs", PATH, "sed", 'case "$*" in *Dumping*) sleep 1; kill -KILL 0 ;; esac; exec REAL "$@"'
    )
    backup = backups(mariadb, database, tmp_path / "backups")
    assert replace(backup, path=path).run("dump", **VERIFY).exit_code == -signal.SIGKILL
    assert scratch(mariadb).startswith("capmig_verify_")
    backup.works("check", **VERIFY)
