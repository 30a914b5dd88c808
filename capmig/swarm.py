"""The swarm manager over the Docker API: what ports.Swarm promises, said in the engine's words."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from capmig.errors import EngineRefused, Exists, FateUnknown, LinkLost
from capmig.ports import (
    NO_TASK,
    TERMINAL,
    Clock,
    Config,
    Credentials,
    Engine,
    LogLine,
    Node,
    RemoteFile,
    Service,
    Spec,
    Task,
)
from capmig.swarm_files import file_of_volume, remove_left_over
from capmig.swarm_http import EngineHttp, Link
from capmig.swarm_logs import MOST_BYTES, MOST_PIECES, lines_of

__all__ = ["DockerSwarm", "Link"]

STOPS_AT_ONCE = 8  # sshd allows ten sessions on a connection
STOP_LIMIT = 12.0
LOGS_LIMIT = 8.0
END_JOB_LIMIT = 5.0
DISCARD_LIMIT = 5.0
REGISTRY_LIMIT = 12.0
# A config needs some content; the journal is in its labels.
CONFIG_DATA = base64.b64encode(b"The journal of a capmig deploy; see the labels.").decode()


class DockerSwarm:
    """Implements ports.Swarm through the engine at `base_url`, a `unix://` socket that `link` keeps alive."""

    def __init__(self, base_url: str, link: Link, clock: Clock) -> None:
        self._http = EngineHttp(base_url, link, clock)
        self._clock = clock

    def close(self) -> None:
        """Close the connections to the engine."""
        self._http.close()

    def engine(self) -> Engine:
        info = self._http.read("/info")
        swarm = info.get("Swarm") or {}
        return Engine(
            node_id=swarm.get("NodeID") or "",
            swarm=swarm.get("LocalNodeState") or "inactive",
            manager=bool(swarm.get("ControlAvailable")),
            api_version=self._http.api_version(),
            time=_seconds(info["SystemTime"]),
        )

    def service(self, name: str) -> Service | None:
        # Not GET /services/NAME: that also takes an ID, and the beginning of one.
        found = self._http.read("/services", _filters(name=name))
        return next((_service(raw) for raw in found if raw["Spec"]["Name"] == name), None)

    def services(self, label: str) -> list[Service]:
        return [_service(raw) for raw in self._http.read("/services", _filters(label=label))]

    def create_service(self, spec: Spec, credentials: Credentials | None = None) -> None:
        headers = _registry_auth(credentials)
        with _name_taken(f"service {spec['Name']}"):
            self._http.write("POST", "/services/create", body=spec, headers=headers)

    def update_service(self, service: Service, spec: Spec) -> None:
        version = {"version": str(service.version)}
        self._http.write("POST", f"/services/{service.id}/update", params=version, body=spec)

    def remove_service(self, service: Service) -> None:
        job = "Replicated" not in service.spec["Mode"] and "Global" not in service.spec["Mode"]
        with _gone_is_fine():
            if job:
                self._end_job(service)
            self._http.write("DELETE", f"/services/{service.id}")
        if job:
            self._discard_containers(service)

    def _discard_containers(self, service: Service) -> None:
        """Remove a job's ended containers from the connected node, and the unnamed volumes that its image made there.

        Swarm leaves them behind, with the app's secrets in their environment, until somebody prunes.
        """
        with suppress(LinkLost, EngineRefused):
            label = _filters(label=f"com.docker.swarm.service.id={service.id}")
            for container in self._http.read("/containers/json", {"all": "true", **label}):
                path = f"/containers/{container['Id']}"
                self._http.try_once("DELETE", path, {"v": "true"}, seconds=DISCARD_LIMIT)

    def _end_job(self, service: Service) -> None:
        """Make swarm want no task of a job any more.

        Swarm forgets a job whose service is removed: a task that runs then runs on for as long as it likes, and one
        that waits for a node starts when there is one, even days later (seen with Engine 20.10).
        """
        tasks = self.tasks(service)
        if tasks and all(task.ended for task in tasks):
            return
        raw = self._http.read(f"/services/{service.id}")
        spec = copy.deepcopy(raw["Spec"])
        if "ReplicatedJob" in spec["Mode"]:
            spec["Mode"] = NO_TASK
        else:
            spec["TaskTemplate"]["Placement"] = {"Constraints": ["node.id==none"]}
        self.update_service(_service(raw), spec)
        deadline = self._clock.monotonic() + END_JOB_LIMIT
        while not all(task.ended or task.desired == "remove" for task in self.tasks(service)):
            if self._clock.monotonic() > deadline:
                raise FateUnknown(f"The job {service.name} was told to end; its tasks were not yet when last seen.")
            self._clock.sleep(0.1)

    def tasks(self, service: Service) -> list[Task]:
        try:
            found = self._http.read("/tasks", _filters(service=service.id))
        except EngineRefused as error:
            if error.status != 404:
                raise
            # The service is removed, so the filter does not know it; its tasks may well run on for their grace period.
            # They keep its name. Without that filter an engine that has run thousands of jobs tells of them all.
            named = self._http.read("/tasks", _filters(name=service.name))
            found = [raw for raw in named if raw["ServiceID"] == service.id]
        return [_task(raw) for raw in found]

    def logs(self, service: Service, since: str = "") -> list[LogLine]:
        params = {"stdout": "1", "stderr": "1", "timestamps": "1", "follow": "0", "tail": str(MOST_PIECES)}
        if since:
            # To the nanosecond, and without what was had: of one second, and of one line, there may be more than a look
            # takes. All pieces of a line have one stamp.
            whole, _, fraction = since.removesuffix("Z").partition(".")
            after = int(_seconds(whole)) * 10**9 + int(f"{fraction:0<9}") + 1
            params["since"] = f"{after // 10**9}.{after % 10**9:09}"
        # With a node that is down the engine may wait for its lines for ever.
        stream = b""
        with _gone_is_fine():
            path = f"/services/{service.id}/logs"
            stream = self._http.read_stream(path, params, seconds=LOGS_LIMIT, most=MOST_BYTES)
        tty = bool(service.spec["TaskTemplate"]["ContainerSpec"].get("TTY"))
        return lines_of(stream, tty=tty, since=since)

    def nodes(self) -> list[Node]:
        return [_node(raw) for raw in self._http.read("/nodes")]

    def resolve(self, image: str, credentials: Credentials | None = None) -> str:
        path = f"/distribution/{quote(image, safe='/:@')}/json"
        found = self._http.read(path, headers=_registry_auth(credentials), seconds=REGISTRY_LIMIT)
        return str(found["Descriptor"]["digest"])

    def stop_containers(self, service: Service, grace: float) -> int:
        began = self._clock.monotonic()
        found = self._http.read("/containers/json", _filters(label=f"com.docker.swarm.service.id={service.id}"))

        # The answer comes once the container has stopped. When nobody waits for it any more, engine 20.10 carries on,
        # with SIGKILL after the grace period; a later one that gives up too has sent SIGTERM, and swarm's own stop does
        # the rest. All at once: what ends before its agent hears of the new desired state (0.2 s) is reported
        # immediately, anything else only after the agent's own pause of 3 s.
        def stop(container: Mapping[str, Any]) -> None:
            left = STOP_LIMIT - (self._clock.monotonic() - began)
            if left > 0:
                params = {"t": str(max(1, round(grace)))}
                self._http.try_once("POST", f"/containers/{container['Id']}/stop", params, seconds=left)

        if found:
            with ThreadPoolExecutor(min(STOPS_AT_ONCE, len(found))) as threads:
                list(threads.map(stop, found))
        return len(found)

    @contextmanager
    def file_of_volume(self, volume: str, path: str, *, image: str, name: str) -> Iterator[RemoteFile]:
        remove_left_over(self._http, self.engine().time)
        with file_of_volume(self._http, volume, path, image=image, name=name) as file:
            yield file

    def config(self, name: str) -> Config | None:
        found = self._http.read("/configs", _filters(name=name))
        return next((_config(raw) for raw in found if raw["Spec"]["Name"] == name), None)

    def create_config(self, name: str, labels: Mapping[str, str]) -> None:
        with _name_taken(f"config {name}"):
            body = {"Name": name, "Labels": dict(labels), "Data": CONFIG_DATA}
            self._http.write("POST", "/configs/create", body=body)

    def update_config(self, config: Config, labels: Mapping[str, str]) -> None:
        version = {"version": str(config.version)}
        body = {"Name": config.name, "Labels": dict(labels)}
        self._http.write("POST", f"/configs/{config.id}/update", params=version, body=body)

    def remove_config(self, config: Config) -> None:
        with _gone_is_fine():
            self._http.write("DELETE", f"/configs/{config.id}")


@contextmanager
def _name_taken(what: str) -> Iterator[None]:
    try:
        yield
    except EngineRefused as error:
        if error.status == 409:
            raise Exists(f"There is a {what} already.") from error
        raise


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except EngineRefused as error:
        if error.status != 404:
            raise


def _filters(**filters: str) -> dict[str, str]:
    return {"filters": json.dumps({key: [value] for key, value in filters.items()})}


def _registry_auth(credentials: Credentials | None) -> dict[str, str]:
    if credentials is None:
        return {}
    login = {"username": credentials.username, "password": credentials.password}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(login).encode()).decode()}


def _stamp(text: str) -> str:
    """RFC 3339 in UTC with all nine digits: Go leaves trailing zeros out, and then text no longer sorts by time."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return f"{whole}.{fraction:0<9}Z"


