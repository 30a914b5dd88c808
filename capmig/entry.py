"""What the journal says: the phase of a deploy and what a successor needs, as the labels of a swarm config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from capmig.errors import NeedsPerson

FORMAT = "2"
PREFIX = "capmig."


class Phase(StrEnum):
    """Where a deploy is: written before the phase's first act."""

    PREPARING = "preparing"  # locked; nothing has been stopped
    DRAINING = "draining"
    BACKING_UP = "backing-up"
    MIGRATING = "migrating"
    MIGRATED = "migrated"
    DEPLOYING = "deploying"
    VERIFYING = "verifying"
    RESTORING = "restoring"  # the database is being brought back
    RETURNING = "returning"  # the old version is being brought back
    DOWN = "down"  # left stopped, as on-failure asks; waits for the next deploy or a person


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the journal says. Times are the manager's, in seconds since the epoch. It holds no secret."""

    app: str
    service: str
    owner: str  # the run: server, repository, run, attempt, job
    owner_url: str
    holder: str  # the process: a run's post step is another holder than its main step
    phase: Phase
    since: float
    expires: float
    image: str
    git_hash: str
    previous_image: str
    replicas: int
    on_failure: str
    spec_digest: str = ""
    job: str = ""
    job_id: str = ""  # its service's, once known: a removed one can be asked for its tasks only by that
    job_deadline: float = 0.0
    exit_code: int | None = None  # of the migration, once known
    schema: str = "unchanged"
    schema_was: str = "unchanged"  # before this deploy's migration, which another deploy may have left half done
    stamp: str = ""  # CapRover's random label before the deploy was asked for
    asked: bool = False  # CapRover was, or may have been, asked to deploy the new image
    declined: bool = False  # CapRover has declined or failed to deploy it: nothing of that is still on its way
    touched: bool = False  # a task of the app ran, or its spec was changed, while it should have been stopped
    stopped_at: float = 0.0
    reason: str = ""  # why the deploy failed, in one line
    drained_version: int = 0  # of the service once it was proven stopped: as long as it is that, no task has run since
    backup_engine: str = ""
    backup_source: str = ""  # the app's variable that names the database: the login itself is only there
    backup_target: str = ""  # the database it named, without the password, or the volumes
    backup_command: str = ""  # the user's own, shell-quoted
    restore_command: str = ""
    backup_image: str = ""
    backup_node: str = ""
    backup_timeout: float = 0.0
    backup_id: str = ""  # once the backup is made, and read back
    backup_bytes: int = 0
    backup_seconds: float = 0.0
    restores: bool = False  # restore-on-failure
    restored: bool = False
    by_hand: bool = False  # a person asked for this restore

    def labels(self) -> dict[str, str]:
        """As labels of a swarm config."""
        written = {PREFIX + name: _text(getattr(self, name)) for name in _FIELDS}
        return {PREFIX + "format": FORMAT, **written}

    @staticmethod
    def read(name: str, labels: Mapping[str, str]) -> Entry:
        """The entry in these labels. NeedsPerson when they are not a journal of this format."""
        found = {key.removeprefix(PREFIX): value for key, value in labels.items() if key.startswith(PREFIX)}
        written = found.pop("format", "")
        odd = sorted(found.keys() ^ _FIELDS.keys()) if written == FORMAT else []
        try:
            if written != FORMAT or odd:
                raise ValueError(f"format {written or 'missing'}" + (f", fields {', '.join(odd)}" if odd else ""))
            return Entry(**{key: _FIELDS[key](text) for key, text in found.items()})
        except (ValueError, TypeError) as error:
            raise NeedsPerson(
                f"The swarm config {name} is not a journal that this version of capmig can read ({error}).",
                state="Nothing was changed.",
                todo=f"Use the version of capmig that wrote it, or look at it with: docker config inspect {name}\n"
                f"If it is nobody's, remove it with: docker config rm {name}",
            ) from error


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def _bool(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


_READ_AS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "float": float,
    "int": int,
    "int | None": lambda text: int(text) if text else None,
    "bool": _bool,
    "Phase": Phase,
}
_FIELDS = {field.name: _READ_AS[str(field.type)] for field in fields(Entry)}
