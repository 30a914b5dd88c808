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

# sshd permits 10 sessions per connection (MaxSessions), and each idle connection of a client's pool is one.
_MOST = 9
_GRACE = 3.0


class Bridge:
    """Each connection to `path` becomes the stdin and stdout of one run of `command`; stderr goes to `stderr_file`.

    At most 9 run: for one more the oldest is ended first, which in a client with a pool is an idle one.
    """

    def __init__(self, path: Path, command: Sequence[str], environment: Mapping[str, str], stderr_file: Path) -> None:
        self._command = list(command)
        self._environment = environment
        self._stderr_file = stderr_file
        self._sessions: list[_Session] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._thread = threading.Thread(target=self._serve, name="ssh-bridge", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and end every session, at once."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which close() alone would not
        self._thread.join()
        self._listener.close()
        for session in self._sessions:
            session.end(grace=0)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._sessions = [session for session in self._sessions if session.lives()]
            while len(self._sessions) >= _MOST:
                self._sessions.pop(0).end(grace=_GRACE)
            self._sessions.append(_Session(client, self._start(client)))

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


class _Session:
    """A client and the process that serves it. The client's connection ends with the process."""

    def __init__(self, client: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self._client = client
        self._process = process
        self._thread = threading.Thread(target=self._follow, name="ssh-bridge-session", daemon=True)
        self._thread.start()

    def lives(self) -> bool:
        return self._thread.is_alive()

    def end(self, *, grace: float) -> None:
        """End of input first: the process then ends after the far side has, which frees the session there."""
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)
        self._thread.join(grace)
        if self.lives():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._thread.join()

    def _follow(self) -> None:
        self._process.wait()
        self._client.close()
