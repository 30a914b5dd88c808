"""The fault harness itself: which cases it makes of a record, and that it sees what is not safe."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.cases import calls, cases
from tests.faults.checks import Reported, Seen, wrong
from tests.faults.witness import Life

SPEC: dict[str, Any] = {
    "TaskTemplate": {"ContainerSpec": {"Image": "demo:v1", "Labels": {"randomLabelForceUpdate": "a"}}},
    "Mode": {"Replicated": {"Replicas": 1}},
}
OLD = Life(service="demo", image="demo:v1", started=0, ended=10)
JOB = Life(service="job", image="demo:v2", started=11, ended=15, exit_code="0")
NEW = Life(service="demo", image="demo:v2", started=16)
OUTPUTS = {
    "result": "deployed",
    "schema-state": "migrated",
    "deployed-image": "demo:v2",
    "migration-ran": "true",
    "migration-exit-code": "0",
}


def spec(image: str, **labels: str) -> dict[str, Any]:
    changed = copy.deepcopy(SPEC)
    changed["TaskTemplate"]["ContainerSpec"] |= {"Image": image, "Labels": {"randomLabelForceUpdate": "b", **labels}}
    return changed


DEPLOYED = Seen(
    old="demo:v1",
    new="demo:v2",
    spec_before=SPEC,
    spec_after=spec("demo:v2"),
    running=["demo:v2"],
    rows_before=3,
    rows_after=3,
    schema="2",
    left=[],
    app=[OLD, NEW],
    jobs=[JOB],
    reported=[Reported(process="main", exit_code=0, outputs=OUTPUTS)],
)


def test_wrong__nothing_after_a_good_deploy() -> None:
    """A deploy that went as it should has nothing wrong, and neither has one that was killed before it began."""
    assert wrong(DEPLOYED) == []
    killed = Reported(process="main", exit_code=137, outputs={})
    untouched = replace(
        DEPLOYED, spec_after=SPEC, running=["demo:v1"], schema="1", app=[replace(OLD, ended=float("inf"))], jobs=[]
    )
    assert wrong(replace(untouched, reported=[killed])) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"running": []}, "nothing runs, of 1 × demo:v2"),
        ({"schema": "1"}, "demo:v2 runs on schema 1"),
        ({"rows_after": 2}, "3 rows became 2"),
        ({"spec_after": spec("demo:v2", added="1")}, "the spec differs"),
        ({"left": ["config capmig-demo"]}, "left behind: config capmig-demo"),
        ({"app": [replace(OLD, ended=12), NEW]}, "demo:v1 ran while the migration did"),
        ({"app": [OLD, replace(NEW, started=14)]}, "the new version started before the migration was done"),
        (
            {"app": [OLD, replace(OLD, started=16, ended=17), NEW]},
            "the old version started after the migration was done",
        ),
        ({"jobs": [JOB, replace(JOB, started=12)]}, "two migrations at once"),
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
