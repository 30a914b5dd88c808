"""A local unix socket in front of `docker system dial-stdio`, for servers that forbid to forward a socket."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

# sshd permits 10 sessions per connection (MaxSessions). Clients keep idle connections open, each a
# session, and a session that was ended takes a moment to go.
_MOST = 6


class Bridge:
    """Each connection to `path` becomes the stdin and stdout of one run of `command`; stderr goes to `stderr_file`.

    When more than 6 are open the oldest is ended: with one thread of use it is an idle one of the client's pool.
    """

    def __init__(self, path: Path, command: Sequence[str], environment: Mapping[str, str], stderr_file: Path) -> None:
        self._command = list(command)
        self._environment = environment
        self._stderr_file = stderr_file
        self._running: list[subprocess.Popen[bytes]] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._serve, name="ssh-bridge", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and end every session."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() alone would not
        self._thread.join()
        self._listener.close()
        for process in self._running:
            _end(process)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                self._running = [process for process in self._running if process.poll() is None]
                while len(self._running) >= _MOST:
                    _end(self._running.pop(0))
                self._running.append(self._start(client))

    def _start(self, client: socket.socket) -> subprocess.Popen[bytes]:
        # ssh hands its stdin and stdout to the master, so the master itself reads and writes this socket, and a
        # half-close by the client arrives as end of input: no bytes pass through here.
        with self._stderr_file.open("ab") as stderr:
            return subprocess.Popen(
                self._command,
                stdin=client.fileno(),
                stdout=client.fileno(),
                stderr=stderr,
                env=self._environment,
                start_new_session=True,
            )


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
