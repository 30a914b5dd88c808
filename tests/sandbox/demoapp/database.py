"""The demo app's database, by the driver that DATABASE_URL asks for: PostgreSQL's, MariaDB's or SQLite's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import import_module
from typing import Any
from urllib.parse import unquote, urlsplit

DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "sqlite": "sqlite3"}

_url = urlsplit(os.environ["DATABASE_URL"])
_driver: Any = import_module(DRIVERS[_url.scheme])
Error: type[Exception] = _driver.Error


@contextmanager
def connected() -> Iterator[Any]:
    """A cursor, whatever the driver (PEP 249); what is done with it is committed at the end of the block."""
    with closing(_connect()) as database:
        yield database.cursor()
        database.commit()


def _connect() -> Any:
    if _url.scheme == "sqlite":
        database = _driver.connect(_url.path[1:], timeout=5)
        database.execute("PRAGMA journal_mode = WAL")
        return database
    if _url.scheme == "mysql":
        login = {"user": unquote(_url.username or ""), "password": unquote(_url.password or "")}
        return _driver.connect(host=_url.hostname, port=_url.port, database=_url.path[1:], connect_timeout=5, **login)
    return _driver.connect(os.environ["DATABASE_URL"], connect_timeout=5)
