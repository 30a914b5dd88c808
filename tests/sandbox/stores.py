"""The demo app's database, in each of the engines that it can use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tests.sandbox.mariadb import MARIADB_SERVICE
from tests.sandbox.mariadb import MariaDB as Server
from tests.sandbox.place import Place
from tests.sandbox.sandbox import Sandbox

SQLITE = """
import json, sqlite3, sys
database = sqlite3.connect("/data/app.db", timeout=30)
if sys.argv[1:]:
    database.executescript(sys.argv[1].rpartition(";")[0])
    rows = database.execute(sys.argv[1].rpartition(";")[2]).fetchall()
    database.commit()
else:
    rows = [[line] for line in database.iterdump()] + database.execute("PRAGMA user_version").fetchall()
print(json.dumps([[str(value) for value in row] for row in rows]))
"""


class Store(Protocol):
    """The database of one app."""

    @property
    def url(self) -> str:
        """As the app sees it."""
        ...

    @property
    def volumes(self) -> Sequence[dict[str, str]]:
        """What CapRover has to mount into the app for it."""
        ...

    def create(self) -> None: ...

    def sql(self, text: str) -> list[list[str]]:
        """Run statements with the rights of the app; rows of texts, of the last one that has any."""
        ...

    def dump(self) -> str:
        """All of it as text: two are equal if schema, rights and every row are."""
        ...


@dataclass(frozen=True)
class Postgres:
    """The app's user is the administrator."""

    place: Place
    name: str
    volumes: Sequence[dict[str, str]] = ()

    @property
    def url(self) -> str:
        return self.place.database_url(self.name)

    def create(self) -> None:
        self.place.psql(f"CREATE DATABASE {self.name}")

    def sql(self, text: str) -> list[list[str]]:
        return self.place.psql(text, self.name)

    def dump(self) -> str:
        return self.place.dump(self.name)


class PlainPostgres(Postgres):
    """The app's user is named like its database, which he owns; he may make no other."""

    @property
    def url(self) -> str:
        return self.place.database_url(self.name, (self.name, f"pass-of-{self.name}"))

    def create(self) -> None:
        self.place.psql(f"CREATE ROLE {self.name} LOGIN PASSWORD 'pass-of-{self.name}'")
        self.place.psql(f"CREATE DATABASE {self.name} OWNER {self.name}")

    def sql(self, text: str) -> list[list[str]]:
        return super().sql(f"SET ROLE {self.name}; {text}")


@dataclass(frozen=True)
class MariaDB:
    """The app's user is named like its database, and may do everything in that one only."""

    place: Place
    name: str
    volumes: Sequence[dict[str, str]] = ()

    @property
    def url(self) -> str:
        return f"mysql://{self.name}:pass-of-{self.name}@{MARIADB_SERVICE}:3306/{self.name}"

    def create(self) -> None:
        server = self._server
        server.sql(f"CREATE DATABASE {self.name} CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci")
        server.sql(f"CREATE USER {self.name}@'%' IDENTIFIED BY 'pass-of-{self.name}'")
        server.sql(f"GRANT ALL ON {self.name}.* TO {self.name}@'%'")

    @property
    def _server(self) -> Server:
        if not isinstance(self.place, Sandbox):
            raise TypeError("MariaDB is in the sandbox only")
        return self.place.mariadb

    def sql(self, text: str) -> list[list[str]]:
        return self._server.sql(text, database=self.name, login=(self.name, f"pass-of-{self.name}"))

    def dump(self) -> str:
        return self._server.dump(self.name)


@dataclass(frozen=True)
class SQLite:
    """A file in a volume of the app."""

    place: Place
    name: str

    @property
    def url(self) -> str:
        return "sqlite:////data/app.db"

    @property
    def volumes(self) -> Sequence[dict[str, str]]:
        return ({"containerPath": "/data", "volumeName": f"captain--{self.name}"},)

    def create(self) -> None:
        """The app makes it."""

    def sql(self, text: str) -> list[list[str]]:
        return self._run(text)

    def dump(self) -> str:
        return "\n".join(line for (line,) in self._run())

    def _run(self, *arguments: str) -> list[list[str]]:
        command = ["docker", "run", "--rm", f"--volume=captain--{self.name}:/data", "--entrypoint=python"]
        command += [self.place.image("v1"), "-c", SQLITE, *arguments]
        rows: list[list[str]] = json.loads(self.place.manager.execute(*command))
        return rows


STORES: dict[str, type[Postgres] | type[MariaDB] | type[SQLite]] = {
    "postgres": Postgres,
    "plain-postgres": PlainPostgres,
    "mariadb": MariaDB,
    "sqlite": SQLite,
}
