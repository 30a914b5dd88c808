"""A CapRover stand-in within the test's process, on a fake engine, and the replay of captured requests against it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.fakes.caprover_engine import FakeEngine
from tests.sandbox.caprover.api import CapRover
from tests.sandbox.caprover.apps import Settings
from tests.sandbox.caprover.client import Controlled
from tests.sandbox.caprover.control import RequestLog
from tests.sandbox.caprover.server import Server
from tests.sandbox.caprover.store import Store

CAPTURES = Path(__file__).parents[1] / "data" / "caprover"
PATIENCE = 60.0


def capture(name: str) -> Any:
    return json.loads((CAPTURES / f"{name}.json").read_text())


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def comparable(data: Any) -> Any:
    """An answer without what differs from one run to the next: times, tokens, ids, the default nginx template."""
    if isinstance(data, dict):
        return {
            key: comparable(value) for key, value in data.items() if key not in {"defaultNginxConfig", "note", "token"}
        }
    if isinstance(data, list):
        return [comparable(item) for item in data if item != ""]  # the captures leave empty log lines out
    text = re.sub(r"^-{25} .*", "(date)", data) if isinstance(data, str) else data
    if isinstance(text, str):
        text = re.sub(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$", "(time)", text)
        text = re.sub(r"^[0-9a-f]{8}-[0-9a-f-]{27}$", "(id)", text)
        text = re.sub(r"^(APP-TOKEN|[0-9a-f]{64})$", "(app token)", text)
    return text


class Replay(Controlled):
    """Sends captured requests with live tokens in the place of the masked ones, and compares the answers."""

    def __init__(self, url: str, engine: FakeEngine) -> None:
        super().__init__(url, "captain42")
        self.engine = engine
        self.app_token = ""
        self.registry_id = ""
        self.threads = ThreadPoolExecutor(4)

    def fresh_session(self) -> str:
        self.api("GET", "/user/system/info")
        return self._session

    def send(self, name: str) -> requests.Response:
        """The answer to a captured request."""
        request = capture(name)["request"]
        text = json.dumps(request)
        if '"SESSION-TOKEN"' in text and self._session == "":
            self.fresh_session()
        live = {"SESSION-TOKEN": self._session, "APP-TOKEN": self.app_token}
        headers = {key: live.get(value, value) for key, value in request["headers"].items()}
        body = json.loads(json.dumps(request["body"]).replace("APP-TOKEN", self.app_token))
        if "registryId" in (body or {}):
            body["registryId"] = self.registry_id
        return requests.request(
            request["method"], self.url + request["path"], headers=headers, json=body, timeout=PATIENCE
        )

    def replay(self, *names: str) -> None:
        """Each capture in turn: the same HTTP status, type, CapRover status, description and data."""
        for name in names:
            self.check(name, self.send(name))

    def check(self, name: str, response: requests.Response) -> None:
        wanted = capture(name)["response"]
        assert response.status_code == wanted["http"], f"{name}: {response.text}"
        if not isinstance(wanted["body"], dict):
            assert response.text == wanted["body"], name
            assert response.headers["Content-Type"].split(";")[0] == wanted["content_type"].split(";")[0], name
            return
        assert response.headers["Content-Type"] == wanted["content_type"], name
        assert comparable(response.json()) == comparable(wanted["body"]), name

    def replay_meanwhile(self, name: str) -> Future[requests.Response]:
        """Send it from another thread; `check` is up to the caller."""
        return self.threads.submit(self.send, name)

    def ready_app(self, image: str = "testapp:1") -> None:
        """The app `web` as it is after capture 21, with `image` deployed."""
        self.app_token = self.create_app("web", image, instances=2)

    def wait_until_built(self, app: str = "web") -> None:
        wait_until(lambda: not self.build_status(app)["isAppBuilding"])

    def wait_until_started(self, app: str = "web") -> None:
        wait_until(lambda: f"Build started for {app}" in self.build_status(app)["logs"]["lines"])

    def images(self, app: str = "web") -> list[str | None]:
        """The images of all of an app's versions; None for one that was not built."""
        return [version.get("deployedImageName") for version in self.definition(app)["versions"]]

    def replicas(self) -> int:
        return int(self.engine.services["web"]["Spec"]["Mode"]["Replicated"]["Replicas"])

    def service_image(self, name: str = "web") -> str:
        return str(self.engine.services[name]["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"])


def service_like(found: dict[str, Any], name: str) -> None:
    """The service's spec equals the captured one but for the random label."""
    for spec in (found, wanted := capture(f"service-inspect-{name}")["Spec"]):
        spec["TaskTemplate"]["ContainerSpec"]["Labels"]["randomLabelForceUpdate"] = "(random)"
    assert found == wanted


@contextmanager
def standin_on_fake_engine(folder: Path) -> Iterator[Replay]:
    """Without CapRover's waits: an answer comes at once, and so does the prune."""
    engine = FakeEngine()
    settings = Settings(password="captain42", endpoint_mode="vip", settle=0.0, prune_after=0.0)
    store = Store(folder / "data.json", settings.placeholder_image)
    server = Server(CapRover(store, engine, settings), RequestLog(folder / "requests.log"), "127.0.0.1", 0)
    replay = Replay("http://{}:{}".format(*server.address), engine)
    try:
        yield replay
    finally:
        engine.service_updates_pass.set()
        server.close()
        replay.threads.shutdown()
