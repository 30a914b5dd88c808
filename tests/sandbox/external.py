"""A CapRover that runs already, as a place for the tests.

It may be somebody's: nothing is touched there but what the tests made.
"""

from __future__ import annotations

import base64
import io
import json
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from capmig import ssh
from capmig.actions import Reporter
from capmig.errors import Refused
from capmig.inputs import SshManager
from tests.sandbox import images
from tests.sandbox.caprover.client import ApiError, Client
from tests.sandbox.caprover.store import NETWORK
from tests.sandbox.engine import run, timed, wait_for
from tests.sandbox.place import Place
from tests.sandbox.variables import START, Server, by_variable

# What the names of all that the tests make there begin with.
PREFIX = "e2e-capmig"
BACKUPS = "capmig-backups"  # the action's volume
DATABASE = "postgres-15"  # the tag of its image


class Unusable(Exception):
    """The server cannot be used; nothing was changed there."""


@dataclass(frozen=True, kw_only=True)
class RemoteManager:
    """A manager by its Docker socket, which `ensure` sees to. `settings`: more environment for the docker program."""

    socket: Path
    ensure: Callable[[], None]
    settings: Mapping[str, str]
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock)

    def execute(self, *command: str) -> str:
        program, *arguments = command
        if program != "docker":
            raise ValueError(f"{program} cannot be run there: only Docker is reached")
        with self._one_at_a_time:
            self.ensure()
        return run("docker", f"--host=unix://{self.socket}", *arguments, env=self.settings)


class Guest(Client):
    """An administrator who waits until CapRover has done what others asked of it, and never holds it up."""

    def deploy(self, name: str, image: str, *, detached: bool = True) -> None:
        """Always detached, since a deploy that is queued would block every other request; returns when it is done."""
        super().deploy(name, image, detached=True)

        def done() -> bool:
            status = self.build_status(name)
            if status["isBuildFailed"]:
                raise ApiError(1109, f"cannot deploy {image}:\n" + "\n".join(status["logs"]["lines"]))
            app = self.definition(name)
            deployed = {each["version"]: each.get("deployedImageName") for each in app["versions"]}
            return deployed.get(app["deployedVersion"]) == image and not app["isAppBuilding"]

        wait_for(f"CapRover to deploy {image}", done, timeout=300)

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None, headers: Mapping[str, str]) -> Any:
        deadline = time.monotonic() + 300
        while True:
            try:
                return super()._send(method, path, body, headers)
            except ApiError as error:
                busy = error.status == 429 or "Build in-progress" in str(error)
                if not busy or time.monotonic() > deadline:
                    raise
            time.sleep(0.5)


