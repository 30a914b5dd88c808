"""The fault harness itself: which cases it makes of a record, and that it sees what is not safe."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, cast

import pytest

from tests.faults.cases import Call, Case, calls, cases, own
from tests.faults.checks import Reported, Seen, wrong
from tests.faults.play import NOT_MADE, Verdict
from tests.faults.slot import Databases, Slot
from tests.faults.stage import TRIES, Stage
from tests.faults.stories import BACKUP, PLAIN, RESTORE, Story
from tests.faults.witness import Life, Witness
from tests.sandbox.runner import Action

SPEC: dict[str, Any] = {
    "TaskTemplate": {"ContainerSpec": {"Image": "demo:v1", "Labels": {"randomLabelForceUpdate": "a"}}},
    "Mode": {"Replicated": {"Replicas": 1}},
}
OLD = Life(service="demo", image="demo:v1", started=0, ended=10)
JOB = Life(service="capmig-demo-0-migration", image="demo:v2", started=11, ended=15, exit_code="0")
NEW = Life(service="demo", image="demo:v2", started=16)
OUTPUTS = {
    "result": "deployed",
    "schema-state": "migrated",
    "deployed-image": "demo:v2",
    "migration-ran": "true",
    "migration-exit-code": "0",
    "restored": "false",
}


def spec(image: str, **labels: str) -> dict[str, Any]:
    changed = copy.deepcopy(SPEC)
    changed["TaskTemplate"]["ContainerSpec"] |= {"Image": image, "Labels": {"randomLabelForceUpdate": "b", **labels}}
    return changed


DATABASES = Databases(template="template", before="1", migrated="2")
DEPLOYED = Seen(
    old="demo:v1",
    new="demo:v2",
    spec_before=SPEC,
    spec_after=spec("demo:v2"),
    running=["demo:v2"],
    databases=DATABASES,
    backed_up=False,
    database=DATABASES.migrated,
    left=[],
    backups={},
    app=[OLD, NEW],
    jobs=[JOB],
    reported=[Reported(process="main", exit_code=0, outputs=OUTPUTS)],
)


def test_wrong__nothing_after_a_good_deploy() -> None:
    """A deploy that went as it should has nothing wrong, and neither has one that was killed before it began."""
    assert wrong(DEPLOYED) == []
    killed = Reported(process="main", exit_code=137, outputs={})
    untouched = replace(
        DEPLOYED, spec_after=SPEC, running=["demo:v1"], database="1", app=[replace(OLD, ended=float("inf"))], jobs=[]
    )
    assert wrong(replace(untouched, reported=[killed])) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"running": []}, "nothing runs, of 1 × demo:v2"),
        ({"database": "1"}, "demo:v2 runs on another database than it should"),
        ({"spec_after": spec("demo:v2", added="1")}, "the spec differs"),
        ({"left": ["config capmig-demo"]}, "left behind: config capmig-demo"),
        ({"app": [replace(OLD, ended=12), NEW]}, "demo:v1 ran while the migration did"),
        ({"app": [OLD, replace(NEW, started=14)]}, "the new version started before the migration was done"),
        (
            {"app": [OLD, replace(OLD, started=16, ended=17), NEW]},
            "the old version started after the migration was done",
        ),
        ({"jobs": [JOB, replace(JOB, started=12)]}, "migration and migration at once"),
        ({"jobs": [JOB, JOB]}, "2 migrations ran in 1 runs"),
        ({"reported": [Reported(process="main", exit_code=1, outputs=OUTPUTS)]}, "says deployed and ends with 1"),
        (
            {"reported": [Reported(process="main", exit_code=1, outputs=OUTPUTS | {"result": "restored"})]},
            "says restored; in truth demo:v2 runs",
        ),
        (
            {"reported": [Reported(process="main", exit_code=0, outputs=OUTPUTS | {"schema-state": "unchanged"})]},
            "says schema-state='unchanged'; in truth it is 'migrated'",
        ),
        (
            {"reported": [Reported(process="main", exit_code=3, outputs={"result": "needs-person"})]},
            "asks for a person",
        ),
    ],
)
def test_wrong__sees(change: dict[str, Any], what: str) -> None:
    """Each thing that must not be is named."""
    found = wrong(replace(DEPLOYED, **change))
    assert any(what in line for line in found), found


DUMP = Life(service="capmig-demo-0-backup", image="postgres", started=11, ended=12, exit_code="0")
FAILED = replace(JOB, started=13, ended=14, exit_code="1")
RESTORED = Life(service="capmig-demo-0-restore-0", image="postgres", started=15, ended=16, exit_code="0")
BACK = replace(OLD, started=17, ended=float("inf"))
OF_BACKUP = {"backup-id": "demo/a.dump", "backup-bytes": "9"}
BACK_OUTPUTS = OF_BACKUP | {
    "result": "restored",
    "schema-state": "restored",
    "deployed-image": "demo:v1",
    "migration-ran": "true",
    "migration-exit-code": "1",
    "restored": "true",
}
RESTORED_TO = replace(
    DEPLOYED,
    backed_up=True,
    spec_after=spec("demo:v1"),
    running=["demo:v1"],
    database=DATABASES.before,
    backups={"a.dump": 9, "a.dump.failed": 5},
    app=[OLD, BACK],
    jobs=[DUMP, FAILED, RESTORED],
    reported=[Reported(process="main", exit_code=1, outputs=BACK_OUTPUTS)],
)


def test_wrong__nothing_with_a_backup() -> None:
    """Neither where the backup was restored, nor where it was not needed."""
    assert wrong(RESTORED_TO) == []
    good = Reported(process="main", exit_code=0, outputs=OUTPUTS | OF_BACKUP)
    job = replace(JOB, started=13)
    assert wrong(replace(DEPLOYED, backed_up=True, backups={"a.dump": 9}, jobs=[DUMP, job], reported=[good])) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"database": "half"}, "demo:v1 runs on another database than it should"),
        ({"jobs": [DUMP, FAILED]}, "the old version started after the migration had failed"),
        ({"app": [OLD, replace(BACK, started=14.5, ended=14.8), BACK]}, "had failed, on a database that was not"),
        ({"app": [OLD, replace(BACK, started=15.5)]}, "demo:v1 ran while the restore did"),
        ({"app": [replace(OLD, ended=11.5), BACK]}, "demo:v1 ran while the backup did"),
        ({"app": [OLD, replace(OLD, started=12.3, ended=12.6), BACK]}, "an instance had run since the backup"),
        ({"jobs": [FAILED, RESTORED]}, "a restore without a backup"),
        ({"jobs": [DUMP, FAILED, replace(RESTORED, started=13.5)]}, "migration and restore at once"),
        ({"jobs": [DUMP, DUMP, FAILED, RESTORED]}, "2 backups ran in 1 runs"),
        ({"backups": {"a.dump": 9, "a.dump.failed.part": 5}}, "left behind: a.dump.failed.part"),
        ({"backups": {}}, "1 backups were made, and 0 are there"),
        ({"backups": {"a.dump": 8}}, "says a.dump has 9 bytes; in truth 8"),
        (
            {"reported": [Reported(process="main", exit_code=1, outputs=BACK_OUTPUTS | {"restored": "false"})]},
            "says restored='false'; in truth it is 'true'",
        ),
        (
            {"reported": [Reported(process="main", exit_code=1, outputs=BACK_OUTPUTS | {"schema-state": "unchanged"})]},
            "says schema-state='unchanged'; in truth it is 'restored'",
        ),
    ],
)
def test_wrong__sees_with_a_backup(change: dict[str, Any], what: str) -> None:
    """Each thing that must not be where a backup was made is named."""
    found = wrong(replace(RESTORED_TO, **change))
    assert any(what in line for line in found), found


def test_own__leaves_out_what_an_earlier_story_has() -> None:
    """But for the phases in which a backup changes what follows."""
    drain, migrate, restore = (
        Call(key=f"{phase}: POST it #1", kind="docker act") for phase in ("draining", "migrating", "restoring")
    )
    recorded = {PLAIN: [drain, migrate], BACKUP: [drain, migrate], RESTORE: [drain, migrate, restore]}
    assert own(PLAIN, recorded) == [drain, migrate]
    assert own(BACKUP, recorded) == [migrate]
    assert own(RESTORE, recorded) == [migrate, restore]


def test_cases__of_a_record() -> None:
    """Each call counts once, later repeats in one phase not at all, and acts come before reads."""
    keys = [("draining: GET tasks #1", "docker read"), ("draining: POST scale #1", "docker act")]
    keys += [("draining: GET tasks #2", "docker read"), ("draining: GET tasks #3", "docker read"), keys[0]]
    found = calls([{"key": key, "kind": kind} for key, kind in keys])
    assert [call.key for call in found] == [
        "draining: GET tasks #1",
        "draining: POST scale #1",
        "draining: GET tasks #2",
    ]
    names = [case.name for case in cases(found)]
    assert names[0] == "draining: POST scale #1 | kill before, post"
    assert len(names) == 12 + 2 * 5
    assert [case.name for case in cases(found, "GET tasks #2 . kill")] == ["draining: GET tasks #2 | kill before, post"]


class Scripted(Stage):
    """Plays nothing: what is wrong each time stands in a list."""

    def __init__(self, *wrong: list[str]) -> None:
        super().__init__(cast("Witness", None), cast("Action", None), [cast("Slot", None)], at_once=1)
        self.wrong = list(wrong)

    def play(self, story: Story, case: Case | None) -> Verdict:
        return Verdict(wrong=self.wrong.pop(0), ending="", seconds=0, story="", calls=[])


@pytest.mark.parametrize(
    ("played", "told"),
    [
        ([[NOT_MADE], [NOT_MADE], []], []),
        ([[NOT_MADE], ["nothing runs", NOT_MADE]], ["nothing runs", NOT_MADE]),
        ([["nothing runs"]], ["nothing runs"]),
        ([[NOT_MADE]] * TRIES, [NOT_MADE]),
    ],
)
def test_play_all__tries_again_what_was_not_made(played: list[list[str]], told: list[str]) -> None:
    """A call that is made by chance only is waited for, some times; whatever else is wrong is told at once."""
    stage, heard = Scripted(*played), []
    case = Case(
        call=Call(key="preparing: DELETE containers/CONTAINER #2", kind="docker act"),
        fault="int",
        when="after",
        then="post",
    )
    stage.play_all([case], lambda _, verdict: heard.append(verdict.wrong))
    assert (heard, stage.wrong) == ([told], [])
