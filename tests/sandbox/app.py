"""The demo app: made through CapRover, with a database of its own."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.sandbox.caprover.store import NETWORK
from tests.sandbox.engine import wait_for
from tests.sandbox.place import Place
from tests.sandbox.prober import Prober
from tests.sandbox.stores import STORES, Store


@dataclass(frozen=True, kw_only=True)
class DemoApp:
    """`service` is its name in the swarm; `token` its deploy token; `database` the name of its database.

    `engine`: a key of stores.STORES, that of its database.
    """

    place: Place
    name: str
    service: str
    database: str
    token: str = field(repr=False)
    engine: str = "postgres"

    @classmethod
    def create(
        cls,
        place: Place,
        *,
        name: str = "",
        version: str = "v1",
        engine: str = "postgres",
        replicas: int = 2,
        env: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> DemoApp:
        """A new app with a database migrated for this version. `settings`: fields of CapRover's definition.

        Its tasks run, and may still need a moment before they serve.
        """
        name = name or f"{place.prefix}-{secrets.token_hex(3)}"
        database = name.replace("-", "_")
        image = place.image(version)
        store = STORES[engine](place, database)
        variables = {"DATABASE_URL": store.url, **(env or {})}
        store.create()
        migration = ["docker", "run", "--rm", f"--network={NETWORK}"]
        migration += [f"--env={key}={value}" for key, value in variables.items()]
        migration += [f"--volume={each['volumeName']}:{each['containerPath']}" for each in store.volumes]
        if store.volumes:
            settings["volumes"] = store.volumes
        with ThreadPoolExecutor(1) as meanwhile:
            migrated = meanwhile.submit(place.manager.execute, *migration, image, "--migrate-database")
            # Without instances nothing starts and stops at each of CapRover's updates until there is something to run.
            token = place.caprover.create_app(name, image, instances=0, env=variables, **settings)
            migrated.result()
        legacy = place.caprover.definition(name)["isLegacyAppName"]
        service = f"srv-captain--{name}" if legacy else name
        app = cls(place=place, name=name, service=service, database=database, token=token, engine=engine)
        # CapRover may say so before it has told the swarm.
        wait_for(f"{name} to have its image", lambda: app.spec()["TaskTemplate"]["ContainerSpec"]["Image"] == image)
        if replicas:
            place.caprover.update_app(name, instanceCount=replicas)
        wait_for(f"{name} to run", lambda: app.running() == [image] * replicas)
        return app

    def wait_until_served(self) -> None:
        """Wait until whoever asks gets the page."""
        with self.prober() as prober:
            prober.wait_for(f"{self.name} to serve", lambda sample: sample.status == 200, count=5)

    def inputs(self, version: str, **more: str) -> dict[str, str]:
        """The action's inputs for a deploy of this version, as a workflow gives them; `more` has _ for -."""
        inputs = {
            "server": self.place.caprover.url,
            "app": self.name,
            "token": self.token,
            "image": self.place.image(version),
            **self.place.access,
            "migrate-command": "--migrate-database",
        }
        return inputs | {name.replace("_", "-"): value for name, value in more.items()}

    def spec(self) -> dict[str, Any]:
        """The service's raw Spec."""
        (service,) = json.loads(self.place.manager.execute("docker", "service", "inspect", self.service))
        return dict(service["Spec"])

    def replicas(self) -> int:
        """How many replicas the service wants."""
        return int(self.spec()["Mode"]["Replicated"]["Replicas"])

    def running(self) -> list[str]:
        """The images of its tasks that run, whatever the swarm wants of them; without digests."""
        command = ["docker", "service", "ps", "--no-trunc", "--format={{.Image}} {{.CurrentState}}", self.service]
        lines = self.place.manager.execute(*command).splitlines()
        return sorted(line.split()[0].partition("@")[0] for line in lines if line.split()[1] == "Running")

    def prober(self) -> Prober:
        """A new prober of this app, which the caller closes."""
        return Prober(self.place.manager, f"tasks.{self.service}", self.place.image("v1"), NETWORK)

    @property
    def store(self) -> Store:
        """Its database."""
        return STORES[self.engine](self.place, self.database)

    def rows(self) -> int:
        """How many rows its table has."""
        return int(self.store.sql("SELECT count(*) FROM customers")[0][0])

    def schema(self) -> str:
        """The schema's revision, such as 1."""
        return self.store.sql("SELECT version_num FROM alembic_version")[0][0]

    def dump(self) -> str:
        """Its whole database as text."""
        return self.store.dump()
