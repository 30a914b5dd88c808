"""The app's database as PostgreSQL in a service of its own, which jobs back up and restore."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from capmig.backup.tool import VOLUME
from capmig.jobs import KIND_LABEL
from capmig.ports import Spec
from tests.fakes.swarm import Run, app_spec
from tests.fakes.world import APP, OLD, World

SERVER = "postgres:15"


def pinned(image: str) -> str:
    """An image's name as the fake registry completes it."""
    return f"{image}@sha256:{hashlib.sha256(image.encode()).hexdigest()}"


CLIENT = pinned(SERVER)
# What a backup's file holds.
DUMP = bytes(range(250)) * 6000
TOLD = f"capmig: id=x bytes={len(DUMP)} sha256={hashlib.sha256(DUMP).hexdigest()} seconds=3"
URL = "DATABASE_URL=postgres://web:hush-hush@srv-captain--db/web"


class Database(World):
    """A world with such a database. `backups`: what each holds, by its ID; `saved`: what the last one holds; `did`: the
    jobs' actions, in their order; `jobs_do`: how the job of an action behaves, in place of the default."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**({"spec": app_spec(APP, OLD, env=[URL])} | options))
        self.backups: dict[str, int | str] = {}
        self.did: list[str] = []
        self.jobs_do: dict[str, Run] = {}
        self.swarm.images[SERVER] = Run()
        self.swarm.images[CLIENT] = self.behave
        self.swarm.direct.create_service(app_spec("srv-captain--db", SERVER, replicas=1))
        self.clock.sleep(5.0)

    def behave(self, spec: Spec) -> Run:
        """What a job of the database's client does."""
        action = spec["Labels"][KIND_LABEL].removeprefix("backup-")
        env = dict(line.split("=", 1) for line in spec["TaskTemplate"]["ContainerSpec"]["Env"])
        backup, keep = env["CAPMIG_ID"], int(env["CAPMIG_KEEP"])
        effects: dict[str, Callable[[], None]] = {
            "dump": lambda: self.save(backup),
            "restore": lambda: self.bring_back(backup),
            "prune": lambda: self.prune(keep),
        }
        output = {"dump": TOLD, "restore": "capmig: method=swap"}.get(action, "")
        run = self.jobs_do.get(action) or Run(duration=2.0, output=((1.0, output),))
        ends = effects.get(action, lambda: None)
        at = [(run.duration, ends)] if run.duration and run.exit_code == 0 else []
        return replace(run, effects=[(0.0, lambda: self.did.append(action)), *at])

    @property
    def saved(self) -> int | str | None:
        return self.backups[max(self.backups)] if self.backups else None

    def save(self, backup: str) -> None:
        self.backups[backup] = self.schema
        self.swarm.direct.files[VOLUME, backup] = DUMP

    def bring_back(self, backup: str) -> None:
        if backup not in self.backups:
            raise AssertionError(f"there is no backup {backup} to restore")
        self.schema = self.backups[backup]

    def prune(self, keep: int) -> None:
        for backup in sorted(self.backups)[: len(self.backups) - keep]:
            del self.backups[backup]
            self.swarm.direct.files.pop((VOLUME, backup), None)
