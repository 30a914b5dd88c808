"""The process itself: what it says when something goes wrong that nobody has foreseen."""

from __future__ import annotations

import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

ENTRYPOINT = Path(__file__).parents[2] / "entrypoint.py"
TOKEN = "a-token-that-nobody-may-see"


class Answers(BaseHTTPRequestHandler):
    """What no Docker engine answers: an error of the reader's own comes of it."""

    protocol_version = "HTTP/1.1"
    body = b'{"ApiVersion": "1.41", "SystemTime": "' + TOKEN.encode() + b'\\n::add-mask::x"}'

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def address_string(self) -> str:
        return "a socket"

    def log_message(self, *_: object) -> None:
        """Nothing of it is printed."""


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Path]:
    socket = tmp_path / "docker.sock"
    with socketserver.ThreadingUnixStreamServer(str(socket), Answers) as server:
        server.daemon_threads = True
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield socket
        server.shutdown()
        serving.join()


def test_main__tells_what_nobody_has_foreseen(engine: Path, tmp_path: Path) -> None:
    """A mistake of capmig's own ends like any failure: outputs, what to do, a person asked for, and no secret."""
    outputs = tmp_path / "outputs"
    inputs = {"SERVER": "127.0.0.1:9", "APP": "shop", "TOKEN": TOKEN, "IMAGE": "i", "DOCKER-HOST": f"unix://{engine}"}
    runner = {"GITHUB_ACTIONS": "true", "GITHUB_OUTPUT": str(outputs), "PATH": os.environ["PATH"]}
    environ = {f"INPUT_{name}": value for name, value in inputs.items()} | runner
    command = [sys.executable, "-Eu", str(ENTRYPOINT)]

    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)

    assert ended.returncode == 3, ended
    assert not ended.stderr
    assert "::error::capmig itself failed: ValueError(" in ended.stdout
    assert "│ Traceback (most recent call last):" in ended.stdout
    assert "run mode: recover" in ended.stdout
    assert ended.stdout.replace(f"::add-mask::{TOKEN}", "").count(TOKEN) == 0
    assert "::add-mask::x" not in ended.stdout.splitlines()
    assert "needs-person" in outputs.read_text()


def test_main__tells_no_secret_when_the_inputs_cannot_be_read() -> None:
    """An error that nobody has foreseen, of the reading of the inputs itself, may hold what was given."""
    secret = ("TOKEN", "PASSWORD", "OTP", "SSH-KEY", "SSH-KEY-PASSPHRASE", "REGISTRY-PASSWORD")
    environ = {f"INPUT_{name}": f"{TOKEN}-{name}" for name in secret}
    code = "import sys, os; from capmig import main; main.parse = lambda env: {}[tuple(env.items())]; "
    command = [sys.executable, "-c", f"{code} sys.exit(main.main([], os.environ))"]

    ended = subprocess.run(
        command,
        env={**environ, "PATH": os.environ["PATH"]},
        cwd=ENTRYPOINT.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert ended.returncode == 3, ended
    assert "capmig itself failed: KeyError(" in ended.stdout
    assert TOKEN not in ended.stdout + ended.stderr
