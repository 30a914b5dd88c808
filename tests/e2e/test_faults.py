"""A few of the interruptions that `make faults` plays: each kind of fault, in each phase, some with a backup."""

from __future__ import annotations

import pytest

from tests.faults.cases import Call, Case
from tests.faults.play import Verdict
from tests.faults.stage import stage
from tests.faults.stories import BACKUP, PLAIN, RESTORE
from tests.sandbox.runner import Action
from tests.sandbox.sandbox import Sandbox

AT_ONCE = 7
LOCK = "start: POST configs/create preparing #1"
PULL = "preparing: POST services/create PULL #1"
SCALE = "draining: POST services/APP/update APP replicas=0 #1"
MIGRATE = "migrating: POST services/create MIGRATION #1"
WATCH = "migrating: GET tasks/service=MIGRATION #1"
MIGRATED = "migrating: POST configs/JOURNAL/update migrated #1"
DEPLOY = "deploying: CapRover POST /api/v2/user/apps/appData/APP v2 #1"
VERIFY = "verifying: GET tasks/service=APP #1"
UNLOCK = "verifying: DELETE configs/JOURNAL #1"
BACK_UP = "backing-up: POST services/create BACKUP #1"
CASES = [
    # The ones that wait for a dead run's lease come first, since they take longest.
    (PLAIN, SCALE, "kill", "after", "post"),
    (PLAIN, MIGRATE, "kill", "after", "next"),
    (PLAIN, MIGRATED, "kill", "before", "post"),
    (PLAIN, DEPLOY, "kill", "after", "next"),
    (PLAIN, VERIFY, "kill", "before", "post"),
    (RESTORE, MIGRATE, "kill", "after", "post"),
    (PLAIN, SCALE, "int", "before", "post"),
    (PLAIN, MIGRATE, "int", "after", "post"),
    (BACKUP, BACK_UP, "int", "after", "post"),
    (RESTORE, MIGRATE, "silent", "before", "post"),
    (PLAIN, LOCK, "timeout", "after", "post"),
    (PLAIN, PULL, "error", "after", "post"),
    (PLAIN, SCALE, "silent", "before", "post"),
    (PLAIN, WATCH, "cut", "before", "post"),
    (PLAIN, MIGRATE, "cut", "after", "post"),
    (PLAIN, DEPLOY, "timeout", "after", "post"),
    (PLAIN, UNLOCK, "cut", "after", "post"),
]


@pytest.mark.sandbox_only("it spoils CapRover's and the manager's answers")
@pytest.mark.timeout(900)
def test_faults__leave_the_app_safe(sandbox: Sandbox, action: Action) -> None:
    """Whatever dies, breaks or lies, the app ends on the version that fits its schema, and the report says which."""
    cases = [
        Case(call=Call(key=key, kind=""), fault=fault, when=when, then=then, story=story)
        for story, key, fault, when, then in CASES
    ]
    unsafe: dict[str, list[str]] = {}
    stories: list[str] = []

    def tell(case: Case, verdict: Verdict) -> None:
        if verdict.wrong:
            unsafe[case.name] = verdict.wrong
            stories.append(verdict.story)

    try:
        with stage(sandbox, action, AT_ONCE) as ready:
            ready.play_all(cases, tell)
    finally:
        sandbox.clean()
    assert unsafe == {}, "\n".join(stories)
