"""CapRover's side of the Docker API: the specs that it writes, and the calls that it makes."""

from __future__ import annotations

import base64
import copy
import json
import time
import uuid
from typing import Any, Protocol

import docker
import requests
from docker.utils import parse_repository_tag

from tests.sandbox.caprover.store import NETWORK, Json, parse_override

ANONYMOUS = {"username": "", "password": "", "serveraddress": "docker.io/v1"}


class EngineError(Exception):
    """An error of the engine, worded as CapRover's Docker client words it."""

    def __init__(self, status: int, message: str) -> None:
        kind = "server error" if status >= 500 else "unexpected"
        super().__init__(f"(HTTP code {status}) {kind} - {message} ")


class Engine(Protocol):
    """What CapRover asks of Docker. All raise EngineError."""

    def service(self, name: str) -> Json | None: ...

    def create_service(self, spec: Json) -> None: ...

    def update_service(self, service: Json, spec: Json, auth: Json) -> None:
        """Compare-and-swap on the version of `service`, as inspected."""
        ...

    def remove_service(self, name: str) -> None: ...

    def service_logs(self, name: str) -> bytes: ...

    def node_of(self, service: str) -> str:
        """The node of a task of the service; empty if it has none."""
        ...

    def nodes(self) -> list[Json]: ...

    def pull(self, image: str, auth: Json | None) -> None: ...

    def login(self, auth: Json) -> bool: ...

    def prune(self) -> None:
        """Remove all stopped and created containers of the connected engine, whoever owns them."""
        ...


def service_name(app: str, definition: Json) -> str:
    return f"srv-captain--{app}" if definition["isLegacyAppName"] else app


def first_spec(name: str, placeholder_image: str, endpoint_mode: str) -> Json:
    """The service as it is created, before the first update gives it the app's image and settings."""
    return {
        "Name": name,
        "Labels": {"com.caprover.managed": "true"},
        "TaskTemplate": {
            "ContainerSpec": {"Image": placeholder_image},
            "Placement": {},
            "LogDriver": {"Name": "json-file", "Options": {"max-size": "512m"}},
        },
        "Mode": {"Replicated": {"Replicas": 1}},
        "UpdateConfig": {"Parallelism": 0, "FailureAction": "pause", "Order": "start-first"},
        "EndpointSpec": {"Mode": endpoint_mode},
    }


def updated_spec(spec: Json, app: str, definition: Json, image: str) -> Json:
    """The inspected spec with what CapRover writes anew in every update: everything that the definition knows."""
    spec = copy.deepcopy(spec)
    template = spec["TaskTemplate"]
    container = template["ContainerSpec"]
    container["Image"] = image
    container["Env"] = [f"{var['key']}={var['value']}" for var in definition["envVars"]]
    container["Mounts"] = [_mount(volume) for volume in definition["volumes"]]
    container["Labels"] = (container.get("Labels") or {}) | {"randomLabelForceUpdate": str(uuid.uuid4())}
    if node_id := definition.get("nodeId"):
        placement = template.setdefault("Placement", {})
        others = [text for text in placement.get("Constraints") or [] if "node.id" not in text]
        placement["Constraints"] = [*others, f"node.id == {node_id}"]
    alias = {} if definition["isLegacyAppName"] else {"Aliases": [f"srv-captain--{app}"]}
    template["Networks"] = [{"Target": network} | alias for network in definition["networks"]]
    endpoint = spec.setdefault("EndpointSpec", {})
    endpoint["Ports"] = [port for entry in definition["ports"] for port in _ports(entry, endpoint.get("Mode"))]
    update = spec.setdefault("UpdateConfig", {})
    update["Order"] = "stop-first" if container["Mounts"] else "start-first"
    spec["Mode"]["Replicated"]["Replicas"] = definition["instanceCount"]
    merged: Json = _merge(spec, parse_override(definition.get("serviceUpdateOverride", "")))
    return merged


