"""A stateful fake of the Docker calls that the CapRover stand-in makes, for replaying captures in a second."""

from __future__ import annotations

import copy
import threading

from tests.sandbox.caprover.store import NETWORK, Json
from tests.sandbox.caprover.swarm import EngineError

NODE_ID = "1xwvzpo1dvtqecf35tgb0qsyu"
NETWORK_ID = "u1yzqdegabljpig8m1umyy9x6"
HUB_DOWN = 'Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io: no such host'


class FakeEngine:
    """Services as the engine would keep them; `images` can be pulled, those of `private` with its password.

    While `service_updates_pass` is clear, service updates block.
    """

    def __init__(self) -> None:
        self.images = {"testapp:1", "testapp:2", "testapp:3", "testcrash:1"}
        self.private = {"127.0.0.1:5001/private/testapp:2": "REGISTRY-PASSWORD"}
        self.services: dict[str, Json] = {}
        self.pulls: list[str] = []
        self.prunes = 0
        self.service_updates_pass = threading.Event()
        self.service_updates_pass.set()

    def service(self, name: str) -> Json | None:
        return copy.deepcopy(self.services.get(name))

    def create_service(self, spec: Json) -> None:
        name = spec["Name"]
        self.services[name] = {"ID": f"id-of-{name}", "Version": {"Index": 1}, "Spec": _kept(spec)}

    def update_service(self, service: Json, spec: Json, auth: Json) -> None:
        self.service_updates_pass.wait(60)
        current = self.services[service["Spec"]["Name"]]
        if current["Version"] != service["Version"]:
            raise EngineError(500, "rpc error: code = Unknown desc = update out of sequence")
        for mount in spec["TaskTemplate"]["ContainerSpec"].get("Mounts") or []:
            if mount["Type"] not in {"bind", "volume"}:
                raise EngineError(400, f'invalid MountType: "{mount["Type"]}"')
        current |= {"Spec": _kept(spec), "Version": {"Index": current["Version"]["Index"] + 1}}

    def remove_service(self, name: str) -> None:
        del self.services[name]

    def service_logs(self, name: str) -> bytes:
        return f"hello from {name}".encode()

    def node_of(self, service: str) -> str:
        return NODE_ID if service in self.services else ""

    def nodes(self) -> list[Json]:
        return [
            {
                "ID": NODE_ID,
                "Spec": {"Role": "manager", "Availability": "active"},
                "Description": {
                    "Hostname": "vm",
                    "Platform": {"Architecture": "x86_64", "OS": "linux"},
                    "Resources": {"NanoCPUs": 2000000000, "MemoryBytes": 25276502016},
                    "Engine": {"EngineVersion": "20.10.24+dfsg1"},
                },
                "Status": {"State": "ready", "Addr": "127.0.0.1"},
                "ManagerStatus": {"Leader": True},
            }
        ]

    def pull(self, image: str, auth: Json | None) -> None:
        password = (auth or {}).get("password")
        self.pulls.append(image)
        if image in self.images or (password and self.private.get(image) == password):
            return
        if image in self.private:
            raise EngineError(500, f'Head "http://{image}": no basic auth credentials')
        if image.startswith("127.0.0.1:"):
            raise EngineError(404, f"manifest for {image} not found: manifest unknown: manifest unknown")
        raise EngineError(500, HUB_DOWN)

    def login(self, auth: Json) -> bool:
        return auth["password"] in self.private.values()

    def prune(self) -> None:
        self.prunes += 1


def _kept(spec: Json) -> Json:
    """The spec as the engine keeps it: network names resolved, defaults filled in, empty lists dropped."""
    spec = copy.deepcopy(spec)
    template, container = spec["TaskTemplate"], spec["TaskTemplate"]["ContainerSpec"]
    container["Isolation"] = "default"
    if not container.get("Mounts"):
        container.pop("Mounts", None)
    if not container.get("Env"):
        container.pop("Env", None)
    for network in template.get("Networks", []):
        network["Target"] = NETWORK_ID if network["Target"] == NETWORK else network["Target"]
    template |= {"ForceUpdate": 0, "Runtime": "container"}
    if not spec["EndpointSpec"].get("Ports"):
        spec["EndpointSpec"].pop("Ports", None)
    spec["UpdateConfig"]["MaxFailureRatio"] = 0
    return spec
