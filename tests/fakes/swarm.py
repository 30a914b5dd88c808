"""A swarm in memory that behaves like a real one, and a place to break every call to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, ParamSpec, TypeVar

from capmig.errors import Conflict, EngineRefused, Exists
from capmig.ports import Config, Credentials, Engine, LogLine, Node, RemoteFile, Service, Spec, Task
from capmig.swarm_logs import LEFT_OUT, MOST_PIECES
from tests.fakes.agent import Run
from tests.fakes.clock import FakeClock
from tests.fakes.orchestrator import FakeService, ImageBehaviour, Orchestrator, copy_of

__all__ = ["DirectSwarm", "FakeSwarm", "ImageBehaviour", "Run", "app_spec", "fake_node"]

P = ParamSpec("P")
R = TypeVar("R")
Hook = Callable[[str, tuple[Any, ...]], None]

STOP_LIMIT = 12.0
PIECE = 64 * 1024


class Silent(Exception):
    """Raised by a hook before a change: it is answered as done, and is not."""


def fake_node(
    node_id: str = "node1", *, ready: bool = True, manager: bool = True, labels: Mapping[str, str] | None = None
) -> Node:
    return Node(
        id=node_id,
        hostname=f"{node_id}-host",
        ready=ready,
        active=True,
        manager=manager,
        labels=labels or {},
        platform="linux/x86_64",
    )


def app_spec(
    name: str,
    image: str,
    *,
    replicas: int = 2,
    env: Sequence[str] = (),
    order: str = "start-first",
    failure_action: str = "pause",
) -> Spec:
    """The spec of a service as CapRover writes it."""
    return {
        "Name": name,
        "Labels": {"com.caprover.managed": "true"},
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": image,
                "Labels": {"randomLabelForceUpdate": "stamp-at-first"},
                "Env": list(env),
                "Isolation": "default",
            },
            "Placement": {},
            "Networks": [{"Target": "captain-overlay-network", "Aliases": [f"srv-captain--{name}"]}],
            "LogDriver": {"Name": "json-file", "Options": {"max-size": "512m"}},
            "ForceUpdate": 0,
            "Runtime": "container",
        },
        "Mode": {"Replicated": {"Replicas": replicas}},
        "UpdateConfig": {"Parallelism": 0, "FailureAction": failure_action, "MaxFailureRatio": 0, "Order": order},
        "EndpointSpec": {"Mode": "vip"},
    }


class DirectSwarm:
    """Implements ports.Swarm with no delay and no faults: what other people and CapRover do, and late effects."""

    def __init__(self, clock: FakeClock, world: Orchestrator) -> None:
        self._clock = clock
        self._world = world
        self._configs: dict[str, Config] = {}
        self.files: dict[tuple[str, str], bytes] = {}  # of the connected node, by volume and path
        self.missing_bytes = 0  # of each file: how much sooner its stream ends than its size says
        self.connected_node = next(iter(world.nodes))
        self.created_with: list[tuple[str, Credentials | None]] = []  # services' names and their credentials

    def engine(self) -> Engine:
        return Engine(
            node_id=self.connected_node, swarm="active", manager=True, api_version="1.41", time=self._clock.time()
        )

    def service(self, name: str) -> Service | None:
        found = [service for service in self._world.services.values() if service.name == name]
        return _as_service(found[0]) if found else None

    def services(self, label: str) -> list[Service]:
        key, given, value = label.partition("=")
        found = []
        for service in self._world.services.values():
            labels = service.spec.get("Labels") or {}
            if key in labels and (not given or labels[key] == value):
                found.append(_as_service(service))
        return found

    def create_service(self, spec: Spec, credentials: Credentials | None = None) -> None:
        if self.service(spec["Name"]) is not None:
            raise Exists(f"service {spec['Name']} exists already")
        self.created_with.append((spec["Name"], credentials))
        self._world.create(spec)

    def update_service(self, service: Service, spec: Spec) -> None:
        current = self._world.services.get(service.id)
        if current is None:
            raise EngineRefused(f"service {service.id} not found", status=404)
        if current.version != service.version:
            raise Conflict(f"service {service.name}: update out of sequence")
        self._world.change(current, spec)

    def remove_service(self, service: Service) -> None:
        if service.id in self._world.services:
            self._world.remove(self._world.services[service.id])

    def tasks(self, service: Service) -> list[Task]:
        return [
            Task(
                id=task.id,
                service_id=task.service_id,
                node_id=task.node_id,
                slot=task.slot,
                state=task.state,
                desired=task.desired,
                image=task.image,
                created=task.created,
                error=task.error,
                exit_code=task.exit_code if task.ended else None,
                container_id=task.container_id,
            )
            for task in self._world.of(service.id)
        ]

    def logs(self, service: Service, since: str = "") -> list[LogLine]:
        if service.id not in self._world.services:
            return []
        printed = (line for task in self._world.of(service.id) for line in task.lines)
        lines = sorted(printed, key=lambda line: line.stamp)
        if len(lines) >= MOST_PIECES:
            lines = lines[-MOST_PIECES:]
            lines.insert(0, LogLine(stamp=lines[0].stamp, text=LEFT_OUT))
        return [line for line in lines if line.stamp > since]

    def nodes(self) -> list[Node]:
        return list(self._world.nodes.values())

    def resolve(self, image: str, credentials: Credentials | None = None) -> str:
        if image not in self._world.images:
            raise EngineRefused(f"manifest for {image} not found", status=404)
        return f"sha256:{hashlib.sha256(image.encode()).hexdigest()}"

    def stop_containers(self, service: Service, grace: float) -> int:
        here = [task for task in self._world.of(service.id) if task.alive and task.node_id == self.connected_node]
        longest = max((self._world.agents.terminate(task, grace) for task in here), default=0.0)
        self._clock.sleep(min(longest, STOP_LIMIT))
        return len(here)

    @contextmanager
    def file_of_volume(self, volume: str, path: str, *, image: str, name: str) -> Iterator[RemoteFile]:
        if image not in self._world.images:
            raise EngineRefused(f"No such image: {image}", status=404)
        content = self.files.get((volume, path))
        if content is None:
            raise EngineRefused(f"Could not find the file {path} in container {name}", status=404)
        yield RemoteFile(
            size=len(content) + self.missing_bytes,
            pieces=(content[at : at + PIECE] for at in range(0, len(content), PIECE)),
        )

    def config(self, name: str) -> Config | None:
        return self._configs.get(name)

    def create_config(self, name: str, labels: Mapping[str, str]) -> None:
        if name in self._configs:
            raise Exists(f"config {name} exists already")
        self._configs[name] = Config(
            id=self._world.new_id("config"), name=name, version=self._world.next_index(), labels=dict(labels)
        )

    def update_config(self, config: Config, labels: Mapping[str, str]) -> None:
        current = self._configs.get(config.name)
        if current is None or current.id != config.id:
            raise EngineRefused(f"config {config.id} not found", status=404)
        if current.version != config.version:
            raise Conflict(f"config {config.name}: update out of sequence")
        self._configs[config.name] = Config(
            id=config.id, name=config.name, version=self._world.next_index(), labels=dict(labels)
        )

    def remove_config(self, config: Config) -> None:
        current = self._configs.get(config.name)
        if current is not None and current.id == config.id:
            del self._configs[config.name]


class FakeSwarm:
    """Implements ports.Swarm; every call takes `latency` seconds and passes the hooks.

    `images`: what each image does when it is run; any other image is missing. `before_call` and `after_call` get a
    call's name and arguments: what the first raises comes instead of the call, what the second raises comes instead of
    the answer of a call that has taken effect. `direct`: the same swarm with neither hooks nor latency.
    """

    def __init__(self, clock: FakeClock, nodes: Sequence[Node] = (), *, latency: float = 0.02) -> None:
        self.world = Orchestrator(clock, nodes or [fake_node()])
        self.direct = DirectSwarm(clock, self.world)
        self.latency = latency
        self.before_call: Hook = lambda name, args: None
        self.after_call: Hook = lambda name, args: None
        self._clock = clock

    @property
    def images(self) -> dict[str, ImageBehaviour]:
        return self.world.images

    @property
    def history(self) -> list[tuple[float, str, str, str]]:
        """(time, task ID, service name, state) of every change of a task's state."""
        return self.world.agents.history

    def alive(self, service_name: str) -> int:
        """How many processes of the service run, whatever the states of its tasks say."""
        return sum(task.alive for task in self.world.tasks if task.service_name == service_name)

    def set_node(self, node: Node) -> None:
        """Add or change a node; one that is not `ready` cannot be reached, and its processes go on."""
        self.world.set_node(node)

    def prune(self, *, created: bool = False) -> None:
        """Remove stopped containers, and with them their logs; also those created and not started yet, if asked to."""
        for task in self.world.tasks:
            if task.container_id and not task.alive and (task.ended or (created and task.state == "ready")):
                task.lines.clear()
                task.container_id = ""

    def roll_back(self, service_name: str) -> None:
        """Someone rolls a service back: its former spec returns, replicas and all."""
        found = [service for service in self.world.services.values() if service.name == service_name]
        self.world.roll_back(found[0], "rollback requested")

    def start_twice(self, service_name: str) -> None:
        """One task too many, as swarm has it at times once it has replaced a version that kept failing."""
        found = [service for service in self.world.services.values() if service.name == service_name]
        self.world.start_twice(found[0])

    def _call(self, act: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        seen = (*args, *kwargs.values())
        self.before_call(act.__name__, seen)
        self._clock.sleep(self.latency)
        result = act(*args, **kwargs)
        self.after_call(act.__name__, seen)
        return result

    def _change(self, act: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        with suppress(Silent):
            self._call(act, *args, **kwargs)

    def engine(self) -> Engine:
        return self._call(self.direct.engine)

    def service(self, name: str) -> Service | None:
        return self._call(self.direct.service, name)

    def services(self, label: str) -> list[Service]:
        return self._call(self.direct.services, label)

    def create_service(self, spec: Spec, credentials: Credentials | None = None) -> None:
        self._change(self.direct.create_service, spec, credentials)

    def update_service(self, service: Service, spec: Spec) -> None:
        self._change(self.direct.update_service, service, spec)

    def remove_service(self, service: Service) -> None:
        self._change(self.direct.remove_service, service)

    def tasks(self, service: Service) -> list[Task]:
        return self._call(self.direct.tasks, service)

    def logs(self, service: Service, since: str = "") -> list[LogLine]:
        return self._call(self.direct.logs, service, since)

    def nodes(self) -> list[Node]:
        return self._call(self.direct.nodes)

    def resolve(self, image: str, credentials: Credentials | None = None) -> str:
        return self._call(self.direct.resolve, image, credentials)

    def stop_containers(self, service: Service, grace: float) -> int:
        return self._call(self.direct.stop_containers, service, grace)

    def file_of_volume(self, volume: str, path: str, *, image: str, name: str) -> AbstractContextManager[RemoteFile]:
        """As any call; the hooks also hear of each piece that comes, as `piece`."""
        return self._heard(self._call(self.direct.file_of_volume, volume, path, image=image, name=name))

    @contextmanager
    def _heard(self, opened: AbstractContextManager[RemoteFile]) -> Iterator[RemoteFile]:
        def piece(content: bytes) -> bytes:
            return content

        with opened as file:
            yield RemoteFile(size=file.size, pieces=(self._call(piece, each) for each in file.pieces))

    def config(self, name: str) -> Config | None:
        return self._call(self.direct.config, name)

    def create_config(self, name: str, labels: Mapping[str, str]) -> None:
        self._change(self.direct.create_config, name, labels)

    def update_config(self, config: Config, labels: Mapping[str, str]) -> None:
        self._change(self.direct.update_config, config, labels)

    def remove_config(self, config: Config) -> None:
        self._change(self.direct.remove_config, config)


def _as_service(service: FakeService) -> Service:
    return Service(
        id=service.id,
        name=service.name,
        version=service.version,
        spec=copy_of(service.spec),
        update_state=service.update_state,
        update_message=service.update_message,
    )