def _seconds(stamp: str) -> float:
    whole, _, fraction = stamp.removesuffix("Z").partition(".")
    return datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp() + float(f"0.{fraction or 0}")


def _service(raw: Mapping[str, Any]) -> Service:
    status = raw.get("UpdateStatus") or {}
    return Service(
        id=raw["ID"],
        name=raw["Spec"]["Name"],
        version=raw["Version"]["Index"],
        spec=raw["Spec"],
        update_state=status.get("State", ""),
        update_message=status.get("Message", ""),
    )


def _task(raw: Mapping[str, Any]) -> Task:
    status = raw["Status"]
    container = status.get("ContainerStatus") or {}
    error = status.get("Err", "")
    # The engine says 0 or -1 of what still runs, 0 of what was never created, and 127 of what could not be started.
    ran = bool(container.get("ContainerID")) and not error.startswith("starting container failed")
    return Task(
        id=raw["ID"],
        service_id=raw["ServiceID"],
        node_id=raw.get("NodeID", ""),
        slot=raw.get("Slot", 0),
        state=status["State"],
        desired=raw["DesiredState"],
        image=raw["Spec"]["ContainerSpec"]["Image"],
        created=_stamp(raw["CreatedAt"]),
        error=error,
        exit_code=container.get("ExitCode", 0) if ran and status["State"] in TERMINAL else None,
        container_id=container.get("ContainerID", ""),
    )


def _node(raw: Mapping[str, Any]) -> Node:
    description = raw["Description"]
    platform = description.get("Platform") or {}
    return Node(
        id=raw["ID"],
        hostname=description.get("Hostname", ""),
        ready=raw["Status"]["State"] == "ready",
        active=raw["Spec"]["Availability"] == "active",
        manager=raw["Spec"]["Role"] == "manager",
        labels=raw["Spec"].get("Labels") or {},
        platform=f"{platform.get('OS', '')}/{platform.get('Architecture', '')}",
    )


def _config(raw: Mapping[str, Any]) -> Config:
    return Config(
        id=raw["ID"],
        name=raw["Spec"]["Name"],
        version=raw["Version"]["Index"],
        labels=raw["Spec"].get("Labels") or {},
    )
