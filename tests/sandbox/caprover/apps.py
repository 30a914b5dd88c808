"""What CapRover does with its apps: register, Save & Update, deploy, delete. One object lives from start to restart."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.sandbox.caprover.builds import BuildLog, Builds, Source
from tests.sandbox.caprover.control import Switches
from tests.sandbox.caprover.store import Declined, Json, Store
from tests.sandbox.caprover.swarm import ANONYMOUS, Engine, EngineError, first_spec, service_name, updated_spec


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Fixed for the life of the stand-in. Seconds: the wait after each service update, and the prune's delay."""

    password: str
    # `dnsrr` where the kernel has no IP_VS, and so virtual addresses do not answer; CapRover itself leaves `vip`
    endpoint_mode: str = "dnsrr"
    placeholder_image: str = "caprover/caprover-placeholder-app:latest"
    settle: float = 2.0
    prune_after: float = 5.0


class ProcessGoneError(Exception):
    """This CapRover was restarted meanwhile: the rest of its work never happens."""


class Apps:
    """Every method blocks as long as CapRover's answer would; errors are Declined (HTTP 200) or anything else (500)."""

    def __init__(
        self, store: Store, engine: Engine, settings: Settings, switches: Switches, *, crash: Callable[[], None]
    ) -> None:
        self._store = store
        self._engine = engine
        self._settings = settings
        self._switches = switches
        self._crash = crash
        self._gone = threading.Event()
        self._timers: list[threading.Timer] = []
        self.builds = Builds(self._build, on_queued_failure=self._queued_failure)

    def close(self) -> None:
        """As when the process dies: nothing that is under way goes further."""
        self._gone.set()
        self.builds.close()
        for timer in self._timers:
            timer.cancel()

    def _check_alive(self) -> None:
        if self._gone.is_set():
            raise ProcessGoneError

    def definitions(self) -> list[Json]:
        return [
            self._store.app(name) | {"appName": name, "isAppBuilding": self.builds.is_building(name)}
            for name in self._store.names()
        ]

    def register(self, name: str, *, persistent: bool) -> None:
        self._store.register(name, persistent=persistent, legacy=name in self._switches.legacy_apps)
        self._ensure_service(name)

    def update(self, body: Json, *, merge: bool) -> None:
        """Save & Update; `merge` (PATCH) leaves alone what the body does not name."""
        name = str(body.get("appName"))
        if self.builds.is_building(name):
            raise Declined(1108, f"Build in-progress for {name}. Please wait...")
        app = self._store.app(name)
        if merge:
            body = app | body
        self._store.update(name, body, node_id=self._node_id(name, app, body))
        self._ensure_service(name)

    def _node_id(self, name: str, app: Json, body: Json) -> str:
        node_id = str(body.get("nodeId") or "")
        if not app["hasPersistentData"]:
            if body.get("volumes"):
                raise Declined(1108, "Cannot set volumes for a non-persistent container!")
            return node_id
        node_id = node_id or app.get("nodeId") or self._engine.node_of(service_name(name, app))
        if not node_id:
            raise Declined(1000, "No NodeId was found. Try again in a minute...")
        return node_id

    def delete(self, name: str) -> None:
        if self.builds.is_building(name):
            raise Declined(1108, f"Build in-progress for {name}. Please wait...")
        service = service_name(name, self._store.app(name))
        if self._engine.service(service):
            self._engine.remove_service(service)
        self._store.delete(name)
        self._gone.wait(self._settings.settle)

    def deploy(self, name: str, body: Json) -> Future[None]:
        """Schedule a build; Declined when there is nothing to build or no such app."""
        self._store.app(name)
        content = body.get("captainDefinitionContent")
        if not content:
            what = "Either uploadedTarPathSource or captainDefinitionContent should be provided, but not both."
            raise Declined(1108, what)
        text = content if isinstance(content, str) else "[object Object]"
        return self.builds.schedule(name, Source(content=text, git_hash=str(body.get("gitHash") or "")))

    def build_status(self, name: str) -> Json:
        log = self.builds.log(name)
        return {
            "isAppBuilding": self.builds.is_building(name),
            "logs": log.as_json(),
            "isBuildFailed": log.failed,
        }

    def runtime_logs(self, name: str, encoding: str) -> str:
        raw = self._engine.service_logs(service_name(name, self._store.app(name)))
        return raw.hex() if encoding == "hex" else raw.decode("utf-8" if encoding == "utf8" else "latin-1", "replace")

    def _build(self, name: str, source: Source, log: BuildLog) -> None:
        version = self._store.new_version(name)
        log.clear()
        log.add(
            f"------------------------- {datetime.now(UTC):%a %b %d %Y %H:%M:%S} GMT+0000 (Coordinated Universal Time)"
        )
        log.add(f"Build started for {name}")
        self._switches.wait_to_build(self._gone)
        self._check_alive()
        try:
            image = self._pull(source, log)
        except Exception:
            log.add("Build has failed!")
            raise
        self._check_alive()
        log.add("Build has finished successfully!")
        self._store.set_deployed(name, version, image, source.git_hash)
        self.builds.finished(name)
        self._ensure_service(name)

    def _pull(self, source: Source, log: BuildLog) -> str:
        definition: Any = json.loads(source.content)
        if definition.get("schemaVersion") != 2:
            what = "Captain Definition version is not supported! Read migration guides to schemaVersion 2"
            raise Declined(1000, what)
        if not definition.get("imageName"):
            raise Declined(1109, "The stand-in deploys images only")
        image = str(definition["imageName"])
        log.add(f"An explicit image name was provided ({image}). Therefore, no build process is needed.")
        log.add(f"Pulling this image: {image} This process might take a few minutes.")
        if self._switches.refuse_deploys:
            raise EngineError(404, f"manifest for {image} not found: manifest unknown: manifest unknown")
        self._engine.pull(image, self._store.credentials_for(image))
        return image

    def _queued_failure(self) -> None:
        if self._switches.queued_failure_crashes:
            self._crash()

    def _ensure_service(self, name: str) -> None:
        app = self._store.app(name)
        image = next(
            (entry.get("deployedImageName") for entry in app["versions"] if entry["version"] == app["deployedVersion"]),
            None,
        )
        if not image:
            raise Declined(1110, "ImageName for deployed version is not available")
        service = service_name(name, app)
        self._check_alive()
        if not self._engine.service(service):
            spec = first_spec(service, self._settings.placeholder_image, self._settings.endpoint_mode)
            self._engine.create_service(spec)
        if app.get("preDeployFunction"):
            raise RuntimeError("the stand-in does not run a preDeployFunction")
        current = self._engine.service(service)
        if current is None:
            raise EngineError(404, f"service {service} not found")
        spec = updated_spec(current["Spec"], name, app, image)
        self._check_alive()
        if self._switches.take("failing_service_updates"):
            raise EngineError(500, "rpc error: code = Unknown desc = the stand-in was told to fail")
        self._engine.update_service(current, spec, self._store.credentials_for(image) or ANONYMOUS)
        timer = threading.Timer(self._settings.prune_after, self._prune)
        timer.daemon = True
        self._timers = [old for old in self._timers if old.is_alive()] + [timer]
        timer.start()
        self._gone.wait(self._settings.settle)

    def _prune(self) -> None:
        with suppress(EngineError):  # one that runs already is a conflict
            self._engine.prune()
