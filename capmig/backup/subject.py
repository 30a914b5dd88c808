"""What is backed up: a database, the app's volumes, or what the user's own command writes. Pure."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from capmig.backup.connection import PORTS, Connection, find
from capmig.backup.dialects import MONGO_OPTIONS
from capmig.errors import Refused
from capmig.ports import Node, Service, Spec

INSIDE = "/capmig-volumes"  # where a job has the volumes: apart, so that none lies within another
# Connection.options under the names that libpq reads from the environment.
LIBPQ_OPTIONS = {
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "channel_binding": "PGCHANNELBINDING",
    "options": "PGOPTIONS",
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is backed up, as its jobs take it. `env` and `mounts` are what they get beside what all jobs get.

    `target` says it in words, without a secret: two that are the same have the same. `source` is the app's variable
    that names the database, and `host` its server, or they are empty. `commands`: the user's own, to back up and to
    restore.
    """

    engine: str
    target: str
    env: Mapping[str, str] = field(repr=False)
    mounts: tuple[Spec, ...] = ()
    source: str = ""
    host: str = ""
    commands: tuple[tuple[str, ...], ...] = ()

    @property
    def what(self) -> str:
        """In a sentence."""
        return {"volumes": "the app's volumes", "command": "the app's data"}.get(self.engine, "the database")


def subject_of(
    service: Service, *, engine: str, source: str = "", commands: tuple[tuple[str, ...], ...] = ()
) -> Subject:
    """What is backed up of this app. Refused when it is not there, or no job could reach it."""
    if engine == "volumes":
        return of_volumes(service)
    if engine == "command":
        return of_commands(service, commands)
    found = find(service.env, engine=engine, source=source)
    connection = found.connection
    if connection.engine == "sqlite":
        check_in_volume(found.source, connection, service)
    else:
        check_reachable(found.source, connection)
    return Subject(
        engine=connection.engine,
        target=connection.target,
        env=client_env(connection),
        mounts=tuple(_mounts(service)) if connection.engine == "sqlite" else (),
        source=found.source,
        host=connection.host,
    )


def of_volumes(service: Service) -> Subject:
    """All that outlives the app's containers and that it may write into."""
    mounts, sources = [], []
    for mount in sorted(_mounts(service), key=lambda mount: str(mount["Target"])):
        source = str(mount.get("Source") or "")
        if mount.get("Type") not in ("volume", "bind") or not source or source in sources or mount.get("ReadOnly"):
            continue
        sources.append(source)
        name = f"{len(sources)}-{re.sub(r'[^A-Za-z0-9._]+', '-', mount['Target']).strip('-')}"
        mounts.append((name, source, str(mount["Target"]), mount | {"Target": f"{INSIDE}/{name}"}))
    if not mounts:
        raise Refused(["backup: the app has no volumes (CapRover's persistent directories) to back up."])
    return Subject(
        engine="volumes",
        target=", ".join(f"{source} at {target}" for _, source, target, _ in mounts),
        env={"CAPMIG_VOLUMES": " ".join(name for name, _, _, _ in mounts), "CAPMIG_INSIDE": INSIDE},
        mounts=tuple(mount for _, _, _, mount in mounts),
    )


def of_commands(service: Service, commands: tuple[tuple[str, ...], ...]) -> Subject:
    """What the user's commands find when they have all that the app itself has."""
    return Subject(
        engine="command",
        target="what backup-command writes",
        env=dict(line.split("=", 1) for line in service.env if "=" in line),
        mounts=tuple(_mounts(service)),
        commands=commands,
    )


def _mounts(service: Service) -> list[Spec]:
    return copy.deepcopy(service.spec["TaskTemplate"]["ContainerSpec"].get("Mounts") or [])


def node_of(service: Service, nodes: Sequence[Node]) -> str:
    """The ID of the one node where the app's volumes are. Refused if it may run on several."""
    constraints = service.spec["TaskTemplate"].get("Placement", {}).get("Constraints") or []
    pinned = [match[1] for match in (re.fullmatch(r"node\.id\s*==\s*(\S+)", each) for each in constraints) if match]
    found = pinned or [node.id for node in nodes]
    if len(found) != 1:
        raise Refused(["backup: the app may run on several nodes, so that it is not known whose volume has its data."])
    return found[0]


def service_names(host: str) -> list[str]:
    """The swarm services that a database's host may be, the likeliest first."""
    name = host.removeprefix("tasks.")
    return [name, name.removeprefix("srv-captain--")] if name.startswith("srv-captain--") else [name]


def check_reachable(source: str, connection: Connection) -> None:
    """Refused when only the app's own container could reach the database."""
    for host in connection.host.split(","):
        if host in ("localhost", "::1") or host.startswith(("127.", "/", "@")):
            where = f"{source} names {host}, which is within the app's own container"
            raise Refused([f"backup-source: {where}. A backup needs a database that other containers reach too."])


def check_in_volume(source: str, connection: Connection, service: Service) -> None:
    """Refused unless the database's file is in a volume of the app."""
    targets = [str(mount["Target"]).rstrip("/") for mount in _mounts(service)]
    if not any(connection.database.startswith(f"{target}/") for target in targets):
        where = f"{source} names the file {connection.database}, which is in none of the app's volumes"
        raise Refused([f"backup-source: {where} ({', '.join(targets) or 'it has none'}). Its path must be absolute."])


def client_env(connection: Connection) -> dict[str, str]:
    """The connection as the engine's own client, or its script, takes it from the environment."""
    if connection.engine == "sqlite":
        return {"CAPMIG_DATABASE": connection.database}
    if connection.engine in ("mysql", "mariadb"):
        return {
            "CAPMIG_HOST": connection.host,
            "CAPMIG_PORT": connection.port,
            "CAPMIG_USER": connection.user,
            "CAPMIG_DATABASE": connection.database,
            "CAPMIG_SSLMODE": connection.options.get("sslmode", ""),
            "MYSQL_PWD": connection.password,
        }
    if connection.engine == "mongodb":
        return {"CAPMIG_URI": mongo_uri(connection), "CAPMIG_DATABASE": connection.database}
    env = {
        "PGHOST": connection.host,
        "PGPORT": connection.port,
        "PGUSER": connection.user,
        "PGPASSWORD": connection.password,
        "PGDATABASE": connection.database,
    }
    return env | {LIBPQ_OPTIONS[name]: value for name, value in connection.options.items()}


def mongo_uri(connection: Connection) -> str:
    """The connection as a URI that names no database. All in it but its own signs is percent-encoded."""
    hosts = connection.host.split(",")
    ports = connection.port.split(",") if "," in connection.port else [connection.port] * len(hosts)
    scheme = connection.options.get("scheme", "mongodb")
    places = []
    for host, port in zip(hosts, ports, strict=False):
        name = f"[{host}]" if ":" in host else quote(host, safe="")
        places.append(name if scheme.endswith("+srv") else f"{name}:{port or PORTS['mongodb']}")
    options = {name: value for name, value in connection.options.items() if name in MONGO_OPTIONS}
    if connection.options.get("sslmode") in ("require", "verify-ca", "verify-full"):
        options["tls"] = "true"
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in options.items())
    login = quote(connection.user, safe="") + (f":{quote(connection.password, safe='')}" if connection.password else "")
    return f"{scheme}://{login}{'@' if login else ''}{','.join(places)}/" + (f"?{query}" if query else "")
