"""Plays one case: an app, the deploy with its fault, whoever comes next, and a look at the world."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from docker.errors import DockerException

from tests.faults.cases import Case
from tests.faults.checks import Reported, Seen, wrong
from tests.faults.slot import Slot, is_job_of
from tests.faults.stories import Story
from tests.faults.witness import Witness
from tests.sandbox.app import DemoApp
from tests.sandbox.caprover.client import ApiError
from tests.sandbox.engine import environment, run, wait_for
from tests.sandbox.runner import LABEL, Action, Step, StepResult

INJECT = Path(__file__).parent / "inject"
LIMIT = 900.0
# No migration here hangs; on a machine that has too much to do its container may take a minute to start.
LIMITS = {"stable_for": "1s", "deploy_timeout": "1m", "drain_timeout": "1m", "migrate_timeout": "5m"}
NOT_MADE = "the deploy made no such call"
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


def play(
    slot: Slot, witness: Witness, action: Action, story: Story, case: Case | None, give_way: Callable[[], None]
) -> Verdict:
    """Play the case, or without one the deploy undisturbed. Nothing of it is left but an app that is as it was.

    `give_way`: lets another case begin meanwhile, when a dead run's lease is waited for.
    """
    try:
        app = slot.app()
    except TROUBLE as error:
        print(f"  an app could not be made, trying again: {error!r}", flush=True)
        app = slot.app()
    began = time.monotonic()
    as_it_was = False
    try:
        verdict = _play(slot, app, witness, action, story, case, give_way, began)
        as_it_was = not verdict.wrong and verdict.ending.startswith("back on v1")
        return verdict
    except TROUBLE as error:
        took = time.monotonic() - began
        return Verdict(wrong=[f"no end was seen: {error!r}"], ending="unknown", seconds=took, story="", calls=[])
    finally:
        try:
            slot.sweep(app)
            if as_it_was:
                slot.keep(app)
            else:
                slot.remove(app)
        except TROUBLE as error:
            print(f"  {app.name} could not be removed: {error!r}", flush=True)
        witness.forget(lambda name: name == app.service or is_job_of(app, name))


def _play(
    slot: Slot,
    app: DemoApp,
    witness: Witness,
    action: Action,
    story: Story,
    case: Case | None,
    give_way: Callable[[], None],
    began: float,
) -> Verdict:
    before, since = slot.spec(app), time.time()
    inputs = app.inputs(story.version, **LIMITS, **story.inputs)
    results: list[tuple[str, StepResult]] = []
    with Step(action, slot.network) as step:
        workspace = step.folder / "workspace"
        _plan(workspace, app, case)
        step.start(inputs)
        results.append(("main", _see_it_through(step, workspace, case)))
        main = step.container
        calls = [json.loads(line) for line in (workspace / "calls").read_text().splitlines()]
        if case is not None and case.fault == "kill":
            give_way()
        if case is None or case.then == "post":
            _plan(workspace, app, None)
            results.append(("post", step.post(timeout=LIMIT)))
            wait_for("the container to end", lambda: not _runs(main), timeout=LIMIT)
        fired = (workspace / "fired").exists()
    if case is not None and case.then == "next":
        with Step(action, slot.network) as step:
            results.append(("next", step.run(inputs, timeout=LIMIT)))
    seen = Seen(
        old=slot.image("v1"),
        new=slot.image(story.version),
        databases=slot.databases,
        backed_up=story.backed_up,
        spec_before=before,
        spec_after=slot.spec(app),
        running=slot.running(app),
        database=app.dump(),
        left=slot.left(app),
        backups=slot.backups(app) if story.backed_up else {},
        app=[
            life
            for life in witness.lives(lambda name: name == app.service)
            if life.ended > since and not life.image.endswith(":placeholder")
        ],
        jobs=witness.lives(lambda name: is_job_of(app, name)),
        reported=[Reported.of(process, result) for process, result in results],
    )
    found = wrong(seen)
    if case is not None and not fired:
        made = any(call["key"] == case.call.key for call in calls)
        found.append("the call was made, and was not spoilt" if made else NOT_MADE)
    ending = "deployed" if seen.spec_after["TaskTemplate"]["ContainerSpec"]["Image"] == seen.new else "back on v1"
    if any(result.outputs.get("restored") == "true" for _, result in results):
        ending += ", restored"
    if any(result.outputs.get("schema-state") == "unknown" for _, result in results):
        ending += ", schema called unknown"
    told = [
        f"{process}: exit code {result.exit_code}\n{result.log}\n{dict(result.outputs)}" for process, result in results
    ]
    told += [
        f"{life.service} {life.image} {life.started:.2f}–{life.ended:.2f} {life.exit_code}"
        for life in (*seen.app, *seen.jobs)
    ]
    told += [f"backup {name}: {size} bytes" for name, size in seen.backups.items()]
    told += [f"{call['at']:.2f} {call['key']}" for call in calls]
    return Verdict(wrong=found, ending=ending, seconds=time.monotonic() - began, story="\n".join(told), calls=calls)


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
