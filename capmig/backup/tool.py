"""The jobs that back up and restore, as specs (pure), and what their output says."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from capmig.backup.subject import Subject
from capmig.jobs import APP_LABEL, KIND_LABEL, NO_HEALTHCHECK
from capmig.ports import ONE_TASK, Service, Spec

VOLUME = "capmig-backups"
FOLDER = "/backups"
SCRIPTS = Path(__file__).parent / "scripts"
ENDINGS = {
    "postgres": "dump",
    "mysql": "sql.gz",
    "mariadb": "sql.gz",
    "mongodb": "archive.gz",
    "sqlite": "sqlite.gz",
    "volumes": "tar.gz",
    "command": "data.gz",
}
# Seconds that a job waits before it ends, more than pass between two looks at its output: CapRover's prune may take its
# container, and the output with it, as soon as it has ended.
LINGER = "2"
# Whose backups can be restored into a scratch database.
VERIFIED = ("postgres", "mysql", "mariadb", "sqlite")


@dataclass(frozen=True, kw_only=True)
class Tool:
    """What backs the subject up: an image that has what it takes, on the node whose volume holds the backups."""

    subject: Subject
    image: str
    node: str  # ID
    verifies: bool = False  # restores each backup into a scratch database


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


def program(engine: str, commands: Sequence[Sequence[str]] = ()) -> str:
    """The shell program for an engine; its first argument is check, dump, restore, list or prune.

    `commands`: the user's, to back up and to restore; they become functions, with every word quoted.
    """
    name = "mysql" if engine == "mariadb" else engine
    common, script = ((SCRIPTS / f"{part}.sh").read_text(encoding="utf-8") for part in ("common", name))
    functions = [
        # `exec`, so that neither a function of the script's nor a word of the shell's stands in its place.
        f"{function}() {{ ( umask 022; exec {' '.join(map(_quoted, words))} ); }}\n{function}_is={_quoted(words[0])}\n"
        for function, words in zip(("backup_command", "restore_command"), commands, strict=False)
    ]
    return "\n".join([common, *functions, script])


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def backup_id(app: str, image: str, engine: str, now: float) -> str:
    """`APP/TIMESTAMP-IMAGE.ENDING`, of the image that the data belongs to; sorted as text they are in their order."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", image.partition("@")[0].rpartition("/")[2])[:60]
    return f"{app}/{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}-{name}.{ENDINGS[engine]}"


def registry_of(image: str) -> str:
    """The registry's host in an image's name, with its port; empty for Docker Hub."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else ""


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
    ours = {"CAPMIG_APP": app, "CAPMIG_ID": backup, "CAPMIG_KEEP": str(keep), "CAPMIG_ATTEMPT": attempt}
    ours["CAPMIG_LINGER"] = LINGER
    ours["CAPMIG_VERIFY"] = "restore" if tool.verifies else "read"
    env = {**tool.subject.env, **ours}
    container = {
        "Image": tool.image,
        "Command": ["/bin/sh", "-c", program(tool.subject.engine, tool.subject.commands), "capmig"],
        "Args": [action],
        "Env": [f"{key}={value}" for key, value in env.items()],
        # Images whose user is not root could not write into a new volume.
        "User": "0",
        "Mounts": [{"Type": "volume", "Source": VOLUME, "Target": FOLDER}, *_mounts(tool.subject, action)],
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
        "Mode": ONE_TASK,
    }


def _mounts(subject: Subject, action: str) -> list[Spec]:
    mounts = copy.deepcopy(list(subject.mounts))
    if subject.engine == "volumes" and action != "restore":
        return [mount | {"ReadOnly": True} for mount in mounts]
    return mounts
