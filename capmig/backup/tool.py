"""The jobs that back up and restore, as specs (pure), and what their output says."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from capmig.backup.connection import Connection
from capmig.errors import Refused
from capmig.jobs import APP_LABEL, KIND_LABEL, NO_HEALTHCHECK
from capmig.ports import Node, Service, Spec

VOLUME = "capmig-backups"
FOLDER = "/backups"
SCRIPTS = Path(__file__).parent / "scripts"
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
ENDINGS = {"postgres": "dump", "mysql": "sql.gz", "mariadb": "sql.gz", "sqlite": "sqlite.gz"}


@dataclass(frozen=True, kw_only=True)
class Tool:
    """What backs a database up: its client's image, on the node whose volume holds the backups."""

    source: str  # the variable that names the database
    connection: Connection
    image: str
    node: str  # ID


@dataclass(kw_only=True)
class Told:
    """What a job has told: `capmig: NAME=VALUE …` lines, gathered as they come."""

    values: dict[str, str] = field(default_factory=dict)
    lists: list[dict[str, str]] = field(default_factory=list)

    def hear(self, lines: Sequence[str]) -> None:
        """Take in some lines of its output."""
        for line in lines:
            if not line.startswith("capmig: "):
                continue
            words = line.removeprefix("capmig: ")
            if words.startswith("error="):
                self.values["error"] = words.removeprefix("error=").strip()
                continue
            found = {name: value for name, _, value in (word.partition("=") for word in words.split())}
            self.values |= found
            self.lists.append(found)

    def number(self, name: str) -> float:
        """A number that was told; 0 if it was not."""
        text = self.values.get(name, "")
        return float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else 0.0


def program(engine: str) -> str:
    """The shell program for an engine; its first argument is check, dump, restore, list or prune."""
    name = "mysql" if engine == "mariadb" else engine
    return "\n".join((SCRIPTS / f"{part}.sh").read_text(encoding="utf-8") for part in ("common", name))


def backup_id(app: str, image: str, engine: str, now: float) -> str:
    """`APP/TIMESTAMP-IMAGE.ENDING`, of the image that the data belongs to; sorted as text they are in their order."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", image.partition("@")[0].rpartition("/")[2])[:60]
    return f"{app}/{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}-{name}.{ENDINGS[engine]}"


def registry_of(image: str) -> str:
    """The registry's host in an image's name, with its port; empty for Docker Hub."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else ""


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


def job_spec(
    service: Service,
    tool: Tool,
    *,
    app: str,
    name: str,
    action: str,
    backup: str = "",
    keep: int = 0,
    attempt: str = "",
) -> Spec:
    """A job on the backups' node and on the app's networks. Passwords are in its environment, and only there."""
    template = service.spec["TaskTemplate"]
    own = template["ContainerSpec"]
    env = {"CAPMIG_APP": app, "CAPMIG_ID": backup, "CAPMIG_KEEP": str(keep), "CAPMIG_ATTEMPT": attempt}
    env |= {**client_env(tool.connection)}
    container = {
        "Image": tool.image,
        "Command": ["/bin/sh", "-c", program(tool.connection.engine), "capmig"],
        "Args": [action],
        "Env": [f"{key}={value}" for key, value in env.items()],
        # Images whose user is not root could not write into a new volume.
        "User": "0",
        "Mounts": [{"Type": "volume", "Source": VOLUME, "Target": FOLDER}, *_files_of(service, tool.connection)],
        "Healthcheck": NO_HEALTHCHECK,
        # Certificates may be among these.
        **{key: copy.deepcopy(own[key]) for key in ("Secrets", "Configs") if own.get(key)},
    }
    return {
        "Name": name,
        "Labels": {APP_LABEL: app, KIND_LABEL: f"backup-{action}"},
        "TaskTemplate": {
            "ContainerSpec": container,
            "Networks": [{k: v for k, v in net.items() if k != "Aliases"} for net in template.get("Networks") or []],
            "Placement": {"Constraints": [f"node.id=={tool.node}"]},
            "RestartPolicy": {"Condition": "none", "MaxAttempts": 0},
            "LogDriver": {"Name": "json-file", "Options": {"max-size": "512m"}},
        },
        "Mode": {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 1}},
    }


def _files_of(service: Service, connection: Connection) -> list[dict[str, Any]]:
    """Of a database that is a file: the app's mounts, among which it is."""
    mounts = service.spec["TaskTemplate"]["ContainerSpec"].get("Mounts") or []
    return copy.deepcopy(mounts) if connection.engine == "sqlite" else []


def check_in_volume(source: str, connection: Connection, service: Service) -> None:
    """Refused unless the database's file is in a volume of the app."""
    targets = [str(mount["Target"]).rstrip("/") for mount in _files_of(service, connection)]
    if not any(connection.database.startswith(f"{target}/") for target in targets):
        where = f"{source} names the file {connection.database}, which is in none of the app's volumes"
        raise Refused([f"backup-source: {where} ({', '.join(targets) or 'it has none'}). Its path must be absolute."])


def node_of(service: Service, nodes: Sequence[Node]) -> str:
    """The ID of the one node where the app's volumes are. Refused if it may run on several."""
    constraints = service.spec["TaskTemplate"].get("Placement", {}).get("Constraints") or []
    pinned = [match[1] for match in (re.fullmatch(r"node\.id\s*==\s*(\S+)", each) for each in constraints) if match]
    found = pinned or [node.id for node in nodes]
    if len(found) != 1:
        raise Refused(
            ["backup: the app may run on several nodes, so that it is not known whose volume has its database."]
        )
    return found[0]


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
    env = {
        "PGHOST": connection.host,
        "PGPORT": connection.port,
        "PGUSER": connection.user,
        "PGPASSWORD": connection.password,
        "PGDATABASE": connection.database,
    }
    return env | {LIBPQ_OPTIONS[name]: value for name, value in connection.options.items()}
