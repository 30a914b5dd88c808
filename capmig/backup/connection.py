"""Which database an app uses, from its environment. Pure; an error names variables and never shows their values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from capmig.backup import dialects
from capmig.errors import Refused

PORTS = {"postgres": "5432", "mysql": "3306", "mariadb": "3306", "mongodb": "27017", "sqlite": ""}
OPTIONS = (
    *("sslmode", "sslrootcert", "sslcert", "sslkey", "target_session_attrs", "channel_binding", "options"),
    *("scheme", *dialects.MONGO_OPTIONS),
)
# How frameworks end the names of variables that hold one part of it each: our field → their endings.
PARTS: Mapping[str, tuple[str, ...]] = {
    "host": ("HOST", "HOSTNAME", "SERVER", "ADDR"),
    "port": ("PORT",),
    "user": ("USER", "USERNAME", "USR"),
    "password": ("PASSWORD", "PASS", "PWD", "PASSWD"),
    "database": ("DATABASE", "NAME", "DB", "DBNAME", "DATABASE_NAME", "DB_NAME"),
    "engine": ("CONNECTION", "ENGINE", "DRIVER", "ADAPTER", "DIALECT", "TYPE", "CLIENT"),
    "sslmode": ("SSLMODE", "SSL_MODE"),
}
LIBPQ = {
    "PGHOST": "host",
    "PGPORT": "port",
    "PGUSER": "user",
    "PGPASSWORD": "password",
    "PGDATABASE": "database",
    "PGSSLMODE": "sslmode",
    "PGSSLROOTCERT": "sslrootcert",
    "PGTARGETSESSIONATTRS": "target_session_attrs",
}
# Words in the name of a variable, or as the value of its ENGINE part.
ENGINE_WORDS = dict.fromkeys(("postg", "pgsql", "psql"), "postgres")
ENGINE_WORDS |= {"maria": "mariadb", "mysql": "mysql", "mongo": "mongodb"}
FILES = "For data in files there is backup: volumes."
DECIDE = "Say which variable names the database with the input backup-source."


@dataclass(frozen=True, kw_only=True)
class Connection:
    """How to reach a database. `host` and `port` may be lists with commas; of SQLite `database` is the file's path."""

    engine: str
    host: str
    port: str
    user: str
    password: str = field(repr=False)
    database: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """The database in words, without a secret: two connections to the same one have the same target."""
        return self.database if self.engine == "sqlite" else f"{self.user}@{self.host}:{self.port}/{self.database}"


@dataclass(frozen=True, kw_only=True)
class Found:
    """A connection, and the variable it comes from: of several that belong together, the one that names the host."""

    source: str
    connection: Connection


def find(env: Sequence[str], *, engine: str, source: str = "") -> Found:
    """The one database that the app's environment (NAME=value lines) names.

    `engine`: `postgres`, `mysql`, `mariadb`, `mongodb`, `sqlite` or `auto`; `source`: the variable that decides.
    Refused when none or several are found.
    """
    variables = dict(line.split("=", 1) for line in env if "=" in line)
    if source and source not in variables:
        raise Refused([f"backup-source: the app has no variable {source}. It has: {_list(variables)}."])
    candidates: dict[str, dialects.Fields] = {}
    problems = []
    for name, value in variables.items():
        try:
            fields = dialects.parse(value)
        except ValueError as error:
            problems.append(f"backup-source: {name} cannot be read: {error}.")
            continue
        if fields is not None:
            candidates[name] = _completed(name, fields, variables)
    groups = [members for members in _groups(variables) if source in members or not source]
    for members in groups:
        candidates.setdefault(next(iter(members)), _of_parts(members, variables))
    if source:
        member_of = next((next(iter(members)) for members in groups if source in members), source)
        chosen = source if source in candidates else member_of
        problems = [line for line in problems if line.startswith(f"backup-source: {source} ")]
        if chosen not in candidates:
            raise Refused(problems or [f"backup-source: the value of {source} is no way to name a database."])
        candidates = {chosen: candidates[chosen]}
    return _one(candidates, engine, problems, variables)


def _one(
    candidates: Mapping[str, dialects.Fields], engine: str, problems: list[str], variables: Mapping[str, str]
) -> Found:
    """The one that is left of these; several names of the same database are one."""
    found: list[Found] = []
    for name, fields in candidates.items():
        known = fields.get("engine") or _engine_in(name) or _by_port(fields.get("port", ""))
        if engine != "auto" and known and known != engine and {known, engine} != {"mysql", "mariadb"}:
            continue
        if not known and engine == "auto":
            problems.append(f"backup: {name} does not tell which engine it is. Say so with the input backup.")
            continue
        try:
            found.append(Found(source=name, connection=_connection(engine if engine != "auto" else known, fields)))
        except ValueError as error:
            problems.append(f"backup-source: {name} {error}.")
    different = {each.connection.target: each for each in reversed(found)}
    if len(different) > 1:
        names = ", ".join(sorted(each.source for each in found))
        raise Refused([f"backup-source: the app's environment names several databases, in {names}. {DECIDE}"])
    if not different:
        seen = f"The app's variables are: {_list(variables)}. {DECIDE} {FILES if engine == 'auto' else ''}".rstrip()
        wanted = "" if engine == "auto" else f" ({engine})"
        raise Refused(problems or [f"backup: the app's environment names no database{wanted}. {seen}"])
    return found[0]


