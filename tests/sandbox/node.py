"""One node of the sandbox's swarm: a container with its own Docker engine and sshd."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import docker

from tests.sandbox.engine import client, run, wait_for

# Where --privileged is refused, because the machine itself lacks a capability, this is what a Docker engine needs.
CAPABILITIES = (
    *("SYS_ADMIN", "NET_ADMIN", "NET_RAW", "SYS_PTRACE", "SYS_NICE", "MKNOD", "SYS_CHROOT", "AUDIT_WRITE", "SETFCAP"),
    *("IPC_LOCK", "SYS_MODULE", "LINUX_IMMUTABLE", "DAC_READ_SEARCH", "SYSLOG", "SYS_TIME", "SYS_RAWIO", "SYS_BOOT"),
)
UNCONFINED = [
    *(f"--cap-add={capability}" for capability in CAPABILITIES),
    *(f"--security-opt={what}=unconfined" for what in ("seccomp", "apparmor", "systempaths")),
    "--device-cgroup-rule=a *:* rwm",
]


@dataclass(frozen=True, kw_only=True)
class Node:
    """`name` is the container's name and the node's host name; `folder` is shared with it."""

    name: str
    address: str
    folder: Path

    @property
    def socket(self) -> Path:
        return self.folder / "docker.sock"

    def client(self) -> docker.DockerClient:
        """A client of the node's engine; the caller closes it."""
        return client(self.socket)

    def create(
        self, *, image: str, network: str, host_key: Path, authorized_keys: dict[str, str], disk: str = ""
    ) -> None:
        """Start the container and wait until its engine answers. `authorized_keys`: file text by user.

        `disk`: the size of a disk of its own for all that its engine stores, such as 2g; in memory.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(host_key, self.folder / "host_key")
        (self.folder / "authorized_keys").mkdir(exist_ok=True)
        for user, text in authorized_keys.items():
            (self.folder / "authorized_keys" / user).write_text(text)
        if disk:
            volume = ["docker", "volume", "create", "--opt=type=tmpfs", "--opt=device=tmpfs", f"--opt=o=size={disk}"]
            run(*volume, self.name)
        # --init: dockerd, as the first process, would let the shims of ended containers lie there as zombies.
        command = ["docker", "run", "--detach", "--init", f"--name={self.name}", f"--hostname={self.name}"]
        command += [f"--network={network}", f"--ip={self.address}", "--label=capmig.sandbox=node"]
        command += [f"--volume={self.name}:/var/lib/docker", f"--volume={self.folder}:/sandbox"]
        command += [f"--env=SANDBOX_GROUP={os.getgid()}"]
        if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
            command += ["--cgroupns=host", "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw"]
        try:
            run(*command, "--privileged", image)
        except RuntimeError:
            run("docker", "rm", "--force", "--volumes", self.name)
            run(*command, *UNCONFINED, image)
        self.wait()

    def wait(self) -> None:
        """Wait until the engine answers; sshd does so before it."""
        wait_for(f"the engine of {self.name}", self._answers)

    def _answers(self) -> bool:
        if run("docker", "inspect", "--format={{.State.Running}}", self.name).strip() != "true":
            raise RuntimeError(f"{self.name} ended: {run('docker', 'logs', '--tail=20', self.name)}")
        run("docker", "--host", f"unix://{self.socket}", "version")
        return True

    def execute(self, *command: str) -> str:
        """Run a program on the node; its output."""
        if command[0] == "docker":
            # The same through the node's socket takes a tenth of the time.
            return run("docker", "--host", f"unix://{self.socket}", *command[1:])
        return run("docker", "exec", self.name, *command)

    def pause(self) -> None:
        """Freeze everything on the node, as a machine that hangs does."""
        run("docker", "pause", self.name)

    def unpause(self) -> None:
        run("docker", "unpause", self.name)
        self.wait()

    def restart(self) -> None:
        """Restart the node, as a reboot does, and wait until its engine answers."""
        run("docker", "restart", "--time=10", self.name)
        self.wait()

    def kill(self) -> None:
        """The node loses its power."""
        run("docker", "kill", self.name)

    def start(self) -> None:
        """Start a killed node, and wait until its engine answers."""
        run("docker", "start", self.name)
        self.wait()

    def revive(self) -> None:
        """Have the node run, whether it was frozen, killed, or neither."""
        run("docker", "unpause", self.name, check=False)
        self.start()

    def forget_image(self, image: str) -> None:
        """Have the node pull an image anew when it needs it next."""
        run("docker", "--host", f"unix://{self.socket}", "rmi", "--force", image, check=False)

    def remove(self) -> None:
        run("docker", "rm", "--force", self.name, check=False)
        run("docker", "volume", "rm", "--force", self.name, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
