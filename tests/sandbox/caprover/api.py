"""CapRover's HTTP API without the HTTP: routes, authentication, the one lock, and how it looks while it is down."""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import dataclass

from tests.sandbox.caprover.apps import Apps, Settings
from tests.sandbox.caprover.auth import CORRUPTED, Sessions
from tests.sandbox.caprover.control import Switches
from tests.sandbox.caprover.store import Declined, Json, Store, auth_object
from tests.sandbox.caprover.swarm import Engine

IN_PROGRESS = "Another operation still in progress... please wait..."
GATEWAY_TEXTS = {502: "Bad Gateway", 503: "Service Temporarily Unavailable", 504: "Gateway Time-out"}


@dataclass(frozen=True, kw_only=True)
class Reply:
    http: int = 200
    body: Json | str
    # what is to be done once the answer is sent
    after: Callable[[], None] = lambda: None

    @property
    def content_type(self) -> str:
        if not isinstance(self.body, str):
            return "application/json; charset=utf-8"
        return "text/plain; charset=utf-8" if self.http in {404, 500} else "text/html; charset=utf-8"


INTERNAL_ERROR = Reply(http=500, body="Internal Server Error")


def okay(description: str, data: Json | None = None, status: int = 100) -> Reply:
    return Reply(body={"status": status, "description": description, "data": data or {}})


def gateway_page(http: int) -> Reply:
    title = f"{http} {GATEWAY_TEXTS.get(http, 'Error')}"
    body = f"<center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>"
    return Reply(
        http=http, body=f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n{body}\r\n</body>\r\n</html>\r\n"
    )


@dataclass(frozen=True, kw_only=True)
class Request:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: Json
    connection: socket.socket

    @property
    def auth(self) -> str:
        kinds = {"x-captain-auth": "session", "x-captain-app-token": "app-token"}
        return "+".join(kind for header, kind in kinds.items() if self.headers.get(header))

    def abandoned(self) -> bool:
        """Whether the client has closed the connection."""
        try:
            readable = select.select([self.connection], [], [], 0)[0]
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except (OSError, ValueError):  # closed on our side meanwhile
            return True


