"""The Docker engine that the sandbox runs in: the machine's own, or the one that setup.sh started."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import docker

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("CAPMIG_SANDBOX_CACHE", "/var/tmp/capmig-sandbox"))


@cache
def socket() -> Path:
    """The engine's socket; RuntimeError where no engine answers."""
    ours = CACHE / "engine" / "docker.sock"
    theirs = Path(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"))
    for path in (ours, theirs):
        command = ["docker", "-H", f"unix://{path}", "version"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return path
    raise RuntimeError("no Docker engine answers: run tests/sandbox/setup.sh first")


def answers() -> bool:
    """Whether there is an engine."""
    try:
        socket()
    except (RuntimeError, FileNotFoundError):
        return False
    return True


def client(path: Path | None = None) -> docker.DockerClient:
    """A docker-py client of the outer engine, or of the one behind another socket. The caller closes it."""
    return docker.DockerClient(base_url=f"unix://{path or socket()}", timeout=60)


def environment() -> dict[str, str]:
    """This process's environment for a `docker` command line client, which then talks to the outer engine."""
    return os.environ | {"DOCKER_HOST": f"unix://{socket()}"}


def run(*command: str, check: bool = True, env: Mapping[str, str] | None = None) -> str:
    """Run a program; its standard output. RuntimeError with its words if it fails and `check` is set.

    `env` is added to its environment.
    """
    done = subprocess.run(command, capture_output=True, text=True, env=environment() | dict(env or {}), check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} → {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def wait_for(what: str, condition: Callable[[], object], *, timeout: float = 120) -> None:
    """Poll until the condition is true; TimeoutError that names what was waited for, with the last error seen."""
    deadline = time.monotonic() + timeout
    last: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if condition():
                return
            last = None
        except (docker.errors.DockerException, OSError, RuntimeError) as error:
            last = error
        time.sleep(0.1)
    raise TimeoutError(f"waited {timeout:.0f} s for {what}") from last


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Print how long a set-up step took."""
    start = time.monotonic()
    yield
    print(f"  {time.monotonic() - start:6.1f} s  {what}", flush=True)
