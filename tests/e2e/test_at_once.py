"""Many deploys of one app at once."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import MakeStep
from tests.e2e.world import Before, assert_nothing_left, told
from tests.faults.witness import Witness
from tests.sandbox.app import DemoApp
from tests.sandbox.sandbox import Sandbox

MANY = 8


@pytest.mark.sandbox_only("it hears of every container from the engines of all nodes")
@pytest.mark.timeout(600)
def test_at_once__eight_deploys(sandbox: Sandbox, app: DemoApp, make_step: MakeStep) -> None:
    """One at a time acts; each ends as deployed or says that it waited in vain; none meets anything that runs."""
    before = Before.of(app)
    witness = Witness(sandbox)
    try:
        steps = [make_step(f"job{number}") for number in range(MANY)]
        for step in steps:
            step.start(app.inputs("v2", stable_for="1s", lock_timeout="75s"))
        results = [step.wait() for step in steps]
        lives = witness.lives(lambda name: app.name in name)
    finally:
        witness.close()

    won = [result for result in results if result.outputs["result"] == "deployed"]
    lost = [result for result in results if result not in won]
    assert won
    assert all(result.exit_code == 0 for result in won)
    for result in lost:
        assert (result.exit_code, result.outputs["result"]) == (1, "failed"), told(result)
        assert "::error::Another deploy still runs: " in result.raw, told(result)

    migrations = [life for life in lives if life.service.endswith("-migration")]
    assert len(migrations) == len(won)
    for migration in migrations:
        assert [life.service for life in lives if life is not migration and life.overlaps(migration)] == []
    assert app.running() == [app.place.image("v2")] * 2
    assert (app.schema(), app.rows()) == ("2", before.rows)
    assert_nothing_left(app)
