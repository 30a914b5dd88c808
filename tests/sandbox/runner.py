"""Run a container action as GitHub's runner does: the same docker build and run lines, mounts, files and signals.

After actions/runner: ContainerActionHandler.cs, DockerCommandManager.cs, FileCommandManager.cs, ProcessInvoker.cs.
"""

from __future__ import annotations

import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.sandbox import engine
from tests.sandbox.engine import environment, run, wait_for

LABEL = "ca9319"
FILES = {
    "GITHUB_OUTPUT": "set_output",
    "GITHUB_STATE": "save_state",
    "GITHUB_STEP_SUMMARY": "step_summary",
    "GITHUB_ENV": "set_env",
    "GITHUB_PATH": "add_path",
}


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """`exit_code`: the docker client's, negative if it was killed. `raw`: all that was printed, masks included.

    `log`: what the runner shows of it: without add-mask commands, and with *** for what they name.
    """

    exit_code: int
    raw: str = field(repr=False)
    log: str
    outputs: Mapping[str, str]
    state: Mapping[str, str]
    summary: str


@dataclass(frozen=True, kw_only=True)
class Action:
    """An action whose image is built."""

    image: str
    metadata: Mapping[str, Any] = field(repr=False)

    @classmethod
    def build(cls, folder: Path) -> Action:
        """Build the action in this folder, as the runner does at a job's start; RuntimeError with the build's words."""
        metadata = yaml.safe_load((folder / "action.yml").read_text())
        image = f"{LABEL}:{secrets.token_hex(16)}"
        dockerfile = (folder / metadata["runs"]["image"]).resolve()
        run("docker", "build", "-t", image, "-f", str(dockerfile), str(dockerfile.parent))
        return cls(image=image, metadata=metadata)

    def remove(self) -> None:
        """Take the image's name away; its layers stay, so the next build is quick."""
        run("docker", "rmi", "--force", "--no-prune", self.image)


