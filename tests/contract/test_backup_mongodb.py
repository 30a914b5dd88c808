"""The script for MongoDB on stand-ins of its programs: what comes back is what was. It has never met a real server."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from capmig.backup.connection import find
from capmig.backup.subject import client_env
from tests.contract.databases import Backups, interrupting
from tests.contract.mongo_stand_ins import install, read

PATH = os.environ["PATH"]
ID = "shop/20260102T030405Z-shop-1.archive.gz"
NAME = "it's\\shop"
LOGIN = "sh:op@/:p%'ss:wörd@it's\\shop"
URL = "MONGO_URL=mongodb://sh%3Aop%40%2F:p%25%27ss%3Aw%C3%B6rd@h1,h2:27018/it%27s%5Cshop?replicaSet=rs0&ssl=true"
ALL = ["find", "insert", "createCollection", "createIndex", "dropCollection"]
Change = Callable[..., None]


@pytest.fixture
def server(tmp_path: Path) -> Path:
    place = tmp_path / "server.json"
    collections = {
        "customers": {"options": {}, "documents": [{"_id": 1, "name": "Zoë 客户"}, {"_id": 2}]},
        "log": {"options": {"capped": True}, "documents": [{"_id": 3}]},
        "glad": {"options": {"viewOn": "customers"}, "documents": []},
        "system.js": {"options": {}, "documents": [{"_id": "f"}]},
    }
    privileges = [{"resource": {"db": NAME, "collection": ""}, "actions": ALL}]
    databases = {NAME: collections, "other": {"kept": {"options": {}, "documents": [{"_id": 1}]}}}
    state = {"login": LOGIN, "sharded": False, "privileges": privileges, "databases": databases}
    place.write_text(json.dumps(state))
    return place


def change(server: Path, **fields: Any) -> None:
    server.write_text(json.dumps(json.loads(server.read_text()) | fields))


def ruin(server: Path) -> None:
    """What a migration may do: remove, change and add."""
    databases = json.loads(server.read_text())["databases"]
    del databases[NAME]["log"]
    databases[NAME]["customers"]["documents"] = [{"_id": 2, "added": True}]
    databases[NAME]["added"] = {"options": {}, "documents": [{"_id": 1}]}
    change(server, databases=databases)


@pytest.fixture
def backup(server: Path, tmp_path: Path) -> Backups:
    env = {**client_env(find([URL], engine="auto").connection), "SERVER": str(server)}
    path = f"{install(tmp_path / 'programs')}:{PATH}"
    return Backups(engine="mongodb", folder=tmp_path / "backups", env=env, path=path, id=ID)


def test_restore__gives_back_exactly_what_was(backup: Backups, server: Path) -> None:
    """What was added is gone, other databases are left alone, and the failed state is kept."""
    before = read(server)
    told = backup.works("check").told
    assert told == {"method": "recreate", "server": "7.0.12"}
    made = backup.works("dump")
    assert int(made.told["bytes"]) == backup.file.stat().st_size
    assert backup.file.stat().st_mode & 0o777 == 0o600
    ruin(server)
    failed = read(server)
    assert backup.works("restore").told["method"] == "recreate"
    assert read(server) == before
    left = sorted(file.name for file in backup.file.parent.iterdir())
    assert left == [backup.file.name, f"{backup.file.name}.failed"]
    backup.file.with_name(left[1]).replace(backup.file)
    backup.works("restore")
    assert read(server) == failed


def test_restore__with_the_older_shell(backup: Backups, server: Path, tmp_path: Path) -> None:
    """The image of MongoDB 4.4 has mongo, and no mongosh."""
    older = replace(backup, path=f"{install(tmp_path / 'older', shell='mongo')}:{PATH}")
    before = read(server)
    older.works("check")
    older.works("dump")
    ruin(server)
    older.works("restore")
    assert read(server) == before


def test_restore__killed_at_each_step(backup: Backups, server: Path, tmp_path: Path) -> None:
    """Wherever a restore dies, the next one ends with what was."""
    before = read(server)
    backup.works("dump")
    failed = backup.file.with_name(f"{backup.file.name}.failed")
    names = ("mongodump", "mongorestore", "mongosh", "gzip", "rm", "mv", "sync", "od")
    programs = {name: str(shutil.which(name, path=backup.path)) for name in names}
    killing = replace(backup, path=f"{interrupting(tmp_path / 'killing', programs)}:{backup.path}")
    for step in itertools.count(1):
        failed.unlink(missing_ok=True)
        ruin(server)
        ran = killing.run("restore", COUNT=str(tmp_path / f"count-{step}"), KILL_AT=str(step))
        if ran.exit_code == 0:
            break
        assert ran.exit_code == -signal.SIGKILL, ran.output
        backup.works("restore")
        assert read(server) == before, f"killed at step {step}"
    assert step > 8
    assert read(server) == before


def test_restore__that_breaks_off_is_repeated(backup: Backups, server: Path) -> None:
    """The server goes half-way: a clear end; the half is no failed state to be kept, and the next one restores all."""
    before = read(server)
    backup.works("dump")
    ruin(server)
    failed = read(server)
    assert "mongorestore broke off half-way" in backup.fails("restore", DIES="1")
    assert read(server) != failed
    backup.works("restore")
    assert read(server) == before
    assert [path.name for path in backup.file.parent.iterdir()] == [backup.file.name]


def test_restore__of_a_broken_backup(backup: Backups, server: Path) -> None:
    """A backup that is not whole touches nothing."""
    backup.works("dump")
    ruin(server)
    failed = read(server)
    whole = backup.file.read_bytes()
    for broken in (whole[:-9], b"", gzip.compress(b"something else"), gzip.compress(gzip.decompress(whole)[:-1])):
        backup.file.write_bytes(broken)
        assert "is broken" in backup.fails("restore")
    assert read(server) == failed


def test_dump__server_gone_half_way(backup: Backups) -> None:
    """A dump that breaks off is none, and nothing of it is left."""
    assert "connection reset by peer" in backup.fails("dump", DIES="1")
    assert list(backup.file.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"login": "another:one@admin"}, "Authentication failed"),
        ({"sharded": True}, "sharded cluster"),
        (
            {"privileges": [{"resource": {"db": NAME, "collection": ""}, "actions": ["find"]}]},
            "lacks the rights insert createCollection createIndex dropCollection",
        ),
        ({"privileges": [{"resource": {"db": "other", "collection": ""}, "actions": ALL}]}, "lacks the rights find"),
        ({"privileges": [{"resource": {"db": NAME, "collection": "customers"}, "actions": ALL}]}, "lacks the rights"),
    ],
)
def test_check__what_would_not_work(backup: Backups, server: Path, fields: dict[str, Any], why: str) -> None:
    """Login, rights and the kind of server are looked at before anything stops."""
    change(server, **fields)
    assert why in backup.fails("check")


@pytest.mark.parametrize(
    "privileges",
    [
        None,
        [{"resource": {"anyResource": True}, "actions": [*ALL, "bypassDocumentValidation"]}],
        [{"resource": {"db": "", "collection": ""}, "actions": [*ALL, "bypassDocumentValidation"]}],
    ],
)
def test_check__rights_that_suffice(backup: Backups, server: Path, privileges: Any) -> None:
    """No access control, and rights on all databases; with these, rules for documents do not stand in the way."""
    databases = json.loads(server.read_text())["databases"]
    databases[NAME]["ruled"] = {"options": {"validator": {}}, "documents": [{"_id": 1}]}
    change(server, databases=databases)
    assert "lacks the rights bypassDocumentValidation" in backup.fails("check")
    change(server, privileges=privileges, login="" if privileges is None else LOGIN)
    before = read(server)
    backup.works("check")
    backup.works("dump")
    ruin(server)
    backup.works("restore")
    assert read(server) == before


def test_check__older_tools(backup: Backups) -> None:
    """Tools that take a login in arguments only are refused."""
    assert "older than 100.3" in backup.fails("check", OLD_TOOLS="1")
