"""Where the tests deploy to: a swarm with CapRover and PostgreSQL, be it the sandbox or a server that runs already."""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from tests.sandbox.caprover.client import Client


class Manager(Protocol):
    """The swarm manager, where the database runs too."""

    def execute(self, *command: str) -> str:
        """Run a `docker` command there; its output. RuntimeError with its words if it fails."""
        ...


class Place(ABC):
    """What a test needs of wherever its apps are.

    `prefix`: what the apps' names begin with. `network`: of this machine's engine, where the action's container runs.
    `socket`: the runner's Docker socket as the action sees it; None if it is this machine's engine's.
    """

    prefix: str
    network: str
    socket: Path | None = None
    database_host: str  # the database's name in the swarm's network
    database_service: str  # and that of its service
    database_password: str

    @property
    @abstractmethod
    def manager(self) -> Manager: ...

    @property
    @abstractmethod
    def caprover(self) -> Client: ...

    @property
    @abstractmethod
    def access(self) -> Mapping[str, str]:
        """The action's inputs that reach the manager, and the registry if it wants a login."""

    @abstractmethod
    def image(self, version: str) -> str:
        """The demo app's image as the nodes know it."""

    @abstractmethod
    def clean(self) -> None:
        """Remove all apps that tests have made, their databases, and what deploys of them left."""

    def psql(self, sql: str, database: str = "postgres") -> list[list[str]]:
        """Run SQL; rows of texts, of the last statement that has any. RuntimeError with psql's words if it fails."""
        output = self._in_database("psql", "-U", "postgres", "-X", "-q", "--csv", "-t", "-d", database, "-c", sql)
        return list(csv.reader(io.StringIO(output)))

    def dump(self, database: str) -> str:
        """The whole database as SQL text: two are equal if schema and every row are."""
        output = self._in_database("pg_dump", "-U", "postgres", "-d", database)
        # Newer versions of pg_dump write a random word into these two lines.
        return "\n".join(line for line in output.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))

    def database_url(self, database: str, login: tuple[str, str] | None = None) -> str:
        """As an app in the swarm sees it, as the administrator or with another login."""
        user, password = login or ("postgres", self.database_password)
        return f"postgresql://{user}:{password}@{self.database_host}:5432/{database}"

    def drop_databases(self) -> None:
        """All that tests have made, and the users that are named like them."""
        left = self.psql("SELECT datname FROM pg_database WHERE datname NOT LIKE 'template%' AND datname <> 'postgres'")
        for (database,) in left:
            self.psql(f'DROP DATABASE "{database}" WITH (FORCE)')
            self.psql(f'DROP ROLE IF EXISTS "{database}"')

    def _in_database(self, *command: str) -> str:
        label = f"label=com.docker.swarm.service.name={self.database_service}"
        container = self.manager.execute("docker", "ps", "--quiet", "--filter", label).split()
        if not container:
            raise RuntimeError("the database is not running")
        return self.manager.execute("docker", "exec", container[0], *command)
