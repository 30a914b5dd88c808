"""Runs inside the action's container: records its outward calls, and spoils the one that is planned.

A .pth file installs it before the action's first line. Plan and record are files of the job's workspace, so the
action's own code has no hook, and knows nothing of this.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse

WORKSPACE = Path("/github/workspace")
JOURNAL = "capmig."
JOB = "capmig-.+-[0-9a-f]{8}-([a-z]+(-[0-9])?)"
# What a journal's renewal changes, what a phase brings with it by itself, and what may be 0 or not.
CLOCKS = {"since", "expires", "holder", "owner", "owner_url", "backup_seconds"}

Answer = Callable[[], requests.Response]


@cache  # Python reads a virtual environment's .pth files twice where lib64 is a link to lib
def install() -> None:
    """Wrap what the action calls out with, if there is a plan."""
    plan = WORKSPACE / "fault.json"
    if plan.exists():
        Injector(json.loads(plan.read_text())).install()


class Injector:
    """`plan`: app; at, the key of the call to spoil (empty: none); fault; after, whether it takes effect first."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._app = str(plan["app"])
        self._at, self._fault, self._after = str(plan["at"]), str(plan["fault"]), bool(plan["after"])
        self._phase = "start"
        self._journal: dict[str, str] = {}
        self._counts: Counter[str] = Counter()
        self._roles: dict[str, str] = {}
        self._lock = threading.Lock()
        self._inside = threading.local()
        self._master = 0  # process id of the newest ssh that carries the connection

    def install(self) -> None:
        injector = self
        real_send, real_connect = requests.Session.send, socket.socket.connect
        real_start: Callable[..., None] = subprocess.Popen.__init__

        def send(session: requests.Session, request: requests.PreparedRequest, **settings: Any) -> requests.Response:
            def really() -> requests.Response:
                injector._inside.http = True
                try:
                    answer = real_send(session, request, **settings)
                finally:
                    injector._inside.http = False
                injector._learn(request, answer)
                return answer

            return injector._request(request, really, _patience(settings.get("timeout")))

        def connect(self: socket.socket, address: Any) -> None:
            if str(address).endswith(".sock") and not getattr(injector._inside, "http", False):
                injector._ping(self)
            real_connect(self, address)

        def start(self: subprocess.Popen[bytes], args: Sequence[str], *others: Any, **settings: Any) -> None:
            if args[0] == "ssh":
                injector._ssh(args, lambda command: real_start(self, command, *others, **settings), self)
            else:
                real_start(self, args, *others, **settings)

        for owner, name, wrapped in (
            (requests.Session, "send", send),
            (socket.socket, "connect", connect),  # for the ping over the forwarded socket, which is no request
            (subprocess.Popen, "__init__", start),
        ):
            setattr(owner, name, wrapped)

    # Calls

    def _begin(self, what: str, kind: str) -> bool:
        """Record the call; whether it is the one to spoil."""
        with self._lock:
            named = f"{self._phase}: {what}"
            self._counts[named] += 1
            key = f"{named} #{self._counts[named]}"
            with (WORKSPACE / "calls").open("a") as record:
                record.write(json.dumps({"key": key, "kind": kind, "at": time.time()}) + "\n")
            if key != self._at:
                return False
            self._at = ""
        (WORKSPACE / "fired").write_text(key)
        return True

    def _request(self, request: requests.PreparedRequest, really: Answer, patience: float) -> requests.Response:
        docker = str(request.url).startswith("http+docker:")
        what, acts = self._docker_call(request) if docker else self._caprover_call(request)
        labels = self._written(request)
        spoilt = self._begin(what, f"{'docker' if docker else 'caprover'} {'act' if acts else 'read'}")
        try:
            return self._spoil(request, really, patience, docker=docker) if spoilt else really()
        finally:
            if labels:
                self._journal = labels
                self._phase = labels["phase"]

    def _docker_call(self, request: requests.PreparedRequest) -> tuple[str, bool]:
        parts = urlsplit(str(request.url))
        path = re.sub(r"^/v[\d.]+/", "/", parts.path)
        words = [self._role(word) for word in path.split("/")[1:]]
        found = parse_qs(parts.query)
        for key, (value, *_) in json.loads(found.get("filters", ["{}"])[0]).items():
            name, _, wanted = value.rpartition("=")
            words.append(f"{name or key}={self._role(wanted)}")
        if path.startswith("/distribution/"):
            words = ["distribution"]
        what = f"{request.method} {'/'.join(words)}"
        body = json.loads(request.body) if request.body else {}
        if labels := self._written(request):
            changed = [name for name in labels if name not in CLOCKS and labels[name] != self._journal.get(name)]
            what += f" {labels['phase'] if 'phase' in changed else '+'.join(changed) or 'renew'}"
        elif "Mode" in body:
            replicas = body["Mode"].get("Replicated", {}).get("Replicas")
            what += f" {self._role(body['Name'])}" + (f" replicas={replicas}" if replicas is not None else "")
        return what, request.method != "GET"

    def _caprover_call(self, request: requests.PreparedRequest) -> tuple[str, bool]:
        body = json.loads(request.body) if request.body else {}
        image = json.loads(body.get("captainDefinitionContent", "{}")).get("imageName", "")
        path = urlsplit(str(request.url)).path.replace(self._app, "APP")
        return f"CapRover {request.method} {path} {image.rpartition(':')[2] or 'check'}", bool(image)

    def _role(self, word: str) -> str:
        """A name or an ID as what it is for this deploy."""
        if job := re.fullmatch(JOB, word):
            return job[1].upper()
        if word == f"capmig-{self._app}":
            return "JOURNAL"
        if re.fullmatch("[0-9a-z]{25}", word):
            return self._roles.get(word, "ID")
        return re.sub("^[0-9a-f]{64}$", "CONTAINER", word.replace(self._app, "APP"))

    def _written(self, request: requests.PreparedRequest) -> dict[str, str]:
        """The journal's labels if the request writes them."""
        body = json.loads(request.body) if request.body and str(request.url).startswith("http+docker:") else {}
        labels = body.get("Labels") or {}
        if f"{JOURNAL}phase" not in labels:
            return {}
        return {name.removeprefix(JOURNAL): str(text) for name, text in labels.items()}

    def _learn(self, request: requests.PreparedRequest, answer: requests.Response) -> None:
        """What the IDs in an answer stand for."""
        path = urlsplit(str(request.url)).path
        docker = str(request.url).startswith("http+docker:")
        if docker and request.method == "GET" and path.endswith(("/services", "/configs")) and answer.ok:
            for raw in answer.json():
                self._roles[raw["ID"]] = self._role(raw["Spec"]["Name"])

    # Faults

    def _spoil(
        self, request: requests.PreparedRequest, really: Answer, patience: float, *, docker: bool
    ) -> requests.Response:
        answer = really() if self._after else None
        self._break()
        match self._fault:
            case "cut" if docker and self._after:
                raise requests.ConnectionError("Connection aborted.")
            case "error":
                return _made_up(request, *_error(docker=docker, after=self._after))
            case "timeout":
                time.sleep(patience)
                raise requests.ReadTimeout("Read timed out.")
            case "silent":
                return _made_up(request, *_success(str(request.method), str(request.url), docker=docker))
        return answer if answer is not None else really()

    def _ping(self, client: socket.socket) -> None:
        if self._begin("ping", "ping read"):
            self._break()
            if self._fault == "error":
                raise ConnectionRefusedError("Connection refused")
            if self._fault == "timeout":
                time.sleep(client.gettimeout() or 0)
                raise TimeoutError("timed out")

    def _ssh(
        self, command: Sequence[str], start: Callable[[Sequence[str]], None], process: subprocess.Popen[bytes]
    ) -> None:
        login = "-M" in command
        what = "login" if login else "exit" if "-O" in command else "session"
        spoilt = self._begin(f"ssh {what}", f"ssh {'act' if login else 'read'}")
        if spoilt and self._fault in ("error", "timeout"):
            refuse = "echo 'ssh: connect to host manager port 22: Connection refused' >&2; exit 255"
            start(["sh", "-c", refuse] if self._fault == "error" else ["sleep", "3600"])
            return
        if spoilt and not self._after:
            self._break()
        start(command)
        if login:
            self._master = process.pid
        if spoilt and self._after:
            self._break()

    def _break(self) -> None:
        match self._fault:
            case "kill":
                _die()
            case "int":
                _interrupt()
            case "cut":
                self._cut()

    def _cut(self) -> None:
        """The connection breaks."""
        with contextlib.suppress(ProcessLookupError):
            if self._master:
                os.kill(self._master, signal.SIGKILL)
        time.sleep(0.2)


