"""Start the stand-in, switch it, and set apps up in it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import requests

ROOT = Path(__file__).resolve().parents[3]


class ApiError(Exception):
    """An answer other than success. `status`: CapRover's, or the HTTP status if that is not 200."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(f"{status}: {what}")
        self.status = status


class Client:
    """The CapRover at `url`, as its administrator uses it."""

    def __init__(self, url: str, password: str) -> None:
        self.url = url
        self.password = password
        self._session = ""

    def api(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer's `data`; ApiError for anything but success. Logs in when there is no session yet, or no more."""
        if not self._session:
            self._session = self._send("POST", "/login", {"password": self.password}, {})["token"]
        try:
            return self._send(method, path, body, {"x-captain-auth": self._session})
        except ApiError as error:
            if error.status != 1106:
                raise
        self._session = ""
        return self.api(method, path, body)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]) -> Any:
        url = f"{self.url}/api/v2{path}"
        response = requests.request(method, url, json=body, headers={"x-namespace": "captain", **headers}, timeout=120)
        if response.status_code != 200:
            raise ApiError(response.status_code, response.text)
        answer = response.json()
        if answer["status"] not in (100, 101):
            raise ApiError(answer["status"], answer["description"])
        return answer["data"]

    def definition(self, app: str) -> dict[str, Any]:
        """The app's definition; KeyError if there is no such app."""
        for found in self.api("GET", "/user/apps/appDefinitions")["appDefinitions"]:
            if found["appName"] == app:
                return dict(found)
        raise KeyError(app)

    def build_status(self, app: str) -> dict[str, Any]:
        return dict(self.api("GET", f"/user/apps/appData/{app}"))

    def create_app(
        self,
        name: str,
        image: str,
        instances: int = 1,
        env: Mapping[str, str] | None = None,
        volumes: Sequence[Mapping[str, str]] = (),
        **settings: Any,
    ) -> str:
        """Register, save and deploy an app; returns its app token. Further settings are fields of its definition.

        `volumes`: `{"containerPath": …, "volumeName" or "hostPath": …}`. Takes about 6 s, as CapRover does; the tasks
        may still be starting.
        """
        persistent = {"appName": name, "hasPersistentData": bool(volumes)}
        self.api("POST", "/user/apps/appDefinitions/register", persistent)
        variables = [{"key": key, "value": value} for key, value in (env or {}).items()]
        token = {"enabled": True}
        saved = {
            "instanceCount": instances,
            "envVars": variables,
            "volumes": list(volumes),
            "appDeployTokenConfig": token,
        }
        self.update_app(name, **saved, **settings)
        self.deploy(name, image)
        return str(self.definition(name)["appDeployTokenConfig"]["appDeployToken"])

    def update_app(self, name: str, **fields: Any) -> None:
        """Save & Update with these fields changed, as the dashboard does: the whole definition is posted."""
        self.api("POST", "/user/apps/appDefinitions/update", {**self.definition(name), **fields})

    def deploy(self, name: str, image: str, *, detached: bool = False) -> None:
        content = f'{{"schemaVersion": 2, "imageName": "{image}"}}'
        path = f"/user/apps/appData/{name}" + ("?detached=1" if detached else "")
        self.api("POST", path, {"captainDefinitionContent": content, "gitHash": ""})

    def delete_app(self, name: str) -> None:
        self.api("POST", "/user/apps/appDefinitions/delete", {"appName": name})


class Controlled(Client):
    """The stand-in at `url`: CapRover, and what only a test may do with it."""

    def control(self, **switches: Any) -> None:
        """Set switches: see control.Switches for their names and what they do."""
        self._control("POST", "switches", switches)

    def restart(self, *, refused: float = 2.0, failing: float = 1.5, starting: float = 23.0) -> None:
        """CapRover goes away: so many seconds of refused connections, HTTP 500, and status 1001. Does not wait."""
        self._control("POST", "restart", {"refused": refused, "failing": failing, "starting": starting})

    def expire_sessions(self) -> None:
        self._control("POST", "expire-sessions", {})

    def requests(self, method: str = "", path: str = "") -> list[dict[str, Any]]:
        """The requests that came, oldest first: time, method, path, auth, body (secrets masked), http.

        Only those of this method, and whose path contains this text.
        """
        entries: list[dict[str, Any]] = self._control("GET", "requests", None)["requests"]
        return [entry for entry in entries if method in ("", entry["method"]) and path in entry["path"]]

    def wait_until_up(self, timeout: float = 60.0) -> None:
        """Return when no restart is under way."""
        deadline = time.monotonic() + timeout
        while self._control("GET", "phase", None)["phase"]:
            if time.monotonic() > deadline:
                raise TimeoutError("the stand-in is still down")
            time.sleep(0.05)

    def _control(self, method: str, what: str, body: Mapping[str, Any] | None) -> Any:
        deadline = time.monotonic() + 60
        while True:
            try:
                response = requests.request(method, f"{self.url}/_standin/{what}", json=body, timeout=10)
            except requests.ConnectionError:  # it plays being away
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                break
        if response.status_code != 200:
            raise ApiError(response.status_code, response.text)
        return response.json()


class StandIn(Controlled):
    """A stand-in in a process of its own; `stop` it, or use it as a context manager."""

    def __init__(self, process: subprocess.Popen[str], url: str, password: str) -> None:
        super().__init__(url, password)
        self._process = process

    @classmethod
    def start(
        cls,
        docker_host: str,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        data: Path,
        password: str = "captain42",
        log: Path | None = None,
        endpoint_mode: str = "dnsrr",
        placeholder_image: str = "caprover/caprover-placeholder-app:latest",
        settle: float = 2.0,
        prune_after: float = 5.0,
    ) -> Self:
        """Start it on the swarm manager behind `docker_host`; returns when it listens. `data`: its JSON file."""
        options = {
            "--docker-host": docker_host,
            "--host": host,
            "--port": port,
            "--data": data,
            "--endpoint-mode": endpoint_mode,
            "--placeholder-image": placeholder_image,
            "--settle": settle,
            "--prune-after": prune_after,
        }
        if log:
            options["--log"] = log
        arguments = [str(part) for option in options.items() for part in option]
        errors = data.with_suffix(".stderr")
        with errors.open("a") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.sandbox.caprover", *arguments],
                cwd=ROOT,
                env=os.environ | {"STANDIN_PASSWORD": password},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        assert process.stdout is not None
        with process.stdout:
            url = process.stdout.readline().strip()
        if not url:
            process.wait()
            raise RuntimeError(f"the CapRover stand-in did not start:\n{errors.read_text()}")
        # What listens on every address is reached through loopback from here.
        return cls(process, url.replace("//0.0.0.0:", "//127.0.0.1:"), password)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=60)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