class CapRover:
    """Answers requests. `phase`: empty, or `away`, `failing`, `starting` while it is down."""

    def __init__(self, store: Store, engine: Engine, settings: Settings) -> None:
        self._store = store
        self._engine = engine
        self._settings = settings
        self.switches = Switches()
        self.sessions = Sessions(settings.password, self.switches)
        self.phase = ""
        self.crashed = threading.Event()
        self._lock = threading.Lock()
        self.apps = self._new_apps()

    def _new_apps(self) -> Apps:
        return Apps(self._store, self._engine, self._settings, self.switches, crash=self.crashed.set)

    def restart(self) -> None:
        """What is lost with the process: sessions, queue, build logs, timers, work under way, the lock."""
        self.apps.close()
        self.sessions.end()
        self._lock = threading.Lock()
        self.apps = self._new_apps()

    def answer(self, request: Request) -> Reply | None:
        """None: the connection is to be closed without an answer."""
        if self.phase:
            return self._answer_while_down()
        if self.switches.take("errors"):
            return gateway_page(self.switches.error_status)
        try:
            return self._answer(request)
        except Declined as error:
            return okay(error.description, status=error.status)
        except Exception:
            logging.getLogger(__name__).exception("%s %s: HTTP 500", request.method, request.path)
            return INTERNAL_ERROR

    def _answer_while_down(self) -> Reply | None:
        match self.phase:
            case "away":
                return gateway_page(502) if self.switches.gateway_timeout else None
            case "failing":
                return INTERNAL_ERROR
        return okay("Captain is not ready yet...", status=1001)

    def _answer(self, request: Request) -> Reply | None:
        if request.headers.get("x-namespace", "captain") != "captain":
            raise Declined(1000, "Namespace unknown")
        parts = request.path.removeprefix("/api/v2/").strip("/").split("/")
        if (request.method, parts) == ("POST", ["login"]):
            return okay("Login succeeded", {"token": self.sessions.login(request.body)})
        if parts[0] != "user":
            return Reply(http=404, body="Not Found")
        self._authenticate(request, parts[1:])
        if request.method == "GET":
            return self._read(request, parts[1:])
        lock = self._lock
        if self.switches.take("busy") or not lock.acquire(blocking=False):
            return Reply(http=429, body=IN_PROGRESS)
        try:
            if self.switches.take("lost_requests"):
                return None
            lost = self.switches.take("lost_answers")
            reply = self._change(request, parts[1:])
            return None if lost else reply
        finally:
            lock.release()

    def _authenticate(self, request: Request, parts: list[str]) -> None:
        session = request.headers.get("x-captain-auth", "")
        app_token = request.headers.get("x-captain-app-token", "")
        if app_token and not session and request.method == "POST" and parts[:2] == ["apps", "appData"]:
            name = parts[2] if len(parts) == 3 else ""
            config = self._store.app(name).get("appDeployTokenConfig", {}) if name in self._store.names() else {}
            if config.get("enabled") and config.get("appDeployToken") == app_token:
                return
            raise CORRUPTED
        self.sessions.check(session)

    def _read(self, request: Request, parts: list[str]) -> Reply:
        match parts:
            case ["apps", "appDefinitions"]:
                data = {
                    "appDefinitions": self.apps.definitions(),
                    "rootDomain": "captain.localhost",
                    "captainSubDomain": "captain",
                    "defaultNginxConfig": "",
                }
                return okay("App definitions are retrieved.", data)
            case ["apps", "appData", name]:
                return okay("App build status retrieved", self.apps.build_status(name))
            case ["apps", "appData", name, "logs"]:
                logs = self.apps.runtime_logs(name, request.query.get("encoding", ["ascii"])[0])
                return okay("App runtime logs are retrieved", {"logs": logs})
            case ["registries"]:
                return okay("All registries retrieved", self._store.registries())
            case ["system", "info"]:
                return okay(
                    "Captain info retrieved", {"forceSsl": False, "rootDomain": "", "captainSubDomain": "captain"}
                )
            case ["system", "nodes"]:
                return okay("Node info retrieved", {"nodes": [_node(node) for node in self._engine.nodes()]})
        return Reply(http=404, body="Not Found")

    def _change(self, request: Request, parts: list[str]) -> Reply | None:
        body = request.body
        match request.method, parts:
            case "POST", ["apps", "appData", name]:
                return self._deploy(request, name)
            case "POST", ["apps", "appDefinitions", "register"]:
                self.apps.register(str(body.get("appName")), persistent=bool(body.get("hasPersistentData")))
                return okay("App Definition Saved")
            case (("POST" | "PATCH"), ["apps", "appDefinitions", "update"]):
                self.apps.update(body, merge=request.method == "PATCH")
                return okay("Updated App Definition Saved")
            case "POST", ["apps", "appDefinitions", "delete"]:
                self.apps.delete(str(body.get("appName")))
                return okay("App is deleted")
            case "POST", ["registries", "insert"]:
                self._insert_registry(body)
                return okay("Registry is added.")
            case "POST", ["registries", "delete"]:
                self._store.delete_registry(str(body.get("registryId")))
                return okay("Registry deleted")
            case "POST", ["registries", "setpush"]:
                self._store.set_default_registry(str(body.get("registryId")))
                return okay("Push Registry changed")
        return Reply(http=404, body="Not Found")

    def _insert_registry(self, body: Json) -> None:
        user, password, domain = (
            str(body.get(key) or "") for key in ("registryUser", "registryPassword", "registryDomain")
        )
        if not self._engine.login(auth_object(user, password, domain)):
            what = "Registry authentication failed. Either username, password or domain is incorrect."
            raise Declined(1112, what)
        prefix = str(body.get("registryImagePrefix") or "")
        self._store.add_registry(user=user, password=password, domain=domain, prefix=prefix)

    def _deploy(self, request: Request, name: str) -> Reply | None:
        promise = self.apps.deploy(name, request.body)
        if request.query.get("detached"):
            return okay("Deploy is started", status=101)
        gateway = self.switches.gateway_timeout
        deadline = time.monotonic() + (gateway or self.switches.hang_limit)
        while not wait([promise], timeout=0.05).done:
            if request.abandoned():
                return None
            if time.monotonic() > deadline:
                return gateway_page(504) if gateway else None
        promise.result()
        return okay("Deploy is done")


def _node(node: Json) -> Json:
    described, status = node["Description"], node["Status"]
    return {
        "nodeId": node["ID"],
        "type": node["Spec"]["Role"],
        "isLeader": bool(node.get("ManagerStatus", {}).get("Leader")),
        "hostname": described["Hostname"],
        "architecture": described["Platform"]["Architecture"],
        "operatingSystem": described["Platform"]["OS"],
        "nanoCpu": described["Resources"]["NanoCPUs"],
        "memoryBytes": described["Resources"]["MemoryBytes"],
        "dockerEngineVersion": described["Engine"]["EngineVersion"],
        "ip": status["Addr"],
        "state": status["State"],
        "status": node["Spec"]["Availability"],
    }