def _die() -> None:
    os._exit(137)  # from inside, the first process of a container cannot be killed


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def _patience(timeout: Any) -> float:
    """How long a request waits for its answer."""
    return float((timeout[1] if isinstance(timeout, tuple) else timeout) or 10)


def _error(*, docker: bool, after: bool) -> tuple[int, bytes]:
    """An error as it is answered: to what was not done, or by someone in between who lost patience with what was."""
    if docker:
        words = "rpc error: code = DeadlineExceeded desc = context deadline exceeded" if after else "injected error"
        return 500, json.dumps({"message": words}).encode()
    return (504, b"Gateway Time-out") if after else (500, b"Internal Server Error")


def _success(method: str, url: str, *, docker: bool) -> tuple[int, bytes]:
    if not docker:
        return 200, b'{"status": 101, "description": "Deploy is started", "data": {}}'
    if method == "DELETE" or url.partition("?")[0].endswith("/stop"):
        return 204, b""
    return (201, json.dumps({"ID": "0" * 25}).encode()) if "/create" in url else (200, b'{"Warnings": null}')


def _made_up(request: requests.PreparedRequest, status: int, body: bytes) -> requests.Response:
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    raw = HTTPResponse(body=io.BytesIO(body), status=status, headers=headers, preload_content=False)
    return HTTPAdapter().build_response(request, raw)