def _connection(engine: str, fields: Mapping[str, str]) -> Connection:
    host, user = fields.get("host", ""), fields.get("user", "")
    host = fields.get("socket", "") or host
    database = fields.get("database", "") or (user if engine == "postgres" else "")
    if not database:
        raise ValueError("names no database")
    if engine not in ("sqlite", "mongodb") and not user:
        raise ValueError("names no user")
    for what, text in (("host", host), ("user", user), ("database", database)):
        if any(ord(character) < 32 or ord(character) == 127 for character in text):
            raise ValueError(f"has a control character in its {what}")
    port = fields.get("port", "") or ("" if engine == "sqlite" else PORTS[engine])
    if engine != "sqlite" and not re.fullmatch(r"[0-9]{0,5}(,[0-9]{0,5})*", port):
        raise ValueError("has a port that is no number")
    return Connection(
        engine=engine,
        host=host or ("" if engine == "sqlite" else "localhost"),
        port=port,
        user=user,
        password=fields.get("password", ""),
        database=database,
        options={key: fields[key] for key in OPTIONS if fields.get(key)},
    )


def _completed(name: str, fields: dialects.Fields, variables: Mapping[str, str]) -> dialects.Fields:
    """A URL without a login takes it from the variables beside it (SPRING_DATASOURCE_USERNAME, …_PASSWORD).

    One of MongoDB takes the database from there too (MONGO_URL, MONGO_DB).
    """
    prefix = re.sub(r"(?:JDBC_)?(?:URL|URI|DSN)$", "", name)
    if prefix == name or fields.get("engine") == "sqlite":
        return fields
    parts = ("user", "password", "database") if fields["engine"] == "mongodb" else ("user", "password")
    beside = {
        part: variables[prefix + ending]
        for part in parts
        for ending in reversed(PARTS[part])
        if prefix + ending in variables
    }
    return {**fields, **{part: value for part, value in beside.items() if not fields.get(part)}}


def _groups(variables: Mapping[str, str]) -> list[dict[str, str]]:
    """Variables that hold one part each, by their common beginning: name → part, that of the host first.

    A host makes a group only with a database beside it, so that those of mail servers and caches make none.
    """
    found = []
    libpq = {name: part for name, part in LIBPQ.items() if name in variables}
    if "PGHOST" in libpq and ("PGDATABASE" in libpq or "PGUSER" in libpq):
        found.append(libpq)
    for host in variables:
        match = re.fullmatch(r"((?:.*_)?)(HOST|HOSTNAME|SERVER|ADDR)", host)
        if match is None or not match[1]:
            continue
        group = {host: "host"}
        for part, endings in PARTS.items():
            name = next((match[1] + ending for ending in endings if match[1] + ending in variables), "")
            if name and part != "host":
                group[name] = part
        if "database" in group.values() and "user" in group.values():
            found.append(group)
    return found + _sqlite_groups(variables)


def _sqlite_groups(variables: Mapping[str, str]) -> list[dict[str, str]]:
    """Laravel's DB_CONNECTION=sqlite with DB_DATABASE=/path."""
    found = []
    for name, value in variables.items():
        match = re.fullmatch(r"(.*_)(CONNECTION|ENGINE|ADAPTER|DIALECT)", name)
        path = variables.get(f"{match[1]}DATABASE") or variables.get(f"{match[1]}NAME") if match else ""
        if match and path and "sqlite" in value.lower():
            database = f"{match[1]}DATABASE" if f"{match[1]}DATABASE" in variables else f"{match[1]}NAME"
            found.append({database: "database", name: "engine"})
    return found


def _of_parts(members: Mapping[str, str], variables: Mapping[str, str]) -> dialects.Fields:
    fields = {part: variables[name] for name, part in members.items()}
    said = fields.pop("engine", "").lower()
    engine = "sqlite" if "sqlite" in said else _engine_in(said)
    if not engine and not said:
        engine = "postgres" if "PGHOST" in members else _engine_in(next(iter(members)))
    mode = fields.pop("sslmode", "").lower()
    if mode in dialects.SSL_MODES:
        fields["sslmode"] = dialects.SSL_MODES[mode]
    return {**fields, "engine": engine}


def _engine_in(text: str) -> str:
    return next((engine for word, engine in ENGINE_WORDS.items() if word in text.lower()), "")


def _by_port(port: str) -> str:
    return {"5432": "postgres", "3306": "mysql", "27017": "mongodb"}.get(port, "")


def _list(names: Mapping[str, str]) -> str:
    shown = sorted(names)[:60]
    return ", ".join(shown) + (" …" if len(names) > 60 else "") if shown else "none"
