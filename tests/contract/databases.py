"""Real database servers for one test session: in a temporary folder, on a unix socket, as an unprivileged user."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from capmig.backup.tool import program

UNPRIVILEGED = "nobody" if os.geteuid() == 0 else None
DEADLINE = 120.0


def wait_for(what: str, condition: Callable[[], object], timeout: float = DEADLINE) -> None:
    """Poll until the condition holds; TimeoutError says what it was."""
    give_up = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"waited {timeout:.0f} s for {what}")
        time.sleep(0.05)


@contextmanager
def folder() -> Iterator[Path]:
    """A folder that the unprivileged user may reach; pytest's own are closed to it."""
    path = Path(tempfile.mkdtemp(prefix="capmig-database-"))
    if UNPRIVILEGED:
        shutil.chown(path, UNPRIVILEGED)
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextmanager
def server(command: list[str], log: Path, answers: Callable[[], bool]) -> Iterator[None]:
    """Run a server until the block ends."""
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, user=UNPRIVILEGED) as process:
        try:
            wait_for(f"{command[0]} to answer", lambda: process.poll() is not None or answers())
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended:\n{log.read_text()}")
            yield
        finally:
            process.terminate()


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a script ended, and what it told its caller."""

    exit_code: int
    output: str

    @property
    def told(self) -> dict[str, str]:
        lines = [line.removeprefix("capmig: ") for line in self.output.splitlines() if line.startswith("capmig: ")]
        errors = [line.removeprefix("error=") for line in lines if line.startswith("error=")]
        words = [word.partition("=") for line in lines if not line.startswith("error=") for word in line.split()]
        return {name: value for name, _, value in words} | ({"error": errors[0]} if errors else {})


@dataclass(frozen=True, kw_only=True)
class Backups:
    """Runs an engine's script as its job would. `env`: what the job gets; `folder`: where the volume is."""

    engine: str
    folder: Path
    env: Mapping[str, str] = field(repr=False)
    path: str
    id: str = "shop/20260102T030405Z-shop-1.dump"
    commands: tuple[tuple[str, ...], ...] = ()

    def start(self, action: str, **more: str) -> subprocess.Popen[str]:
        env = {"PATH": self.path, "HOME": "/nonexistent", "LC_ALL": "C.UTF-8", "TMPDIR": str(self.folder.parent)}
        env |= {"CAPMIG_FOLDER": str(self.folder), "CAPMIG_ID": self.id, "CAPMIG_APP": "shop", "CAPMIG_KEEP": "2"}
        script = self.folder.with_name("script")
        script.write_text(program(self.engine, self.commands))
        return subprocess.Popen(
            ["sh", str(script), action],
            env=env | dict(self.env) | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, action: str, **more: str) -> Ran:
        """To its end, well or not."""
        with self.start(action, **more) as process:
            output, _ = process.communicate(timeout=DEADLINE)
        return Ran(exit_code=process.returncode, output=output)

    def works(self, action: str, **more: str) -> Ran:
        """To its end, which must be a good one."""
        ran = self.run(action, **more)
        assert ran.exit_code == 0, ran.output
        return ran

    def fails(self, action: str, **more: str) -> str:
        """To its end, which must be a bad one; the reason it gives."""
        ran = self.run(action, **more)
        assert ran.exit_code == 1, ran.output
        return ran.told["error"]

    @property
    def file(self) -> Path:
        return self.folder / self.id


def interrupting(folder: Path, programs: Mapping[str, str]) -> Path:
    """A folder of programs that count their calls, and kill all of the script just before call number KILL_AT."""
    folder.mkdir()
    for name, real in programs.items():
        wrapper = folder / name
        wrapper.write_text(
            "#!/bin/sh\n"
            "number=1\n"
            'until mkdir "$COUNT-$number" 2> /dev/null; do number=$((number + 1)); done\n'
            '[ "$number" -ne "$KILL_AT" ] || kill -KILL 0\n'
            f'exec {real} "$@"\n'
        )
        wrapper.chmod(0o755)
    return folder


def beside(folder: Path, path: str, name: str, text: str) -> str:
    """A PATH on which a shell program of this name comes before the real one, which it calls as REAL."""
    folder.mkdir()
    real = shutil.which(name, path=path)
    (folder / name).write_text(f"#!/bin/sh\n{text.replace('REAL', str(real))}\n")
    (folder / name).chmod(0o755)
    return f"{folder}:{path}"


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of its own that is soon full; made by root, or with sudo."""
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    path.mkdir()
    options = f"size={size},mode=1777"
    subprocess.run([*root, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run([*root, "umount", str(path)], check=True)
