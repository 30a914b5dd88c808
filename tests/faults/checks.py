"""What must hold after an interrupted deploy, whatever was interrupted. Pure."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.faults.slot import Databases
from tests.faults.witness import Life
from tests.sandbox.runner import StepResult

EXIT_CODES = {"deployed": 0, "restored": 1, "failed": 1, "refused": 2, "stayed-down": 3, "needs-person": 3}
STOPPED = ("137", "143")  # by SIGKILL or SIGTERM
# Jobs that work on the database, by the ends of their names.
MIGRATION, BACKUP, RESTORE = "migration", "backup", "restore"


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
    """The world before and after. Specs are raw; `running` are images of tasks; `left` names what capmig left.

    `database`: a dump of it; `backups`: files and their sizes in bytes; `app`, `jobs`: containers of the app and of
    capmig's jobs, oldest first.
    """

    old: str
    new: str
    databases: Databases = field(repr=False)
    backed_up: bool
    spec_before: dict[str, Any]
    spec_after: dict[str, Any]
    running: list[str]
    database: str = field(repr=False)
    left: list[str]
    backups: Mapping[str, int]
    app: Sequence[Life]
    jobs: Sequence[Life]
    reported: Sequence[Reported]

    @property
    def image(self) -> str:
        return str(self.spec_after["TaskTemplate"]["ContainerSpec"]["Image"])

    def jobs_of(self, *kinds: str) -> list[Life]:
        return [job for job in self.jobs if _kind(job) in kinds]


def _kind(job: Life) -> str:
    """The last word of its name, without an attempt's number."""
    return next((word for word in reversed(job.service.split("-")) if not word.isdigit()), "")


def wrong(seen: Seen) -> list[str]:
    """What is not as it must be, a line each; empty if all is safe."""
    return [*_at_the_end(seen), *_on_the_way(seen), *_backups(seen), *_told(seen)]


def _at_the_end(seen: Seen) -> list[str]:
    found = []
    image = seen.image
    replicas = seen.spec_before["Mode"]["Replicated"]["Replicas"]
    if seen.running != [image] * replicas:
        found.append(f"{seen.running or 'nothing'} runs, of {replicas} × {image}")
    fitting = {seen.old: seen.databases.before, seen.new: seen.databases.migrated}.get(image, "")
    if seen.database != fitting:
        lines = difflib.unified_diff(fitting.splitlines(), seen.database.splitlines(), lineterm="", n=0)
        found.append(f"{image} runs on another database than it should: {' / '.join([*lines][2:8])}")
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
    for kind in (MIGRATION, BACKUP):
        ran = len(seen.jobs_of(kind))
        if ran > runs:
            found.append(f"{ran} {kind}s ran in {runs} runs")
    alone = seen.jobs_of(MIGRATION, BACKUP, RESTORE)
    for number, job in enumerate(alone):
        found += [f"{_kind(job)} and {_kind(other)} at once" for other in alone[number + 1 :] if job.overlaps(other)]
        found += [f"{life.image} ran while the {_kind(job)} did" for life in seen.app if job.overlaps(life)]
    migrated = [job for job in seen.jobs_of(MIGRATION) if job.exit_code == "0"]
    restored = [job for job in seen.jobs_of(RESTORE) if job.exit_code == "0"]
    done = min((job.ended for job in migrated), default=float("inf"))
    for life in seen.app:
        if life.image == seen.new and life.started < done:
            found.append("the new version started before the migration was done")
        if life.image != seen.old:
            continue
        # Without a backup one that failed may leave behind what it likes.
        before = [job for job in (seen.jobs_of(MIGRATION) if seen.backed_up else migrated) if job.ended < life.started]
        if before and not any(before[-1].ended < job.ended < life.started for job in restored):
            how = "was done" if before[-1].exit_code == "0" else "had failed, on a database that was not restored"
            found.append(f"the old version started after the migration {how}")
    return found


def _backups(seen: Seen) -> list[str]:
    found = []
    made = [job for job in seen.jobs_of(BACKUP) if job.exit_code == "0"]
    for restore in seen.jobs_of(RESTORE):
        since = max((job.started for job in made if job.ended < restore.started), default=None)
        if since is None:
            found.append("a restore without a backup")
        elif any(since < life.ended and life.started < restore.started for life in seen.app):
            found.append("restored although an instance had run since the backup")
    last = [*seen.jobs_of(BACKUP, RESTORE)][-1:]
    parts = [name for name in seen.backups if ".part" in name]
    if parts and last and last[0].exit_code == "0":
        found.append(f"left behind: {', '.join(parts)}")
    whole = [name for name in seen.backups if not name.endswith((".part", ".failed"))]
    if len(whole) < len(made):
        found.append(f"{len(made)} backups were made, and {len(whole)} are there")
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
    process, said = reported[-1].process, reported[-1].outputs
    result = said["result"]
    wanted = {"deployed": seen.new}.get(result, seen.old)
    if seen.image != wanted:
        found.append(f"{process} says {result}; in truth {seen.image} runs")
    if result in ("failed", "refused") and any(life.ended < float("inf") for life in seen.app):
        found.append(f"{process} says {result}; in truth the app was stopped")
    truth = _truth(seen, result, said.get("schema-state", ""))
    found += [
        f"{process} says {name}={said.get(name)!r}; in truth it is {value!r}"
        for name, value in truth.items()
        if said.get(name) != value
    ]
    return found + _told_of_backup(seen, process, said)


def _truth(seen: Seen, result: str, schema: str) -> dict[str, str]:
    """Outputs as they should be; without those of which the truth cannot be known."""
    migrations = seen.jobs_of(MIGRATION)
    latest = migrations[-1].ended if migrations else 0.0
    restored = any(job.exit_code == "0" and job.started > latest for job in seen.jobs_of(RESTORE))
    truth = {}
    if result in ("deployed", "restored"):
        truth["deployed-image"] = seen.image
        # One that capmig has stopped did not come to an end of its own.
        stopped = bool(migrations) and migrations[-1].exit_code in STOPPED
        truth["migration-exit-code"] = migrations[-1].exit_code if migrations and not stopped else ""
    # Who finds no job where one was to be cannot know whether there was one, and says so, or restores the backup.
    if result == "deployed" or schema != "unknown":
        if migrations or not restored:
            truth["migration-ran"] = "true" if migrations else "false"
        if result in ("deployed", "restored"):
            truth["restored"] = "true" if restored else "false"
            truth["schema-state"] = "migrated" if seen.image == seen.new else "restored" if restored else "unchanged"
    return truth


def _told_of_backup(seen: Seen, process: str, said: Mapping[str, str]) -> list[str]:
    name = said.get("backup-id", "").rpartition("/")[2]
    if not name:
        if said["result"] == "deployed" and seen.backed_up:
            return [f"{process} says deployed, and names no backup"]
        return []
    if str(seen.backups.get(name)) != said.get("backup-bytes"):
        return [f"{process} says {name} has {said.get('backup-bytes')} bytes; in truth {seen.backups.get(name)}"]
    return []
