"""Plays one case: a new app, the deploy with its fault, whoever comes next, and a look at the world."""

from __future__ import annotations

import json
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker.errors import DockerException

from tests.faults.cases import Case
from tests.faults.checks import Reported, Seen, wrong
from tests.faults.witness import Witness
from tests.sandbox.app import DemoApp
from tests.sandbox.caprover.client import ApiError, StandIn
from tests.sandbox.engine import environment, run, wait_for
from tests.sandbox.runner import LABEL, Action, Step, StepResult
from tests.sandbox.sandbox import Sandbox

INJECT = Path(__file__).parent / "inject"
NEVER = 1e6  # seconds until a stand-in prunes: it would take what another case has just created
LIMIT = 900.0
REPLICAS = 2
# Of the sandbox, on a machine that has too much to do.
TROUBLE = (ApiError, DockerException, LookupError, OSError, RuntimeError)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`wrong`: what was not as it must be; `ending`: what became of the deploy; `story`: all that was seen."""

    wrong: list[str]
    ending: str
    seconds: float
    story: str = field(repr=False)
    calls: list[dict[str, Any]] = field(repr=False)


class Slot(Sandbox):
    """The same sandbox with a CapRover of its own, since a CapRover takes one request at a time."""

    def __init__(self, sandbox: Sandbox, number: int, template: str) -> None:
        super().__init__(sandbox.name, sandbox.gateway.rpartition(".")[0], len(sandbox.nodes))
        self._number = number
        self._template = template

    @property
    def caprover(self) -> StandIn:
        if self._caprover is None:
            data = self.folder / f"caprover-{self._number}.json"
            data.unlink(missing_ok=True)
            self._caprover = StandIn.start(
                f"unix://{self.nodes[0].socket}",
                host=self.gateway,
                data=data,
                placeholder_image=self.image("placeholder"),
                settle=0.5,
                prune_after=NEVER,
            )
        return self._caprover

    def new_app(self) -> DemoApp:
        """As DemoApp.create makes one, in a third of its time: a case needs nobody who asks for pages."""
        name = f"demo-{secrets.token_hex(3)}"
        database = name.replace("-", "_")
        self.psql(f"CREATE DATABASE {database} TEMPLATE {self._template}")
        variables = {"DATABASE_URL": self.database_url(database)}
        image = self.image("v1")
        token = self.caprover.create_app(name, image, instances=0, env=variables)
        self.caprover.update_app(name, instanceCount=REPLICAS)
        app = DemoApp(place=self, name=name, service=name, database=database, token=token)
        # Asked often, the docker program would be most of the work.
        wait_for(f"{name} to run", lambda: self._running(name, image) == REPLICAS)
        return app

    def _running(self, service: str, image: str) -> int:
        api: Any = self.docker.api
        tasks = api.tasks(filters={"service": service})
        states = [task["Status"]["State"] for task in tasks if task["Spec"]["ContainerSpec"]["Image"] == image]
        return states.count("running")


def make_template(sandbox: Sandbox) -> str:
    """A database at schema 1 that others are copies of; its name."""
    app = DemoApp.create(sandbox, replicas=0)
    sandbox.caprover.delete_app(app.name)
    return app.database


@contextmanager
def spoilt(action: Action) -> Iterator[Action]:
    """The action's image, with what spoils its calls installed beside it."""
    with tempfile.TemporaryDirectory() as folder:
        image = f"{LABEL}:faults{time.time_ns():x}"
        command = ["docker", "build", "--quiet", "--tag", image, f"--build-arg=ACTION={action.image}", str(INJECT)]
        subprocess.run(command, check=True, capture_output=True, env=environment(), cwd=folder)
    changed = Action(image=image, metadata=action.metadata)
    try:
        yield changed
    finally:
        changed.remove()


def play(slot: Slot, witness: Witness, action: Action, case: Case | None) -> Verdict:
    """Play the case, or without one a clean deploy. Nothing of it is left afterwards."""
    try:
        app = slot.new_app()
    except TROUBLE as error:
        print(f"  an app could not be made, trying again: {error!r}", flush=True)
        app = slot.new_app()
    began = time.monotonic()
    try:
        return _play(app, witness, action, case, began)
    except TROUBLE as error:
        took = time.monotonic() - began
        return Verdict(wrong=[f"no end was seen: {error!r}"], ending="unknown", seconds=took, story="", calls=[])
    finally:
        _clear(app, witness)


