"""The demo app's migrations, run by Alembic."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from alembic import command
from alembic.config import Config

from . import database


def migrate(schema: str, behaviour: str) -> None:
    """Bring the database to this schema, or misbehave on the way as the version is meant to."""
    print(f"migrating to schema {schema}", flush=True)
    if behaviour == "fails-early":
        sys.exit("demo: this migration fails before it changes anything")
    for second in range(int(os.environ.get("DEMO_MIGRATION_SECONDS", "0"))):
        print(f"second {second + 1}", flush=True)
        time.sleep(1)
    if behaviour in ("fails", "hangs"):
        with database.connected() as cursor:
            cursor.execute("DELETE FROM customers WHERE id % 2 = 0")
            lost = cursor.rowcount
            for statement in filter(str.strip, os.environ.get("DEMO_DESTRUCTION", "").split(";")):
                cursor.execute(statement)
        print(f"deleted {lost} rows", flush=True)
        if behaviour == "hangs":
            while True:
                time.sleep(60)
        sys.exit("demo: this migration fails half-way")
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "schemas"))
    command.upgrade(config, schema)
    print(f"the database is at schema {schema}", flush=True)
