"""What must hold after an interrupted deploy, whatever was interrupted. Pure."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.faults.witness import Life
from tests.sandbox.runner import StepResult

EXIT_CODES = {"deployed": 0, "restored": 1, "failed": 1, "refused": 2, "stayed-down": 3, "needs-person": 3}


@dataclass(frozen=True, kw_only=True)
class Reported:
    """A step's outputs and exit code; `process`: main, post or next."""

    process: str
    exit_code: int
    outputs: dict[str, str]

    @classmethod
    def of(cls, process: str, result: StepResult) -> Reported:
        return cls(process=process, exit_code=result.exit_code, outputs=dict(result.outputs))


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The world before and after. Specs are raw; `running` are images of tasks; `left` names what capmig left."""

    old: str
    new: str
    spec_before: dict[str, Any]
    spec_after: dict[str, Any]
    running: list[str]
    rows_before: int
    rows_after: int
    schema: str
    left: list[str]
    app: Sequence[Life]
    jobs: Sequence[Life]
    reported: Sequence[Reported]


def wrong(seen: Seen) -> list[str]:
    """What is not as it must be, a line each; empty if all is safe."""
    return [*_at_the_end(seen), *_on_the_way(seen), *_told(seen)]


def _at_the_end(seen: Seen) -> list[str]:
    found = []
    image = seen.spec_after["TaskTemplate"]["ContainerSpec"]["Image"]
    replicas = seen.spec_before["Mode"]["Replicated"]["Replicas"]
    if seen.running != [image] * replicas:
        found.append(f"{seen.running or 'nothing'} runs, of {replicas} × {image}")
    if (image, seen.schema) not in ((seen.old, "1"), (seen.new, "2")):
        found.append(f"{image} runs on schema {seen.schema}")
    if seen.rows_after != seen.rows_before:
        found.append(f"{seen.rows_before} rows became {seen.rows_after}")
    wanted = copy.deepcopy(seen.spec_before)
    wanted["TaskTemplate"]["ContainerSpec"]["Image"] = image
    if _settled(seen.spec_after) != _settled(wanted):
        found.append(f"the spec differs: {_settled(seen.spec_after)} instead of {_settled(wanted)}")
    if seen.left:
        found.append(f"left behind: {', '.join(seen.left)}")
    return found


def _settled(spec: dict[str, Any]) -> dict[str, Any]:
    """Without the label that CapRover writes anew with each update."""
    spec = copy.deepcopy(spec)
    spec["TaskTemplate"]["ContainerSpec"].get("Labels", {}).pop("randomLabelForceUpdate", None)
    return spec


def _on_the_way(seen: Seen) -> list[str]:
    found = []
    runs = sum(report.process != "post" for report in seen.reported)
    done = min((job.ended for job in seen.jobs if job.exit_code == "0"), default=float("inf"))
    if len(seen.jobs) > runs:
        found.append(f"{len(seen.jobs)} migrations ran in {runs} runs")
    for number, job in enumerate(seen.jobs):
        found += ["two migrations at once" for other in seen.jobs[number + 1 :] if job.overlaps(other)]
        found += [f"{life.image} ran while the migration did" for life in seen.app if job.overlaps(life)]
    for life in seen.app:
        if seen.new in life.image and life.started < done:
            found.append("the new version started before the migration was done")
        if seen.old in life.image and life.started > done:
            found.append("the old version started after the migration was done")
    return found


def _told(seen: Seen) -> list[str]:
    """Whether what the steps reported is the truth: the last one to report knows best."""
    found = []
    reported = [report for report in seen.reported if report.outputs.get("result")]
    for report in reported:
        result = report.outputs["result"]
        if result in ("needs-person", "stayed-down"):
            found.append(f"{report.process} asks for a person")
        if report.process != "post" and report.exit_code >= 0 and report.exit_code != EXIT_CODES[result]:
            found.append(f"{report.process} says {result} and ends with {report.exit_code}")
    if not reported:
        return found
    said = reported[-1].outputs
    result = said["result"]
    image = seen.spec_after["TaskTemplate"]["ContainerSpec"]["Image"]
    wanted = {"deployed": seen.new}.get(result, seen.old)
    if image != wanted:
        found.append(f"{reported[-1].process} says {result}; in truth {image} runs")
    if result in ("failed", "refused") and any(life.ended < float("inf") for life in seen.app):
        found.append(f"{reported[-1].process} says {result}; in truth the app was stopped")
    truth = {}
    if result in ("deployed", "restored"):
        truth["deployed-image"] = image
        truth["migration-exit-code"] = seen.jobs[-1].exit_code if seen.jobs else ""
    # Who finds no job where one was to be cannot know whether there was one, and says so.
    if said.get("schema-state") != "unknown" or result == "deployed":
        truth["migration-ran"] = "true" if seen.jobs else "false"
        if result in ("deployed", "restored"):
            truth["schema-state"] = "migrated" if seen.schema == "2" else "unchanged"
    found += [
        f"{reported[-1].process} says {name}={said.get(name)!r}; in truth it is {value!r}"
        for name, value in truth.items()
        if said.get(name) != value
    ]
    return found
