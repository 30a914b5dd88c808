"""A Docker engine of the tests' own, a swarm's only node, in namespaces that take everything down with them."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
from docker.errors import DockerException

IMAGE = "capmig-contract:1"
APPLETS = ("sh", "echo", "sleep", "seq")
READY_TIMEOUT = 120.0

# The network namespace keeps swarm's fixed ports and the firewall apart from any other engine's, the mount namespace
# its mounts, and the PID namespace ends containers and their shims when it is killed. A containerd of the system's
# would act outside of them, so its socket is hidden, and dockerd starts one.
SCRIPT = """
echo $$ > "$1/outer.pid"
exec unshare --net --mount --pid --fork --kill-child --mount-proc sh -c '
  ip link set lo up
  if [ -d /run/containerd ]; then mount -t tmpfs tmpfs /run/containerd; fi
  exec dockerd --data-root "$1/data" --exec-root "$1/exec" --pidfile "$1/inner.pid" --host "unix://$1/docker.sock" \
    --group "$2" --bridge none --iptables=false --ip6tables=false' sh "$1" "$2"
"""


@contextmanager
def private_engine() -> Iterator[Path]:
    """The socket of an engine that is a swarm's only manager and holds `IMAGE`; as root, or with sudo."""
    folder = Path(tempfile.mkdtemp(prefix="capmig-"))  # short: a socket's path has at most 107 characters
    log = folder / "dockerd.log"
    command = [*_as_root(), "sh", "-c", SCRIPT, "sh", str(folder), str(os.getgid())]
    environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=environment)
    try:
        try:
            _prepare(folder / "docker.sock", process)
        except Exception as error:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
            raise RuntimeError(f"the engine for the tests did not start: {error}\n{tail}") from error
        yield folder / "docker.sock"
    finally:
        pid = folder / "outer.pid"
        if process.poll() is None and pid.exists():
            subprocess.run([*_as_root(), "kill", "-KILL", pid.read_text().strip()], check=False)
        process.wait(timeout=60)
        _remove(folder)


def _as_root() -> list[str]:
    return [] if os.geteuid() == 0 else ["sudo", "-n"]


def _prepare(socket: Path, process: subprocess.Popen[bytes]) -> None:
    image = _image()
    deadline = time.monotonic() + READY_TIMEOUT
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"dockerd ended with {process.returncode}")
        try:
            if socket.exists():
                client = docker.APIClient(base_url=f"unix://{socket}", timeout=60)
                break
        except DockerException:
            if time.monotonic() > deadline:
                raise
        if time.monotonic() > deadline:
            raise TimeoutError(f"no answer within {READY_TIMEOUT:.0f} s")
        time.sleep(0.2)
    try:
        client.init_swarm(advertise_addr="127.0.0.1", listen_addr="127.0.0.1:2377")
        repository, tag = IMAGE.split(":")
        client.import_image_from_data(image, repository=repository, tag=tag)
    finally:
        client.close()


def _image() -> bytes:
    """A root file system that is little more than a shell."""
    busybox = shutil.which("busybox")
    if busybox is None or subprocess.run(["ldd", busybox], capture_output=True, check=False).returncode == 0:
        raise RuntimeError("a statically linked busybox is needed: install the package busybox-static")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for folder in ("bin", "tmp", "etc", "proc", "sys", "dev"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
        tar.add(Path(busybox).resolve(), "bin/busybox")
        for applet in APPLETS:
            info = tarfile.TarInfo(f"bin/{applet}")
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(info)
    return archive.getvalue()


def _remove(folder: Path) -> None:
    """Delete the folder; the kernel may take a moment to let go of the last mount."""
    deadline = time.monotonic() + 60
    while folder.exists():
        done = subprocess.run([*_as_root(), "rm", "-rf", str(folder)], capture_output=True, text=True, check=False)
        if done.returncode != 0 and time.monotonic() > deadline:
            raise RuntimeError(f"{folder} could not be removed: {done.stderr}")
        time.sleep(0.2)
