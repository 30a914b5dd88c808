"""The script for SQLite: what comes back is what was."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.databases import Backups, beside, interrupting, small_disk

PROGRAMS = (
    *("sh", "awk", "cat", "chmod", "chown", "cut", "date", "df", "grep", "gzip", "head", "ls", "mkdir", "mktemp", "mv"),
    *("rm", "sed", "sha256sum", "sleep", "sort", "stat", "sync", "tail", "tr", "wc"),
)
SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE customers (id integer PRIMARY KEY AUTOINCREMENT, name text UNIQUE, picture blob);
CREATE INDEX names ON customers (name);
CREATE TRIGGER shout AFTER UPDATE ON customers BEGIN DELETE FROM customers WHERE id < 0; END;
CREATE VIEW glad AS SELECT * FROM customers;
INSERT INTO customers (name, picture) VALUES ('Zoë 客户 🙂', x'00ff'), ('b', NULL);
PRAGMA user_version = 7;
"""
DOUBLE = "INSERT INTO things SELECT value || hex(randomblob(50)) FROM things; "
# With so small a cache the changes are in the file long before they are committed.
KILLED = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1])
database.execute("PRAGMA cache_size = 2")
database.execute("UPDATE things SET value = 'lost'")
os._exit(0)
"""


def whole(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        return [*database.iterdump(), str(database.execute("PRAGMA user_version").fetchone())]


def run(path: Path, text: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "it's data" / "app.db"
    place.parent.mkdir()
    run(place, SCHEMA)
    place.chmod(0o640)
    return place


def backups(path: Path, place: Path, client: str = "sqlite3") -> Backups:
    """With a client of the two that the script knows, in an image that has nothing more than it needs."""
    name = "shop/20260102T030405Z-shop-1.sqlite.gz"
    programs = place.parent / f"programs with {client}"
    if not programs.exists():
        programs.mkdir()
        for program in (*PROGRAMS, client):
            real = os.path.realpath(sys.executable) if program == "python3" else shutil.which(program)
            (programs / program).symlink_to(str(real))
    return Backups(engine="sqlite", folder=place, env={"CAPMIG_DATABASE": str(path)}, path=str(programs), id=name)


@pytest.mark.parametrize("client", ["sqlite3", "python3"])
def test_restore__gives_back_exactly_what_was(path: Path, tmp_path: Path, client: str) -> None:
    """Schema and rows, also of a log that was not folded in; the file keeps its mode, and no old log is left."""
    backup = backups(path, tmp_path / "backups", client)
    before = whole(path)
    assert backup.works("check").told["client"].startswith(client)
    dumped = backup.works("dump").told
    assert int(dumped["bytes"]) == backup.file.stat().st_size > 100
    assert dumped["sha256"] == hashlib.sha256(backup.file.read_bytes()).hexdigest()
    assert backup.file.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in backup.file.parent.iterdir()] == [backup.file.name]
    with closing(sqlite3.connect(path)) as held:
        held.execute("DELETE FROM customers")
        held.execute("CREATE TABLE things (id)")
        held.commit()
        backup.works("restore")
    assert whole(path) == before
    assert path.stat().st_mode & 0o777 == 0o640
    assert sorted(file.name for file in backup.file.parent.iterdir()) == [
        backup.file.name,
        f"{backup.file.name}.failed",
    ]


def test_restore__killed_at_each_step(path: Path, tmp_path: Path) -> None:
    """Wherever a restore dies, the next one ends with the whole database."""
    backup = backups(path, tmp_path / "backups")
    before = whole(path)
    backup.works("dump")
    names = ("sqlite3", "gzip", "rm", "mv", "chown", "chmod", "sync", "stat")
    programs = {name: str(shutil.which(name)) for name in names}
    killing = replace(backup, path=f"{interrupting(tmp_path / 'programs', programs)}:{backup.path}")
    for step in itertools.count(1):
        run(path, "DELETE FROM customers")
        ran = killing.run("restore", COUNT=str(tmp_path / f"count-{step}"), KILL_AT=str(step))
        if ran.exit_code == 0:
            break
        assert ran.exit_code == -signal.SIGKILL, ran.output
        backup.works("restore")
        assert whole(path) == before, f"killed at step {step}"
    assert step > 10
    assert whole(path) == before


@pytest.mark.parametrize("client", ["sqlite3", "python3"])
def test_restore__empty_database(tmp_path: Path, client: str) -> None:
    """A file in which nothing was written yet is an empty database again."""
    path = tmp_path / "app.db"
    path.touch()
    backup = backups(path, tmp_path / "backups", client)
    backup.works("check")
    backup.works("dump")
    run(path, "CREATE TABLE things (id)")
    backup.works("restore")
    assert whole(path) == ["BEGIN TRANSACTION;", "COMMIT;", "(0,)"]


@pytest.mark.parametrize("client", ["sqlite3", "python3"])
def test_dump__after_a_crash(tmp_path: Path, client: str) -> None:
    """What an app that was killed left half done is not part of the backup."""
    path = tmp_path / "app.db"
    run(path, "CREATE TABLE things AS SELECT value FROM json_each(json_array(1, 2, 3)); " + DOUBLE * 10)
    before = whole(path)
    subprocess.run([sys.executable, "-c", KILLED, str(path)], check=True)
    assert path.with_name("app.db-journal").stat().st_size > 0
    backup = backups(path, tmp_path / "backups", client)
    backup.works("dump")
    run(path, "DELETE FROM things")
    backup.works("restore")
    assert whole(path) == before


def test_check__no_client(path: Path, tmp_path: Path) -> None:
    """An image with neither of the clients is found out."""
    error = backups(path, tmp_path / "backups", "true").fails("check")
    assert "neither the program sqlite3 nor Python: give one that has sqlite3, sh and gzip with backup-image" in error


def test_check__no_such_file(tmp_path: Path) -> None:
    """A path that is not there is found out."""
    assert "there is no file" in backups(tmp_path / "app.db", tmp_path / "backups").fails("check")


def test_check__no_database(tmp_path: Path) -> None:
    """A file that is something else is found out."""
    (tmp_path / "app.db").write_text("hello, hello, hello, hello, hello, hello, hello, hello, hello, hello" * 99)
    assert "cannot be read" in backups(tmp_path / "app.db", tmp_path / "backups").fails("check")


def test_dump__too_little_space(path: Path, tmp_path: Path) -> None:
    """Space for the packed copy is not enough, since it is made from an unpacked one."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("INSERT INTO customers (picture) VALUES (zeroblob(3000000))")
        database.commit()
    with small_disk(tmp_path / "disk", "2m") as disk:
        assert "too little space for a backup" in backups(path, disk).fails("check")