def _play(app: DemoApp, witness: Witness, action: Action, case: Case | None, began: float) -> Verdict:
    before, rows, since = app.spec(), app.rows(), time.time()
    limits = {"stable_for": "1s", "deploy_timeout": "1m", "drain_timeout": "1m", "migrate_timeout": "1m"}
    inputs = app.inputs("v2", **limits)
    results: list[tuple[str, StepResult]] = []
    with Step(action, app.place.network) as step:
        workspace = step.folder / "workspace"
        _plan(workspace, app, case)
        step.start(inputs)
        results.append(("main", _see_it_through(step, workspace, case)))
        main = step.container
        calls = [json.loads(line) for line in (workspace / "calls").read_text().splitlines()]
        if case is None or case.then == "post":
            _plan(workspace, app, None)
            results.append(("post", step.post(timeout=LIMIT)))
            wait_for("the container to end", lambda: not _runs(main), timeout=LIMIT)
        fired = (workspace / "fired").exists()
    if case is not None and case.then == "next":
        with Step(action, app.place.network) as step:
            results.append(("next", step.run(inputs, timeout=LIMIT)))
    seen = Seen(
        old=app.place.image("v1"),
        new=app.place.image("v2"),
        spec_before=before,
        spec_after=app.spec(),
        running=app.running(),
        rows_before=rows,
        rows_after=app.rows(),
        schema=app.schema(),
        left=_left(app),
        app=[
            life
            for life in witness.lives(lambda name: name == app.service)
            if life.ended > since and not life.image.endswith(":placeholder")
        ],
        jobs=witness.lives(lambda name: _is_job_of(app, name) and name.endswith("-migration")),
        reported=[Reported.of(process, result) for process, result in results],
    )
    found = wrong(seen)
    if case is not None and not fired:
        found.append("the call was not reached")
    ending = "deployed" if seen.spec_after["TaskTemplate"]["ContainerSpec"]["Image"] == seen.new else "back on v1"
    if any(result.outputs.get("schema-state") == "unknown" for _, result in results):
        ending += ", schema called unknown"
    story = [
        f"{process}: exit code {result.exit_code}\n{result.log}\n{dict(result.outputs)}" for process, result in results
    ]
    story += [f"{life.service} {life.image} {life.started:.2f}–{life.ended:.2f} {life.exit_code}" for life in seen.app]
    story += [f"{life.service} {life.image} {life.started:.2f}–{life.ended:.2f} {life.exit_code}" for life in seen.jobs]
    story += [f"{call['at']:.2f} {call['key']}" for call in calls]
    return Verdict(wrong=found, ending=ending, seconds=time.monotonic() - began, story="\n".join(story), calls=calls)


def _plan(workspace: Path, app: DemoApp, case: Case | None) -> None:
    at, fault, after = (case.call.key, case.fault, case.when == "after") if case is not None else ("", "", False)
    (workspace / "fault.json").write_text(json.dumps({"app": app.name, "at": at, "fault": fault, "after": after}))


def _see_it_through(step: Step, workspace: Path, case: Case | None) -> StepResult:
    """The main step's end; a cancelled one is cancelled as the runner does it, from the planned call on."""
    if case is None or case.fault != "int":
        return step.wait(timeout=LIMIT)
    deadline = time.monotonic() + LIMIT
    while not (workspace / "fired").exists() and time.monotonic() < deadline:
        with suppress(TimeoutError):
            return step.wait(timeout=0.1)
    return step.cancel()


def _runs(container: str) -> bool:
    return run("docker", "inspect", "--format={{.State.Running}}", container, check=False).strip() == "true"


def _is_job_of(app: DemoApp, name: str) -> bool:
    return name.startswith(f"capmig-{app.name}-")


def _left(app: DemoApp) -> list[str]:
    manager = app.place.manager
    services = manager.execute("docker", "service", "ls", "--format={{.Name}}").split()
    configs = manager.execute("docker", "config", "ls", "--format={{.Name}}").split()
    left = [f"service {name}" for name in services if _is_job_of(app, name)]
    return left + [f"config {name}" for name in configs if name == f"capmig-{app.name}"]


def _clear(app: DemoApp, witness: Witness) -> None:
    for kind, name in (left.split() for left in _left(app)):
        app.place.manager.execute("docker", kind, "rm", name)
    app.place.caprover.delete_app(app.name)
    app.place.psql(f"DROP DATABASE {app.database} WITH (FORCE)")
    witness.forget(lambda name: name == app.service or _is_job_of(app, name))