class External(Place):
    """The place on such a server. Made by `at`, which also removes all of it again."""

    # What this machine reaches, the action's container reaches too.
    network = "host"

    def __init__(self, server: Server, manager: RemoteManager) -> None:
        self.prefix = f"{PREFIX}-{secrets.token_hex(3)}"
        self.database_service = f"{self.prefix}-db"
        self.database_host = f"srv-captain--{self.database_service}"
        self.database_password = f"pass-{secrets.token_hex(8)}"
        self._server = server
        self._manager = manager
        self._caprover = Guest(server.url, server.password)
        if not isinstance(server.manager, SshManager):
            self.socket = manager.socket

    @property
    def manager(self) -> RemoteManager:
        return self._manager

    @property
    def caprover(self) -> Client:
        return self._caprover

    @property
    def access(self) -> dict[str, str]:
        # The socket is mounted where the runner mounts its own.
        here = {"docker-host": "unix:///var/run/docker.sock"} if self.socket else {}
        return {**self._server.access, **here}

    def image(self, version: str) -> str:
        return f"{self._server.repository}:{version}"

    def clean(self) -> None:
        self._remove(but=self.database_service)
        self.drop_databases()

    def check(self) -> None:
        """Unusable unless all that is needed is there, and nothing of an earlier run."""
        try:
            apps = self._caprover.api("GET", "/user/apps/appDefinitions")["appDefinitions"]
        except ApiError as error:
            raise Unusable(f"CapRover does not accept {START}CAPROVER_PASSWORD: {error}") from error
        except requests.RequestException as error:
            raise Unusable(f"{START}CAPROVER_URL: {self._server.url} does not answer: {error}") from error
        if not json.loads(self._docker("info", "--format={{json .Swarm.ControlAvailable}}")):
            raise Unusable("The Docker engine that was reached is no swarm manager.")
        if NETWORK not in self._names("network"):
            raise Unusable(f"The swarm has no network {NETWORK}: CapRover runs on another one.")
        names, services = {str(app["appName"]) for app in apps}, set(self._names("service"))
        if names and not services & (names | {f"srv-captain--{name}" for name in names}):
            raise Unusable(f"The swarm has no service of any app of {self._server.url}: that runs on another swarm.")
        if left := sorted(name for name in {*names, *services, *self._names("config")} if PREFIX in name):
            raise Unusable(
                f"Other tests run there now, or were killed and left this: {', '.join(left)}. "
                "If none run, delete these apps in CapRover, and the rest with docker on the manager."
            )

    @contextmanager
    def furnished(self, local: Mapping[str, str]) -> Iterator[None]:
        """With the images (local names by tag) in the registry, and a database; afterwards as it was before."""
        with ExitStack() as stack:
            before = set(self._own_images())
            stack.callback(self._remove_images, before)
            with timed("copy the images into the registry and to the manager"):
                for tag, name in local.items():
                    images.copy(name, f"{self._server.pushed_to}:{tag}", env=self._manager.settings)
                    self._docker("pull", "--quiet", self.image(tag))
            stack.callback(self._remove_backups, made=BACKUPS not in self._names("volume"))
            stack.callback(self._remove_containers)
            stack.callback(self._remove)
            with timed("database"):
                node = self._docker("info", "--format={{.Swarm.NodeID}}").strip()
                login = {"POSTGRES_PASSWORD": self.database_password}
                # The tests speak to it through the manager's engine.
                self._caprover.create_app(self.database_service, self.image(DATABASE), env=login, nodeId=node)
                wait_for("the database", lambda: self.psql("SELECT 1") == [["1"]])
            yield

    def _remove(self, but: str = "") -> None:
        """All apps of these tests but this one, and what deploys or tests of them left."""
        for app in self._caprover.api("GET", "/user/apps/appDefinitions")["appDefinitions"]:
            if app["appName"].startswith(self.prefix) and app["appName"] != but:
                self._caprover.delete_app(app["appName"])
        for kind in ("service", "config"):
            for name in self._names(kind):
                if self.prefix in name and name != but:
                    self._docker(kind, "rm", name)

    def _remove_containers(self) -> None:
        """All that were made from the tests' images: swarm leaves those of a job behind when the job is removed."""

        def gone() -> bool:
            for container in self._own_containers():
                # Another one may remove it at the same time, which is an error, and tried again.
                self._docker("rm", "--force", "--volumes", container)
            return not self._own_containers()

        wait_for("the tests' containers to be removed", gone)

    def _remove_backups(self, *, made: bool) -> None:
        """Of these tests; and their volume, if it came with them and holds nothing else."""
        if BACKUPS not in self._names("volume"):
            return
        command = ["run", "--rm", "--network=none", f"--volume={BACKUPS}:/backups", "--entrypoint=sh", self.image("v1")]
        others = self._docker(*command, "-c", f"rm -rf /backups/{self.prefix}-*; ls -A /backups")
        if made and not others.strip():
            self._docker("volume", "rm", BACKUPS)

    def _remove_images(self, before: set[str]) -> None:
        """From the manager, unless they were there before."""
        for image in self._own_images():
            if image not in before:
                self._docker("rmi", "--force", image)

    def _own_images(self) -> list[str]:
        listed = self._docker("image", "ls", "--format={{.Repository}}:{{.Tag}}", self._server.repository)
        return [name for name in listed.split() if not name.endswith(":<none>")]

    def _own_containers(self) -> list[str]:
        listed = self._docker("ps", "--all", "--no-trunc", "--format={{.Image}} {{.ID}}").splitlines()
        return [line.split()[1] for line in listed if line.startswith(f"{self._server.repository}:")]

    def _names(self, kind: str) -> list[str]:
        return self._docker(kind, "ls", "--format={{.Name}}").split()

    def _docker(self, *arguments: str) -> str:
        return self._manager.execute("docker", *arguments)


@contextmanager
def at(server: Server, local: Callable[[], Mapping[str, str]]) -> Iterator[External]:
    """The place on this server. `local` has the images built: names by tag, once the server is known to be usable.

    Unusable if it is not; nothing was changed there then.
    """
    print(f"CapRover at {server.url}", flush=True)
    with ExitStack() as stack:
        settings = stack.enter_context(_login(server))
        if isinstance(server.manager, SshManager):
            log = Reporter({}, io.StringIO())
            try:
                link = stack.enter_context(ssh.connect(server.manager, clock=time, log=log))
            except Refused as refused:
                raise Unusable("\n".join([*map(by_variable, refused.problems), refused.todo])) from refused
            manager = RemoteManager(socket=link.socket, ensure=link.ensure, settings=settings)
        else:
            manager = RemoteManager(socket=Path(server.manager.socket), ensure=lambda: None, settings=settings)
        place = External(server, manager)
        try:
            place.check()
        except RuntimeError as error:
            raise Unusable(f"The manager's Docker does not answer as it should: {error}") from error
        stack.enter_context(place.furnished(local()))
        yield place


@contextmanager
def _login(server: Server) -> Iterator[dict[str, str]]:
    """For the docker program: the registry's login, if one was given, else whatever this machine's user has."""
    if server.login is None:
        yield {}
        return
    with tempfile.TemporaryDirectory() as folder:
        login = base64.b64encode(f"{server.login.username}:{server.login.password}".encode()).decode()
        registries = {name.partition("/")[0] for name in (server.repository, server.pushed_to)}
        path = Path(folder) / "config.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps({"auths": {registry: {"auth": login} for registry in registries}}))
        yield {"DOCKER_CONFIG": folder}