def test_dump__disk_full(path: Path, tmp_path: Path) -> None:
    """A disk that fills up in mid-dump: a clear end, and nothing of it is left."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("INSERT INTO customers (picture) VALUES (randomblob(3000000))")
        database.commit()
    with small_disk(tmp_path / "disk", "5m") as disk:
        backup = backups(path, disk)
        assert "the backup failed" in backup.fails("dump")
        assert list(backup.file.parent.iterdir()) == []


VERIFY = {"CAPMIG_VERIFY": "restore"}


@pytest.mark.parametrize("client", ["sqlite3", "python3"])
def test_verify__unpacks_and_compares(path: Path, tmp_path: Path, client: str) -> None:
    """The packed copy holds a whole database with the same rows, and nothing is left beside it."""
    run(path, """CREATE TABLE "od'd "" name" (id); INSERT INTO "od'd "" name" VALUES (1), (2);""")
    run(path, "CREATE VIRTUAL TABLE words USING fts5(word); INSERT INTO words VALUES ('x');")
    backup = backups(path, tmp_path / "backups", client)
    backup.works("check", **VERIFY)
    assert "tables have the rows that they should have" in backup.works("dump", **VERIFY).output
    assert [file.name for file in backup.file.parent.iterdir()] == [backup.file.name]


def test_verify__finds_rows_that_do_not_come_back(path: Path, tmp_path: Path) -> None:
    """A backup that unpacks to less is none."""
    less = tmp_path / "less"
    loses = f'REAL "$@" > {less}; [ "$1" != -dc ] || sqlite3 {less} "DELETE FROM customers"; cat {less}'
    backup = backups(path, tmp_path / "backups")
    backup = replace(backup, path=beside(tmp_path / "programs", backup.path, "gzip", loses))
    assert "do not have as many rows: customers|2" in backup.fails("dump", **VERIFY)
    assert list(backup.file.parent.iterdir()) == []