class Step:
    """One step of a job that uses the action; use it as a context manager, which leaves nothing behind.

    `run` is `start` and `wait`. After it, or after a cancel, `post` runs what the runner runs at the job's end.
    """

    def __init__(
        self, action: Action, network: str, *, job: str = "deploy", socket: Path | None = None, memory: str = ""
    ) -> None:
        """`network`: the job's docker network, where the action's container reaches what it needs.

        `socket`: the runner's Docker socket as the container sees it, if the runner is to look like another machine.
        `memory`: all that the container may have of it, such as 64m; a runner sets no limit.
        """
        self._action = action
        self._network = network
        self._job = job
        self._socket = socket
        self._limits = [f"--memory={memory}", f"--memory-swap={memory}"] if memory else []
        self._run_id = str(secrets.randbelow(10**10))
        self._folder = Path(tempfile.mkdtemp(prefix="runner-"))
        for name in ("_github_home", "_github_workflow", "_runner_file_commands", "workspace"):
            (self._folder / name).mkdir()
        (self._folder / "_github_workflow" / "event.json").write_text("{}")
        self._inputs: dict[str, str] = {}
        self._state: dict[str, str] = {}
        self._containers: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self._folder / "log"
        self._files: dict[str, Path] = {}

    def run(self, inputs: Mapping[str, str], *, timeout: float = 300) -> StepResult:
        """The main step, from its start to its end."""
        self.start(inputs)
        return self.wait(timeout=timeout)

    def start(self, inputs: Mapping[str, str]) -> None:
        """Start the main step; ValueError for an input that action.yml does not know."""
        known = self._action.metadata.get("inputs", {})
        if unknown := set(inputs) - set(known):
            raise ValueError(f"no such inputs: {', '.join(sorted(unknown))}")
        self._inputs = {name: str(about.get("default", "")) for name, about in known.items()} | dict(inputs)
        self._launch(self._action.metadata["runs"].get("entrypoint"))

    def post(self, *, timeout: float = 300) -> StepResult:
        """The post step, from its start to its end, with the state that the main step saved."""
        self._launch(self._action.metadata["runs"]["post-entrypoint"])
        return self.wait(timeout=timeout)

    def printed(self) -> str:
        """What the step that runs has printed so far."""
        return self._log.read_text(errors="replace")

    def wait_for_log(self, text: str, *, timeout: float = 120) -> None:
        """Wait until the step has printed this text; RuntimeError if it ended without doing so."""

        def met() -> bool:
            ended = self._running.poll() is not None
            return text in self.printed() or ended

        wait_for(f"{text!r} in the log", met, timeout=timeout)
        if text not in self.printed():
            raise RuntimeError(f"the step ended without {text!r}:\n{self.printed()}")

    def wait(self, *, timeout: float = 300) -> StepResult:
        """The result once the docker client has ended; TimeoutError with the log."""
        try:
            exit_code = self._running.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the step still runs after {timeout:.0f} s:\n{self.printed()}") from None
        raw = self.printed()
        outputs = _read_file_command(self._files["GITHUB_OUTPUT"])
        state = _read_file_command(self._files["GITHUB_STATE"])
        self._state |= state
        summary = self._files["GITHUB_STEP_SUMMARY"].read_text()
        return StepResult(exit_code=exit_code, raw=raw, log=_masked(raw), outputs=outputs, state=state, summary=summary)

    def cancel(self) -> StepResult:
        """Cancel as the runner does: SIGINT, 7.5 s, SIGTERM, 2.5 s, then the client is killed; the container is not."""
        for number, patience in ((signal.SIGINT, 7.5), (signal.SIGTERM, 2.5)):
            self._running.send_signal(number)
            try:
                self._running.wait(patience)
                break
            except subprocess.TimeoutExpired:
                continue
        else:
            self._running.kill()
        return self.wait()

    def kill_container(self) -> None:
        """The container dies at once, as when the runner's machine is lost."""
        run("docker", "kill", self.container, check=False)
        self.wait(timeout=60)

    @property
    def container(self) -> str:
        """The name of the last start's container."""
        return self._containers[-1]

    @property
    def folder(self) -> Path:
        """All that the runner mounts into the container, but for its Docker socket."""
        return self._folder

    @property
    def workspace(self) -> Path:
        """The job's workspace, as the next steps see it."""
        return self._folder / "workspace"

    def container_runs(self) -> bool:
        """Whether the container of the last start runs, even if its client was killed."""
        state = run("docker", "inspect", "--format={{.State.Running}}", self.container, check=False)
        return state.strip() == "true"

    def close(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for container in self._containers:
            run("docker", "rm", "--force", container, check=False)
        shutil.rmtree(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the step was not started")
        return self._process

    def _launch(self, entrypoint: str | None) -> None:
        guid = secrets.token_hex(16)
        self._files = {
            variable: self._folder / "_runner_file_commands" / f"{name}_{guid}" for variable, name in FILES.items()
        }
        for path in self._files.values():
            path.touch()
        values = self._environment()
        container = f"{re.sub('[^a-z0-9]', '', self._action.image)}_{secrets.token_hex(3)}"
        self._containers.append(container)
        command = ["docker", "run", "--name", container, "--label", LABEL, "--workdir", "/github/workspace", "--rm"]
        for name in values:
            command += ["-e", name]
        command += ["-e", "GITHUB_ACTIONS=true", "-e", "CI=true"]
        if entrypoint:
            command += ["--entrypoint", entrypoint]
        command += ["--network", self._network, *self._limits]
        mounts = {
            # The runner's own engine, where nothing of the deploy may happen unless it is the manager's too.
            self._socket or engine.socket(): "/var/run/docker.sock",
            self._folder: "/github/runner_temp",
            self._folder / "_github_home": "/github/home",
            self._folder / "_github_workflow": "/github/workflow",
            self._folder / "_runner_file_commands": "/github/file_commands",
            self._folder / "workspace": "/github/workspace",
        }
        for source, target in mounts.items():
            command += ["-v", f"{source}:{target}"]
        command += [self._action.image, *self._action.metadata["runs"].get("args", [])]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env=environment() | values,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A Ctrl-C in the terminal is for the tests, not for the step.
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        inputs = {f"INPUT_{name.replace(' ', '_').upper()}": value for name, value in self._inputs.items()}
        state = {f"STATE_{name}": value for name, value in self._state.items()}
        files = {variable: f"/github/file_commands/{path.name}" for variable, path in self._files.items()}
        return {
            **inputs,
            **state,
            **files,
            "HOME": "/github/home",
            "GITHUB_ACTION": "deploy",
            "GITHUB_ACTOR": "someone",
            "GITHUB_EVENT_NAME": "push",
            "GITHUB_EVENT_PATH": "/github/workflow/event.json",
            "GITHUB_JOB": self._job,
            "GITHUB_REF": "refs/heads/main",
            "GITHUB_REPOSITORY": "acme/shop",
            "GITHUB_RUN_ATTEMPT": "1",
            "GITHUB_RUN_ID": self._run_id,
            "GITHUB_RUN_NUMBER": "1",
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_SHA": "0123456789abcdef0123456789abcdef01234567",
            "GITHUB_WORKFLOW": "Deploy",
            "GITHUB_WORKSPACE": "/github/workspace",
            "RUNNER_ARCH": "X64",
            "RUNNER_ENVIRONMENT": "github-hosted",
            "RUNNER_NAME": "sandbox",
            "RUNNER_OS": "Linux",
            "RUNNER_TEMP": "/github/runner_temp",
        }


def _read_file_command(path: Path) -> dict[str, str]:
    """The pairs in GITHUB_OUTPUT or GITHUB_STATE; ValueError where the runner would fail the step."""
    pairs = {}
    lines = iter(path.read_text().splitlines())
    for line in lines:
        if not line:
            continue
        name, equals, value = line.partition("=")
        if "<<" in line and (not equals or line.index("<<") < line.index("=")):
            name, _, delimiter = line.partition("<<")
            value_lines = []
            for value_line in lines:
                if value_line == delimiter:
                    break
                value_lines.append(value_line)
            else:
                raise ValueError(f"the delimiter {delimiter!r} of {name} is missing")
            value = "\n".join(value_lines)
        elif not equals:
            raise ValueError(f"no NAME=VALUE and no NAME<<DELIMITER: {line!r}")
        if not name:
            raise ValueError(f"a value without a name: {line!r}")
        pairs[name] = value
    return pairs


def _masked(raw: str) -> str:
    """The log as shown: each add-mask command gone, and what it names replaced in the lines after it."""
    masks: list[str] = []
    shown = []
    resume = ""
    for line in raw.splitlines():
        if resume:
            resume = "" if line == resume else resume
        elif line.startswith("::stop-commands::"):
            resume = f"::{line.removeprefix('::stop-commands::')}::"
        elif line.startswith("::add-mask::"):
            mask = line.removeprefix("::add-mask::")
            for code, character in (("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
                mask = mask.replace(code, character)
            masks += sorted({mask, *mask.splitlines()} - {""}, key=len, reverse=True)
            continue
        for mask in masks:
            line = line.replace(mask, "***")
        shown.append(line)
    return "\n".join(shown)
