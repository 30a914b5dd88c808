"""A few of the interruptions that `make faults` plays, all at once: each kind of fault, in each phase."""

from __future__ import annotations

import pytest

from tests.faults.cases import Call, Case
from tests.faults.stage import stage
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
CASES = [
    # The ones that wait for a dead run's lease come first, since they take longest.
    (SCALE, "kill", "after", "post"),
    (MIGRATE, "kill", "after", "next"),
    (MIGRATED, "kill", "before", "post"),
    (DEPLOY, "kill", "after", "next"),
    (VERIFY, "kill", "before", "post"),
    (SCALE, "int", "before", "post"),
    (MIGRATE, "int", "after", "post"),
    (LOCK, "timeout", "after", "post"),
    (PULL, "error", "after", "post"),
    (SCALE, "silent", "before", "post"),
    (WATCH, "cut", "before", "post"),
    (MIGRATE, "cut", "after", "post"),
    (DEPLOY, "timeout", "after", "post"),
    (UNLOCK, "cut", "after", "post"),
]


@pytest.mark.sandbox_only("it spoils CapRover's and the manager's answers")
@pytest.mark.timeout(900)
def test_faults__leave_the_app_safe(sandbox: Sandbox, action: Action) -> None:
    """Whatever dies, breaks or lies, the app ends on the version that fits its schema, and the report says which."""
    cases = [Case(call=Call(key=key, kind=""), fault=fault, when=when, then=then) for key, fault, when, then in CASES]
    try:
        with stage(sandbox, action, AT_ONCE) as ready:
            unsafe = {
                case.name: (verdict.wrong, verdict.story) for case, verdict in ready.play_all(cases) if verdict.wrong
            }
    finally:
        sandbox.clean()
    told = "\n".join(story for _, story in unsafe.values())
    assert {name: wrong for name, (wrong, _) in unsafe.items()} == {}, told
