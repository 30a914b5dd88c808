"""What is big: the action's container has 64 MiB of memory, whatever it backs up, restores, downloads, and reads.

CAPMIG_BIG_MB is the database's size; with 1024 it takes some minutes. With `-rP` pytest shows how long each step took.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from capmig.swarm_logs import LEFT_OUT
from tests.e2e.conftest import MakeStep
from tests.e2e.world import Before, assert_back, told
from tests.sandbox.app import DemoApp

MEGABYTES = int(os.environ.get("CAPMIG_BIG_MB", "64"))
TIMEOUT = 120 + 4 * MEGABYTES
# Nothing of it can be compressed. A row has a thousand bytes.
FILL = """
INSERT INTO big SELECT n, gen_random_bytes(1000) FROM generate_series({first}, {last}) n
"""
DIGEST = "SELECT count(*), sum(id), sum(('x' || left(md5(bytes), 15))::bit(60)::bigint) FROM big"
# A migration that commits what it destroys, and fails.
DESTROY = """
import os, psycopg
with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as database:
    database.execute("DELETE FROM big WHERE id % 2 = 0")
    database.execute("UPDATE big SET bytes = 'lost' WHERE id % 3 = 0")
    database.execute("DROP TABLE customers")
raise SystemExit(7)
"""
# A migration that prints a line for each of very many rows, 100 MB in all, and fails.
ROWS = 1_000_000
CHATTER = f"""
for n in range({ROWS}):
    print(n, "x" * 90)
print("the end of it")
raise SystemExit(1)
"""


def fill(app: DemoApp) -> None:
    app.place.psql("CREATE EXTENSION pgcrypto", app.database)
    app.place.psql("CREATE TABLE big (id int PRIMARY KEY, bytes bytea NOT NULL)", app.database)
    for megabyte in range(0, MEGABYTES, 64):
        first, last = megabyte * 1000 + 1, min(megabyte + 64, MEGABYTES) * 1000
        app.place.psql(FILL.format(first=first, last=last), app.database)


def contents(file: Path) -> str:
    """What PostgreSQL's own program finds in a file that was downloaded."""
    return subprocess.run(["pg_restore", "--list", str(file)], check=True, capture_output=True, text=True).stdout


def age(folder: Path, *command: str) -> str:
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_big__fails_and_is_restored_within_64_mib(app: DemoApp, make_step: MakeStep, tmp_path: Path) -> None:
    """Dumped, destroyed, restored, downloaded, encrypted: every row is what it was, and memory sufficed."""
    fill(app)
    before, digest = Before.of(app), app.place.psql(DIGEST, app.database)
    step = make_step(memory="64m")
    age(tmp_path, "age-keygen", "--output", "key")
    result = step.run(
        app.inputs(
            "v2",
            stable_for="1s",
            backup="auto",
            backup_download="big.dump.age",
            backup_download_key=age(tmp_path, "age-keygen", "-y", "key"),
            migrate_command=json.dumps(["-c", DESTROY]),
            migrate_entrypoint="python",
        ),
        timeout=TIMEOUT,
    )
    assert result.exit_code == 1, told(result)
    assert "The migration failed (exit code 7)." in result.log
    assert result.outputs["restored"] == "true", told(result)
    assert app.place.psql(DIGEST, app.database) == digest
    assert digest[0][0] == str(MEGABYTES * 1000)
    assert_back(before)
    assert int(result.outputs["backup-bytes"]) > MEGABYTES * 1000 * 1000
    file = step.workspace / result.outputs["backup-file"]
    age(tmp_path, "age", "--decrypt", "--identity", "key", "--output", "big.dump", str(file))
    assert (tmp_path / "big.dump").stat().st_size == int(result.outputs["backup-bytes"])
    assert "TABLE DATA public big" in contents(tmp_path / "big.dump")
    print(result.log, result.outputs)


def test_big__output_within_64_mib(app: DemoApp, make_step: MakeStep) -> None:
    """What a migration prints faster than anyone reads is shown in part, its end above all."""
    before = Before.of(app)
    step = make_step(memory="64m")
    chatter = {"migrate_command": json.dumps(["-c", CHATTER]), "migrate_entrypoint": "python"}
    result = step.run(app.inputs("v2", stable_for="1s", **chatter), timeout=TIMEOUT)
    assert result.exit_code == 1, told(result)
    shown = [line.removeprefix("  migration │ ") for line in result.log.splitlines() if "  migration │ " in line]
    assert "The migration failed (exit code 1)." in result.log
    assert shown[-2:] == [f"{ROWS - 1} {'x' * 90}", "the end of it"]
    assert LEFT_OUT in shown
    assert_back(before)
