"""The demo app's migrations, run by Alembic."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config


def current(database: psycopg.Connection) -> str:
    """The revision that the database is at."""
    row = database.execute("SELECT version_num FROM alembic_version").fetchone()
    return str(row[0]) if row else ""


def migrate(schema: str, behaviour: str) -> None:
    """Bring the database to this schema, or misbehave on the way as the version is meant to."""
    print(f"migrating to schema {schema}", flush=True)
    if behaviour == "fails-early":
        sys.exit("demo: this migration fails before it changes anything")
    for second in range(int(os.environ.get("DEMO_MIGRATION_SECONDS", "0"))):
        print(f"second {second + 1}", flush=True)
        time.sleep(1)
    if behaviour in ("fails", "hangs"):
        with psycopg.connect(os.environ["DATABASE_URL"]) as database:
            lost = database.execute("DELETE FROM customers WHERE id % 2 = 0").rowcount
        print(f"deleted {lost} rows", flush=True)
        if behaviour == "hangs":
            while True:
                time.sleep(60)
        sys.exit("demo: this migration fails half-way")
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "schemas"))
    command.upgrade(config, schema)
    print(f"the database is at schema {schema}", flush=True)
