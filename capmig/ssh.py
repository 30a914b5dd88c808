"""The one SSH connection to the swarm manager: a local unix socket that speaks its Docker API.

One `ssh` master forwards the socket. Where the server forbids that, `docker system dial-stdio` runs over the same
master.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from capmig.errors import LinkLost, Refused
from capmig.inputs import SshManager
from capmig.ports import Clock, Log
from capmig.ssh_bridge import Bridge
from capmig.ssh_errors import Failure, explain_docker, explain_ssh
from capmig.ssh_key import write_key, write_private

# The manager's name in the configuration file: its block holds what must not apply to a jump host of any name.
_MANAGER = "capmig-manager"
_TRIES = 3
_PAUSE = 1.0
_WORTH_TRYING = 3.0  # seconds left; a login that is cut short only hides the reason of the one before


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds, and the remote socket. With the defaults ssh itself notices a frozen peer after about 20 s."""

    greeting: int = 10  # TCP connect and the server's greeting, of each hop
    login: float = 30  # all of a first login
    alive_interval: int = 5
    alive_count: int = 3
    ping: float = 5
    ensure: float = 15
    docker_socket: str = "/var/run/docker.sock"


def connect(manager: SshManager, *, clock: Clock, log: Log, limits: Limits | None = None) -> Connection:
    """Log in, check that a Docker engine answers, and return the connection; a passing failure is tried 3 times.

    Raises Refused, which names the input to change. Nothing is left behind then.
    """
    connection = Connection(manager, clock=clock, log=log, limits=limits or Limits())
    try:
        connection._open()
    except BaseException:
        connection.close()
        raise
    return connection


