"""Where a case is played: a CapRover of its own, an app at v1, and quick looks at the world.

Asked by the docker program, the looks would be most of a case's work.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from docker.errors import NotFound

from tests.sandbox.app import DemoApp
from tests.sandbox.caprover.client import StandIn
from tests.sandbox.caprover.store import NETWORK
from tests.sandbox.engine import run, wait_for
from tests.sandbox.sandbox import Sandbox

NEVER = 1e6  # seconds until a stand-in prunes: it would take what another case has just created
REPLICAS = 2
BACKUPS = "/var/lib/docker/volumes/capmig-backups/_data"


@dataclass(frozen=True, kw_only=True)
class Databases:
    """`template`: the name of one at schema 1, of which others are copies; dumps of it, and of a migrated copy."""

    template: str
    before: str
    migrated: str


class Slot(Sandbox):
    """The same sandbox with a CapRover of its own, since a CapRover takes one request at a time."""

    def __init__(self, sandbox: Sandbox, number: int, databases: Databases) -> None:
        super().__init__(sandbox.name, sandbox.gateway.rpartition(".")[0], len(sandbox.nodes))
        self._number = number
        self.databases = databases
        self._kept: DemoApp | None = None

    @property
    def caprover(self) -> StandIn:
        if self._caprover is None:
            data = self.folder / f"caprover-{self._number}.json"
            data.unlink(missing_ok=True)
            self._caprover = StandIn.start(
                f"unix://{self.nodes[0].socket}",
                host=self.gateway,
                data=data,
                placeholder_image=self.image("placeholder"),
                settle=0.5,
                prune_after=NEVER,
            )
        return self._caprover

    def app(self) -> DemoApp:
        """An app at v1: the one that an earlier case left as it was, or a new one."""
        app, self._kept = self._kept, None
        return app or self._new_app()

    def keep(self, app: DemoApp) -> None:
        """The app is as it was: the next case may have it."""
        self._kept = app

    def _new_app(self) -> DemoApp:
        """As DemoApp.create makes one, in a third of its time: a case needs nobody who asks for pages."""
        name = f"demo-{secrets.token_hex(3)}"
        database = name.replace("-", "_")
        self.psql(f"CREATE DATABASE {database} TEMPLATE {self.databases.template}")
        variables = {"DATABASE_URL": self.database_url(database)}
        image = self.image("v1")
        token = self.caprover.create_app(name, image, instances=0, env=variables)
        self.caprover.update_app(name, instanceCount=REPLICAS)
        app = DemoApp(place=self, name=name, service=name, database=database, token=token)
        wait_for(f"{name} to run", lambda: self.running(app) == [image] * REPLICAS)
        return app

    def remove(self, app: DemoApp) -> None:
        """Nothing is left of it."""
        self.caprover.delete_app(app.name)
        self.psql(f"DROP DATABASE {app.database} WITH (FORCE)")

    def spec(self, app: DemoApp) -> dict[str, Any]:
        """The service's raw Spec."""
        api: Any = self.docker.api
        return dict(api.inspect_service(app.service)["Spec"])

    def running(self, app: DemoApp) -> list[str]:
        """The images of its tasks that run, whatever the swarm wants of them; without digests."""
        api: Any = self.docker.api
        tasks = [task for task in api.tasks(filters={"service": app.service}) if task["Status"]["State"] == "running"]
        return sorted(task["Spec"]["ContainerSpec"]["Image"].partition("@")[0] for task in tasks)

    def left(self, app: DemoApp) -> list[str]:
        """What capmig has left in the swarm."""
        api: Any = self.docker.api
        services = [service["Spec"]["Name"] for service in api.services()]
        configs = [config["Spec"]["Name"] for config in api.configs()]
        found = [f"service {name}" for name in services if is_job_of(app, name)]
        return found + [f"config {name}" for name in configs if name == f"capmig-{app.name}"]

    def sweep(self, app: DemoApp) -> None:
        """Remove what capmig has left, backups too."""
        api: Any = self.docker.api
        for kind, name in (left.split() for left in self.left(app)):
            with suppress(NotFound):
                api.remove_service(name) if kind == "service" else api.remove_config(name)
        if self.backups(app):
            self.nodes[0].execute("rm", "-r", f"{BACKUPS}/{app.name}")

    def backups(self, app: DemoApp) -> dict[str, int]:
        """The files of its backups by name, with their sizes in bytes."""
        look = ["find", f"{BACKUPS}/{app.name}", "-type", "f", "-printf", "%f %s\n"]
        lines = run("docker", "exec", self.nodes[0].name, *look, check=False).splitlines()
        return {name: int(size) for name, size in map(str.split, lines)}

    def _in_database(self, *command: str) -> str:
        api: Any = self.docker.api
        label = f"com.docker.swarm.service.name={self.database_service}"
        (database,) = api.containers(filters={"label": label})
        asked = api.exec_create(database["Id"], list(command))
        output, words = api.exec_start(asked, demux=True)
        if api.exec_inspect(asked)["ExitCode"]:
            raise RuntimeError(f"{' '.join(command)}\n{(words or b'').decode()}")
        return (output or b"").decode()


def is_job_of(app: DemoApp, name: str) -> bool:
    return name.startswith(f"capmig-{app.name}-")


def make_databases(sandbox: Sandbox) -> Databases:
    """A database at schema 1 to be copied, and what it looks like before and after the migration."""
    app = DemoApp.create(sandbox, replicas=0)
    sandbox.caprover.delete_app(app.name)
    copy = f"{app.database}_migrated"
    sandbox.psql(f"CREATE DATABASE {copy} TEMPLATE {app.database}")
    # A sandbox that was kept may still have the image of an earlier version; the action pulls, and so must this.
    migration = ["docker", "run", "--rm", "--pull=always", f"--network={NETWORK}"]
    migration += [f"--env=DATABASE_URL={sandbox.database_url(copy)}"]
    sandbox.nodes[0].execute(*migration, sandbox.image("v2"), "--migrate-database")
    return Databases(template=app.database, before=app.dump(), migrated=sandbox.dump(copy))
