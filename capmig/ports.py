"""The edges as the deploy sees them, and the values that cross them. Real ones: swarm.py, caprover.py, main.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

Spec = dict[str, Any]

# Docker's TaskState: the states from which a task never runs again.
TERMINAL = frozenset({"complete", "failed", "shutdown", "rejected", "orphaned", "remove"})


@dataclass(frozen=True, kw_only=True)
class Service:
    """A swarm service as last read; `spec` is the raw Spec and is never changed in place."""

    id: str
    name: str
    version: int
    spec: Spec
    update_state: str = ""
    update_message: str = ""

    @property
    def image(self) -> str:
        return str(self.spec["TaskTemplate"]["ContainerSpec"]["Image"])

    @property
    def replicas(self) -> int | None:
        """Wanted replicas; None for a service that is not in replicated mode."""
        mode = self.spec.get("Mode", {})
        return int(mode["Replicated"].get("Replicas", 1)) if "Replicated" in mode else None

    @property
    def env(self) -> list[str]:
        return list(self.spec["TaskTemplate"]["ContainerSpec"].get("Env") or [])

    @property
    def stamp(self) -> str:
        """The random label that CapRover writes anew with each of its updates; empty if there is none."""
        labels = self.spec["TaskTemplate"]["ContainerSpec"].get("Labels") or {}
        return str(labels.get("randomLabelForceUpdate", ""))


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task. `created`: RFC 3339 text of the manager, comparable as text among tasks of one swarm."""

    id: str
    service_id: str
    node_id: str
    slot: int
    state: str
    desired: str
    image: str
    created: str
    error: str = ""
    exit_code: int | None = None
    container_id: str = ""

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL


@dataclass(frozen=True, kw_only=True)
class Node:
    id: str
    hostname: str
    ready: bool
    active: bool
    manager: bool
    labels: Mapping[str, str]
    platform: str  # "linux/x86_64", as the node reports it


@dataclass(frozen=True, kw_only=True)
class Config:
    """A swarm config as last read; capmig's journal lives in the labels of one."""

    id: str
    name: str
    version: int
    labels: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Engine:
    """The connected engine. `swarm`: 'active' for a member; `time`: its clock, seconds since the epoch."""

    node_id: str
    swarm: str
    manager: bool
    api_version: str
    time: float


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line of a job's output. `stamp`: RFC 3339 with nanoseconds; lines of one task are ordered by it."""

    stamp: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Of an image registry."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"Credentials({self.username!r}, …)"


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file that comes over the link. `size` in bytes; `pieces`: what is in it, once, as it comes."""

    size: int
    pieces: Iterator[bytes]


# The Mode of a job's service: with one task, which runs once, and with none.
ONE_TASK: Spec = {"ReplicatedJob": {"MaxConcurrent": 1, "TotalCompletions": 1}}
NO_TASK: Spec = {"ReplicatedJob": {"MaxConcurrent": 0, "TotalCompletions": 0}}


class Swarm(Protocol):
    """The swarm manager.

    Every call takes at most 20 s (a third of the lease). Reads are retried over a lost link and raise LinkLost when
    that does not help. Mutations are sent once: LinkLost when nothing was sent, FateUnknown when it may have taken
    effect, Conflict, Exists, or EngineRefused with the engine's own words.
    """

    def engine(self) -> Engine: ...

    def service(self, name: str) -> Service | None: ...

    def services(self, label: str) -> list[Service]:
        """All services with this label (`key` or `key=value`)."""
        ...

    def create_service(self, spec: Spec, credentials: Credentials | None = None) -> None: ...

    def update_service(self, service: Service, spec: Spec) -> None:
        """Compare-and-swap on `service.version`; keeps the stored pull credentials."""
        ...

    def remove_service(self, service: Service) -> None:
        """Remove by ID; a service that is gone already is no error."""
        ...

    def tasks(self, service: Service) -> list[Task]: ...

    def logs(self, service: Service, since: str = "") -> list[LogLine]:
        """What the service's tasks have printed after the stamp `since`, oldest first; never waits for more."""
        ...

    def nodes(self) -> list[Node]: ...

    def resolve(self, image: str, credentials: Credentials | None = None) -> str:
        """The digest that the image's registry gives for it; EngineRefused with the registry's reason."""
        ...

    def stop_containers(self, service: Service, grace: float) -> int:
        """Ask the connected node to stop the running containers of the service, with `grace` seconds each; how many.

        Only a help to be quick: containers elsewhere, and errors for a container that is gone, are no concern of it.
        """
        ...

    def file_of_volume(self, volume: str, path: str, *, image: str, name: str) -> AbstractContextManager[RemoteFile]:
        """A file of a volume on the connected node, with constant memory; the one call that may last for long.

        It is read through a container of this name and image, which is never started and is removed at the end.
        LinkLost when it breaks off or nothing comes for 30 s, EngineRefused when there is no such image or file.
        """
        ...

    def config(self, name: str) -> Config | None: ...

    def create_config(self, name: str, labels: Mapping[str, str]) -> None:
        """Exactly one of several creators wins; Exists for the others."""
        ...

    def update_config(self, config: Config, labels: Mapping[str, str]) -> None:
        """Replace the labels; compare-and-swap on `config.version`."""
        ...

    def remove_config(self, config: Config) -> None:
        """Remove by ID; one that is gone already is no error."""
        ...


@dataclass(frozen=True, kw_only=True)
class BuildState:
    """CapRover's own word on an app's build, as far as this login may know it."""

    building: bool
    failed: bool
    lines: Sequence[str]


class CapRover(Protocol):
    """CapRover's API. Every call takes at most 15 s."""

    def deploy(self, image: str, git_hash: str) -> None:
        """Ask for a deploy (`detached=1`); returns once it is accepted.

        CapRoverBusy: it did not act, try again. CapRoverRefused: it will not. FateUnknown: look at the swarm.
        """
        ...

    def build(self) -> BuildState | None:
        """None where an app token is all there is: it may not ask. CapRoverBusy when it cannot be asked now."""
        ...


class Clock(Protocol):
    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class Log(Protocol):
    """Where a reader follows the deploy (actions.Reporter on a runner)."""

    def step(self, title: str) -> None:
        """Begin a step: folds the lines that follow under this present-tense title."""
        ...

    def info(self, text: str) -> None: ...

    def notice(self, text: str) -> None: ...

    def warning(self, text: str) -> None: ...

    def output_of(self, source: str, lines: Sequence[str]) -> None:
        """Lines of the migration's (or another job's) own output: untrusted, can issue no workflow command."""
        ...
