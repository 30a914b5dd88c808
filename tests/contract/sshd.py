"""A real OpenSSH server on loopback, with a stand-in for the Docker engine behind it."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from capmig.inputs import SshManager

PATIENCE = 60.0

# Like docker's own: copies both ways, passes a half-close on, and ends when the engine closes.
_DIAL_STDIO = """\
#!{python} -IS
import os, socket, sys, threading
engine = socket.socket(socket.AF_UNIX)
try:
    engine.connect({socket!r})
except OSError as error:
    sys.exit("failed to open the raw stream connection: dial unix /var/run/docker.sock: connect: " + error.strerror)
def send():
    while data := os.read(0, 65536):
        engine.sendall(data)
    engine.shutdown(socket.SHUT_WR)
threading.Thread(target=send, daemon=True).start()
while data := engine.recv(65536):
    view = memoryview(data)
    while view:
        view = view[os.write(1, view):]
os._exit(0)
"""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """A short answer; the connection stays open for more, as Docker's does."""
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"OK")

    def do_POST(self) -> None:
        """Read until the client's half-close, then send all of it back and close: as an attached stream ends."""
        body = self.rfile.read()
        self.wfile.write(body)
        self.close_connection = True

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = False
    request_queue_size = 128  # of a unix socket a full queue refuses, and the default is 5

    def get_request(self) -> tuple[socket.socket, str]:
        connection, _ = super().get_request()
        return connection, "unix"

    def handle_error(self, request: object, client_address: object) -> None:
        """A link that is cut is what these tests are about."""


class FakeDocker:
    """What capmig's connection needs of an engine: it answers HTTP on a unix socket, until `stop`."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "engine.sock"
        self.command = folder / "bin" / "docker"
        self.command.parent.mkdir()
        self.set_command(_DIAL_STDIO.format(python=sys.executable, socket=str(self.socket)))
        self._server = _Server(str(self.socket), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def set_command(self, script: str) -> None:
        """Make this the `docker` command of the server."""
        self.command.write_text(script)
        self.command.chmod(0o755)

    def stop(self) -> None:
        """Close the socket and remove it: later connections find no engine."""
        if self.socket.exists():
            self._server.shutdown()
            self._thread.join()
            self.socket.unlink()
            self._server.server_close()


@dataclass(frozen=True)
class Key:
    private: str
    public: str


def make_key(folder: Path, name: str, *options: str) -> Key:
    """A new key pair; ed25519 without a passphrase unless the options of ssh-keygen say otherwise."""
    path = folder / name
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, *options, "-f", str(path)],
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return Key(path.read_text(), path.with_suffix(".pub").read_text())


class Sshd:
    """An sshd of its own on 127.0.0.1, with its own host key and its own authorized_keys."""

    def __init__(self, folder: Path, docker: FakeDocker, *, authorized: str, config: Iterable[str] = ()) -> None:
        self._folder = folder
        folder.mkdir()
        self.host_key = make_key(folder, "host")
        self._authorized = folder / "authorized_keys"
        self._authorized.write_text(authorized)
        self._docker = docker
        self._config = list(config)
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def known_hosts(self) -> str:
        return f"[127.0.0.1]:{self.port} {self.host_key.public}"

    def start(self) -> None:
        """Start, or start again on the same port."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        for _ in range(20):
            self.port = self.port or _free_port()
            self._run()
            if self._greets():
                return
            self.stop()
            self.port = 0
        raise AssertionError(f"sshd does not start: {self.log()}")

    def stop(self) -> None:
        """End the listener and every session."""
        if self._process is not None:
            for pid in [self._process.pid, *self.sessions()]:
                _kill(pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def freeze(self, *, listener: bool = False) -> None:
        """Stop all sessions: the peer is silent but not gone. With `listener`, new ones are not served either."""
        if listener and self._process is not None:
            _kill(self._process.pid, signal.SIGSTOP)
        for pid in self.sessions():
            _kill(pid, signal.SIGSTOP)

    def sessions(self) -> list[int]:
        """The processes of sshd that serve connections, and what they run."""
        return descendants(self._process.pid) if self._process is not None else []

    def log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")

    def _run(self) -> None:
        config = self._folder / "sshd_config"
        lines = [
            *self._config,  # the first one counts
            f"ListenAddress 127.0.0.1:{self.port}",
            f'HostKey "{self._folder}/host"',
            f'AuthorizedKeysFile "{self._authorized}"',
            f'SetEnv PATH="{self._docker.command.parent}:/usr/bin:/bin"',
            "PidFile none",
            "UsePAM no",
            "StrictModes no",
            "PermitRootLogin prohibit-password",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "LogLevel VERBOSE",
        ]
        config.write_text("\n".join(lines) + "\n")
        sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        assert sshd, "these tests need an OpenSSH server (Debian: openssh-server)"
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sshd, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _greets(self) -> bool:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self._process is not None and self._process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
                    return client.recv(4) == b"SSH-"
            except OSError:
                time.sleep(0.02)
        return False


def manager(sshd: Sshd, key: str) -> SshManager:
    """The inputs that reach this server."""
    return SshManager(
        host="127.0.0.1",
        user=getpass.getuser(),
        port=sshd.port,
        key=key,
        passphrase="",
        known_hosts=sshd.known_hosts,
        jump="",
    )


def wait_until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"gave up waiting until {what}"
        time.sleep(0.02)


def processes(word: str) -> dict[int, list[str]]:
    """The live processes that have this word in their command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (command := _command(int(entry.name))) and word in " ".join(command):
            found[int(entry.name)] = command
    return found


def descendants(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended
                continue
    found = [pid]
    for parent in found:
        found.extend(child for child, its in parents.items() if its == parent)
    return found[1:]


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0").split("\0")
    except OSError:  # it has ended
        return []


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
