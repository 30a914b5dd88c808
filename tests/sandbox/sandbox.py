"""A real swarm on this machine: nodes with sshd, a registry, PostgreSQL, and the network that CapRover makes."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO

import docker

from tests.sandbox import images
from tests.sandbox.caprover.client import StandIn
from tests.sandbox.caprover.store import NETWORK
from tests.sandbox.engine import CACHE, HERE, client, run, timed, wait_for
from tests.sandbox.mariadb import MARIADB_SERVICE, MariaDB
from tests.sandbox.node import Node
from tests.sandbox.place import Place

DATABASE_SERVICE = "srv-captain--db"
DATABASE_PASSWORD = "pass-of-postgres"
# Shared by all sandboxes and kept when they go, as the images are: copying them anew takes longest.
REGISTRY_VOLUME = "capmig-registry-data"
REGISTRY_LOGIN = ("reader", "pass-of-reader")


@dataclass(frozen=True, kw_only=True)
class Ssh:
    """How to reach the manager. Keys are private keys as text; `known_hosts` is what ssh-keyscan would print.

    `key` logs in as root, as deployer (in the group docker) and as outsider (who may not use Docker).
    `forwarding_key` and `dial_key` log in as root and may only forward, or only run `docker system dial-stdio`.
    """

    host: str
    port: int
    known_hosts: str
    key: str = field(repr=False)
    forwarding_key: str = field(repr=False)
    dial_key: str = field(repr=False)


class Sandbox(Place):
    """One sandbox. `nodes[0]` is the manager, where the database runs; `docker` is a client of its engine."""

    registry = "registry:5000"
    private_registry = "registry:5001"
    prefix = "demo"
    database_host = database_service = DATABASE_SERVICE
    database_password = DATABASE_PASSWORD

    def __init__(self, name: str, subnet: str, nodes: int) -> None:
        self.name = self.network = name
        self.folder = CACHE / name
        self.gateway = f"{subnet}.1"
        self.nodes = [
            Node(name=f"{name}-node{i}", address=f"{subnet}.{10 + i}", folder=self.folder / f"node{i}")
            for i in range(1, nodes + 1)
        ]
        self._docker: docker.DockerClient | None = None
        self._caprover: StandIn | None = None
        self._mariadb: MariaDB | None = None
        self._lock: IO[str] | None = None

    @classmethod
    def up(cls, nodes: int = 1, name: str = "capmig-sandbox", *, disk: str = "") -> Sandbox:
        """The sandbox of this name, emptied of what earlier tests left; made anew unless all of it already runs.

        `disk`: how much each node can store, such as 2g, all of it in memory; without it, what the machine can.
        RuntimeError if another process uses it: two would remove each other's apps.
        """
        print(f"Sandbox {name}", flush=True)
        lock = _lock(name)
        try:
            sandbox = cls._up(nodes, name, disk)
        except BaseException:
            lock.close()
            raise
        sandbox._lock = lock
        return sandbox

    @classmethod
    def _up(cls, nodes: int, name: str, disk: str) -> Sandbox:
        with timed("images"):
            local = images.build_all()
            versions = images.variants(local["demoapp"])
        subnet = _subnet(name)
        if subnet is None or not cls(name, subnet, nodes)._complete(local):
            down(name)
            subnet = _create_network(name)
            cls(name, subnet, nodes)._create(local, disk)
        sandbox = cls(name, subnet, nodes)
        with timed("copy the images into the registry"):
            sandbox._fill_registry(local["postgres"], versions)
        with timed("database"):
            sandbox._ensure_database()
            sandbox.clean()
        return sandbox

    def down(self) -> None:
        """Remove the containers, networks and volumes; the images stay for the next time."""
        self._forget()
        try:
            down(self.name)
        finally:
            self.close()

    def close(self) -> None:
        """Stop the stand-in and let other processes use the sandbox; the swarm goes on running."""
        self._forget()
        if self._lock:
            self._lock.close()
            self._lock = None

    def _forget(self) -> None:
        if self._docker:
            self._docker.close()
            self._docker = None
        if self._caprover:
            self._caprover.stop()
            self._caprover = None

    @property
    def docker(self) -> docker.DockerClient:
        if self._docker is None:
            self._docker = self.nodes[0].client()
        return self._docker

    @property
    def manager(self) -> Node:
        return self.nodes[0]

    @property
    def caprover(self) -> StandIn:
        """The CapRover stand-in, started when first asked for; nodes and the action's container reach its URL."""
        if self._caprover is None:
            self._caprover = StandIn.start(
                f"unix://{self.nodes[0].socket}",
                host=self.gateway,
                data=self.folder / "caprover.json",
                placeholder_image=self.image("placeholder"),
                # CapRover waits 2 s after each update. An app's making has three; the action's deploy waits for none.
                settle=0.5,
            )
        return self._caprover

    @property
    def ssh(self) -> Ssh:
        host = self.nodes[0].address
        keys = {name: (self.folder / "keys" / name).read_text() for name in ("key", "forwarding", "dial")}
        host_key = " ".join((self.folder / "keys" / "host.pub").read_text().split()[:2])
        return Ssh(
            host=host,
            port=22,
            known_hosts="".join(f"{node.address} {host_key}\n" for node in self.nodes),
            key=keys["key"],
            forwarding_key=keys["forwarding"],
            dial_key=keys["dial"],
        )

    @property
    def access(self) -> dict[str, str]:
        ssh = self.ssh
        return {"ssh-host": ssh.host, "ssh-key": ssh.key, "ssh-known-hosts": ssh.known_hosts}

    def image(self, version: str, *, private: bool = False) -> str:
        """The demo app's image as the nodes know it; from the registry that wants REGISTRY_LOGIN if `private`."""
        return f"{self.private_registry if private else self.registry}/demo:{version}"

    @property
    def postgres_image(self) -> str:
        return f"{self.registry}/postgres:15"

    @property
    def mariadb(self) -> MariaDB:
        """MariaDB, started when it is first asked for."""
        if self._mariadb is None:
            self._mariadb = MariaDB(manager=self.manager)
            if not self._mariadb.runs():
                image = self.push(images.build(HERE / "mariadb"), "mariadb", "10")
                self._mariadb.start(image, self.manager.name)
        return self._mariadb

    def clean(self) -> None:
        """Take the sandbox back to how it was new: no apps, no stand-in, no databases, nothing of the action's."""
        self._forget()
        (self.folder / "caprover.json").unlink(missing_ok=True)
        manager = self.nodes[0]
        for kind in ("service", "config", "secret"):
            names = manager.execute("docker", kind, "ls", "--format={{.Name}}").split()
            for name in names:
                if name not in (DATABASE_SERVICE, MARIADB_SERVICE):
                    manager.execute("docker", kind, "rm", name)
        # The containers of tasks are removed with their service.
        lines = manager.execute("docker", "ps", "--all", '--format={{.ID}} {{.Label "com.docker.swarm.task.id"}}')
        for line in lines.splitlines():
            container, *task = line.split()
            if not task:
                manager.execute("docker", "rm", "--force", "--volumes", container)
        self.drop_databases()
        server = MariaDB(manager=manager)
        if server.runs():
            server.clean()

    def _complete(self, local: Mapping[str, str]) -> bool:
        """Whether all of it runs, made from today's recipes."""
        wanted = {node.name: local["node"] for node in self.nodes} | {f"{self.name}-registry": local["registry"]}
        if _containers(self.name) != wanted:
            return False
        try:
            states = self.nodes[0].execute("docker", "node", "ls", "--format={{.Status}}").split()
        except RuntimeError:
            return False
        return states == ["Ready"] * len(self.nodes)

    def _create(self, local: Mapping[str, str], disk: str) -> None:
        with timed("registry"):
            self.folder.mkdir(parents=True, exist_ok=True)
            command = ["docker", "run", "--detach", f"--name={self.name}-registry", f"--network={self.name}"]
            command += ["--network-alias=registry", f"--ip={self.gateway[:-1]}2", "--label=capmig.sandbox=registry"]
            command += ["--publish=127.0.0.1::5000", f"--volume={REGISTRY_VOLUME}:/var/lib/docker-registry"]
            run(*command, local["registry"])
        with timed("nodes"):
            keys = self._make_keys()
            for node in self.nodes:
                node.create(
                    image=local["node"],
                    network=self.name,
                    host_key=self.folder / "keys" / "host",
                    authorized_keys=keys,
                    disk=disk,
                )
        with timed("swarm"):
            manager, *workers = self.nodes
            command = ["docker", "swarm", "init", "--advertise-addr", manager.address]
            manager.execute(*command, "--default-addr-pool", "10.215.0.0/16")
            token = manager.execute("docker", "swarm", "join-token", "--quiet", "worker").strip()
            for node in workers:
                node.execute("docker", "swarm", "join", "--token", token, f"{manager.address}:2377")
            manager.execute("docker", "network", "create", "--driver=overlay", "--attachable", NETWORK)

    def _make_keys(self) -> dict[str, str]:
        """New keys for sshd and for whoever logs in; texts of authorized_keys by user."""
        folder = self.folder / "keys"
        folder.mkdir()
        public = {}
        for name in ("host", "key", "forwarding", "dial"):
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"sandbox {name}", "-f", str(folder / name))
            public[name] = (folder / f"{name}.pub").read_text()
        root = public["key"]
        root += f'restrict,port-forwarding,command="/bin/false" {public["forwarding"]}'
        root += f'restrict,command="docker system dial-stdio" {public["dial"]}'
        return {"root": root, "deployer": public["key"], "outsider": public["key"]}

    def _fill_registry(self, postgres: str, versions: Mapping[str, str]) -> None:
        self.push(postgres, "postgres", "15")
        for version, local in versions.items():
            self.push(local, "demo", version)

    def push(self, local: str, name: str, tag: str) -> str:
        """Copy an image of this machine's engine into the registry; its name for the nodes."""
        port = run("docker", "port", f"{self.name}-registry", "5000/tcp").rpartition(":")[2].strip()
        # Sandboxes share the volume, and a registry does not expect another one's half-written files.
        with (CACHE / "registry.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            images.push(local, f"127.0.0.1:{port}", name, tag)
        return f"{self.registry}/{name}:{tag}"

    def _ensure_database(self) -> None:
        """Start PostgreSQL unless it runs."""
        manager = self.nodes[0]
        if DATABASE_SERVICE not in manager.execute("docker", "service", "ls", "--format={{.Name}}").split():
            command = ["docker", "service", "create", "--quiet", "--detach", f"--name={DATABASE_SERVICE}"]
            # Virtual addresses need a kernel module that not every machine has.
            command += [f"--network={NETWORK}", "--endpoint-mode=dnsrr"]
            command += [f"--constraint=node.hostname=={manager.name}", f"--env=POSTGRES_PASSWORD={DATABASE_PASSWORD}"]
            command += ["--mount=type=volume,source=db-data,target=/var/lib/postgresql/data"]
            manager.execute(*command, self.postgres_image)
        wait_for("the database", lambda: self.psql("SELECT 1") == [["1"]])


def _lock(name: str) -> IO[str]:
    """The sandbox's lock, held until it is closed."""
    CACHE.mkdir(parents=True, exist_ok=True)
    lock = (CACHE / f"{name}.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise RuntimeError(f"the sandbox {name} is in use by another process") from None
    return lock


def down_all() -> None:
    """Remove every sandbox of this machine."""
    for name in run("docker", "network", "ls", "--filter=label=capmig.sandbox", "--format={{.Name}}").split():
        down(name)


def down(name: str) -> None:
    """Remove a sandbox's containers, network and volumes, complete or not."""
    for container in _containers(name):
        run("docker", "rm", "--force", "--volumes", container)
        # A node's volume is named like its container; the registry has none of its own.
        run("docker", "volume", "rm", "--force", container, check=False)
    run("docker", "network", "rm", name, check=False)
    shutil.rmtree(CACHE / name, ignore_errors=True)


def _containers(name: str) -> dict[str, str]:
    """A sandbox's containers and the images they were made from; a stopped one has none."""
    found = {}
    with_engine = client()
    try:
        for container in with_engine.containers.list(all=True, filters={"network": name, "label": "capmig.sandbox"}):
            running = container.status == "running"
            found[str(container.name)] = str(container.attrs["Config"]["Image"]) if running else ""
    finally:
        with_engine.close()
    return found


def _subnet(name: str) -> str | None:
    """The first three numbers of the sandbox's network, if there is one."""
    found = run("docker", "network", "inspect", "--format={{(index .IPAM.Config 0).Subnet}}", name, check=False)
    return found.rpartition(".")[0] or None


def _create_network(name: str) -> str:
    """Create the network with the first subnet that is free; its first three numbers."""
    problem: RuntimeError | None = None
    for number in range(16):
        subnet = f"10.214.{number}"
        try:
            command = ["docker", "network", "create", "--label=capmig.sandbox=network", f"--subnet={subnet}.0/24"]
            run(*command, f"--gateway={subnet}.1", name)
        except RuntimeError as error:
            problem = error
        else:
            return subnet
    raise RuntimeError("no subnet is free for the sandbox") from problem