class Connection:
    """A live connection; made by `connect`. `socket`: the local unix socket, the same after each reconnect."""

    def __init__(self, manager: SshManager, *, clock: Clock, log: Log, limits: Limits) -> None:
        self._manager = manager
        self._clock = clock
        self._log = log
        self._limits = limits
        self._folder = Path(tempfile.mkdtemp(prefix="capmig-ssh-"))
        self._config = self._folder / "config"
        self._control = self._folder / "control"
        self._stderr = self._folder / "stderr"
        self._bridge_stderr = self._folder / "bridge-stderr"
        self._public_key = ""
        self._master: subprocess.Popen[bytes] | None = None
        self._bridge: Bridge | None = None
        self.socket = self._folder / "docker.sock"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ensure(self) -> None:
        """See that the Docker API answers; reconnect when it does not. At most 15 s, then LinkLost.

        Costs one ping when all is well.
        """
        began = self._clock.monotonic()
        deadline = began + self._limits.ensure
        if self._alive() and self._ping():
            return
        while failure := self._reconnect(deadline):
            if not failure.passing or self._clock.monotonic() + _PAUSE + _WORTH_TRYING > deadline:
                raise LinkLost(f"The SSH connection to {self._target()} is lost: {failure.problem}.", todo=failure.todo)
            self._clock.sleep(_PAUSE)
        self._log.info(f"connected to {self._target()} again after {self._clock.monotonic() - began:.1f} s")

    def close(self) -> None:
        """End ssh and delete the private folder with the key. Safe to call again."""
        if self._bridge is not None:
            self._bridge.close()
            self._bridge = None
        if self._alive():
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(
                    [*self._ssh(), "-O", "exit", _MANAGER],
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=2,
                    check=False,
                )
        self._end_master(grace=2)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _open(self) -> None:
        manager = self._manager
        self._public_key = write_key(manager.key, manager.passphrase, self._folder)
        write_private(self._folder / "known_hosts", manager.known_hosts.replace("\r\n", "\n") + "\n")
        write_private(self._config, configuration(manager, self._folder, self._limits))
        began = self._clock.monotonic()
        for left in reversed(range(_TRIES)):
            failure = self._start(self._limits.login)
            if failure is None:
                break
            if not failure.passing or not left:
                raise Refused([failure.problem], todo=failure.todo)
            self._clock.sleep(_PAUSE)
        way = self._reach_docker()
        self._log.info(f"connected to {self._target()} in {self._clock.monotonic() - began:.1f} s ({way})")

    def _reach_docker(self) -> str:
        """Find the way that works, and name it."""
        if self._ping():
            return "forwarded socket"
        self.socket = self._folder / "bridge.sock"
        # ProxyCommand is used only when there is no master: then this must fail, not log in by itself.
        command = [*self._ssh(), "-o", "ProxyCommand=/bin/false", _MANAGER, "docker system dial-stdio"]
        self._bridge = Bridge(self.socket, command, _environment(), self._bridge_stderr)
        if self._ping():
            return "docker system dial-stdio, for the server forbids forwarding"
        said = self._bridge_stderr.read_text(errors="replace")
        failure = explain_docker(said, user=self._manager.user, host=self._manager.host)
        raise Refused([failure.problem], todo=failure.todo)

    def _reconnect(self, deadline: float) -> Failure | None:
        self._end_master()
        failure = self._start(deadline - self._clock.monotonic())
        if failure is None and not self._ping(deadline - self._clock.monotonic()):
            failure = Failure(problem="the login works, but Docker does not answer", passing=True)
        return failure

    def _start(self, within: float) -> Failure | None:
        """Start a master and wait until it is logged in and forwards; on failure none is left."""
        deadline = self._clock.monotonic() + within
        self._control.unlink(missing_ok=True)
        with self._stderr.open("wb") as stderr:
            # A session of its own: a SIGINT to our process group must not end the connection that recovery needs.
            self._master = subprocess.Popen(
                [*self._ssh(), "-M", "-N", "-L", f"{self._forward()}:{self._limits.docker_socket}", _MANAGER],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        # ssh makes the control socket last: after the login, and after the forwarded socket.
        while not self._control.exists():
            ended = self._master.poll() is not None
            if ended or self._clock.monotonic() >= deadline:
                self._end_master()
                return self._explain(ended=ended, within=within)
            self._clock.sleep(0.02)
        return None

    def _explain(self, *, ended: bool, within: float) -> Failure:
        manager = self._manager
        if not ended:
            return Failure(
                problem=f"ssh-host: no login on {manager.host} port {manager.port} within {within:.0f} s", passing=True
            )
        said = self._stderr.read_text(errors="replace")
        return explain_ssh(said, host=manager.host, port=manager.port, public_key=self._public_key)

    def _ping(self, within: float | None = None) -> bool:
        limit = self._limits.ping if within is None else max(0.1, min(within, self._limits.ping))
        return answers(self.socket, limit)

    def _alive(self) -> bool:
        return self._master is not None and self._master.poll() is None

    def _end_master(self, grace: float = 0) -> None:
        """End ssh and the ssh of its jump hosts, by force after `grace` seconds: it has been seen to ignore SIGTERM."""
        master, self._master = self._master, None
        if master is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            master.wait(timeout=grace)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(master.pid, signal.SIGKILL)
        master.wait()

    def _forward(self) -> Path:
        return self._folder / "docker.sock"

    def _ssh(self) -> list[str]:
        return ["ssh", "-F", str(self._config), "-S", str(self._control)]

    def _target(self) -> str:
        return f"{self._manager.user}@{self._manager.host}"


def configuration(manager: SshManager, folder: Path, limits: Limits) -> str:
    """The whole ssh_config: with -F nothing of the user's or the system's counts. `Host *` serves jump hosts too."""
    jump = f"  ProxyJump {manager.jump}\n" if manager.jump else ""
    return f"""\
Host {_MANAGER}
  HostName {manager.host.replace("%", "%%")}
  Port {manager.port}
{jump}  ExitOnForwardFailure yes
  StreamLocalBindUnlink yes

Host *
  User {manager.user}
  IdentityFile "{folder}/key"
  IdentitiesOnly yes
  IdentityAgent none
  PreferredAuthentications publickey
  BatchMode yes
  StrictHostKeyChecking yes
  UserKnownHostsFile "{folder}/known_hosts"
  GlobalKnownHostsFile /dev/null
  UpdateHostKeys no
  ConnectTimeout {limits.greeting}
  ServerAliveInterval {limits.alive_interval}
  ServerAliveCountMax {limits.alive_count}
"""


def answers(path: Path, within: float) -> bool:
    """Whether an HTTP server answers a Docker ping on this unix socket within so many seconds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(within)
        try:
            client.connect(str(path))
            client.sendall(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
            return client.recv(64).startswith(b"HTTP/1.")
        except OSError:
            return False


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), "SHELL": "/bin/sh", "LC_ALL": "C"}