def _mount(volume: Json) -> Json:
    if "hostPath" in volume:
        return {"Type": "bind", "Source": volume["hostPath"], "Target": volume["containerPath"]}
    return {"Type": "volume", "Source": volume["volumeName"], "Target": volume["containerPath"]}


def _ports(entry: Json, mode: str | None) -> list[Json]:
    port: Json = {"TargetPort": int(entry["containerPort"]), "PublishedPort": int(entry["hostPort"])}
    if mode == "dnsrr":  # which has no ingress
        port["PublishMode"] = "host"
    protocols = [entry["protocol"]] if entry.get("protocol") else ["tcp", "udp"]
    return [{"Protocol": protocol} | port for protocol in protocols]


def _merge(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {key: _merge(old.get(key), value) for key, value in new.items()}
    return new


class DockerEngine:
    """The Engine behind a docker host (`unix:///…` or `tcp://…`)."""

    def __init__(self, docker_host: str) -> None:
        self._api = docker.APIClient(base_url=docker_host, version="auto", timeout=120)

    def ensure_network(self) -> None:
        """The overlay network that CapRover makes when it is installed."""
        if not self._json("GET", "/networks", params={"filters": json.dumps({"name": [NETWORK]})}):
            network = {"Name": NETWORK, "Driver": "overlay", "Attachable": True, "CheckDuplicate": True}
            self._send("POST", "/networks/create", json=network)

    def _send(self, method: str, path: str, auth: Json | None = None, **kwargs: Any) -> requests.Response:
        headers = {}
        if auth is not None:
            headers["X-Registry-Auth"] = base64.urlsafe_b64encode(json.dumps(auth).encode()).decode()
        url = f"{self._api.base_url}/v{self._api.api_version}{path}"
        response = self._api.request(method, url, headers=headers, timeout=120, **kwargs)
        if response.status_code >= 400:
            try:
                message = response.json()["message"]
            except ValueError:
                message = response.text
            raise EngineError(response.status_code, message)
        return response

    def _json(self, method: str, path: str, **kwargs: Any) -> Any:
        return self._send(method, path, **kwargs).json()

    def service(self, name: str) -> Json | None:
        found: list[Json] = self._json("GET", "/services", params={"filters": json.dumps({"name": [name]})})
        return next((service for service in found if service["Spec"]["Name"] == name), None)

    def create_service(self, spec: Json) -> None:
        self._send("POST", "/services/create", json=spec)

    def update_service(self, service: Json, spec: Json, auth: Json) -> None:
        params = {"version": service["Version"]["Index"]}
        self._send("POST", f"/services/{service['ID']}/update", auth, params=params, json=spec)

    def remove_service(self, name: str) -> None:
        self._send("DELETE", f"/services/{name}")

    def service_logs(self, name: str) -> bytes:
        params = {"stdout": 1, "stderr": 1, "tail": 500, "timestamps": 1}
        return self._send("GET", f"/services/{name}/logs", params=params).content

    def node_of(self, service: str) -> str:
        for _ in range(10):
            tasks: list[Json] = self._json("GET", "/tasks", params={"filters": json.dumps({"service": [service]})})
            placed = [task for task in tasks if task.get("NodeID")]
            if placed:
                return str(max(placed, key=lambda task: task["CreatedAt"])["NodeID"])
            time.sleep(1)
        return ""

    def nodes(self) -> list[Json]:
        nodes: list[Json] = self._json("GET", "/nodes")
        return nodes

    def pull(self, image: str, auth: Json | None) -> None:
        name, tag = parse_repository_tag(image)
        params = {"fromImage": name, "tag": tag or "latest"}
        with self._send("POST", "/images/create", auth, params=params, stream=True) as response:
            for line in response.iter_lines():
                event = json.loads(line)
                if "error" in event:
                    raise EngineError(500, event["error"])

    def login(self, auth: Json) -> bool:
        try:
            self._send("POST", "/auth", json=auth)
        except EngineError:
            return False
        return True

    def prune(self) -> None:
        self._send("POST", "/containers/prune")
