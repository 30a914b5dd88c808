"""Somebody else acts on the app while it is deployed."""

from __future__ import annotations

from tests.e2e.conftest import MakeStep
from tests.e2e.world import Before, assert_deployed, assert_nothing_left, told
from tests.sandbox.app import DemoApp
from tests.sandbox.engine import wait_for
from tests.sandbox.runner import Step


def test_others__save_and_update_in_the_migration(app: DemoApp, step: Step) -> None:
    """Save & Update starts the old version in mid-migration: it is stopped again at once, and the log says so."""
    before = Before.of(app)
    step.start(app.inputs("v2", stable_for="1s", migrate_env="DEMO_MIGRATION_SECONDS: 15"))
    step.wait_for_log("│ second 1")
    assert app.replicas() == 0
    app.place.caprover.update_app(app.name)
    step.wait_for_log("was started again by somebody")
    wait_for("the app to be stopped again", lambda: app.replicas() == 0 and app.running() == [])
    assert "The migration succeeded" not in step.printed()
    result = step.wait()
    assert_deployed(result, before, "v2")


def test_others__deploys_at_once(app: DemoApp, make_step: MakeStep) -> None:
    """Of three deploys of one app one acts, one waits for it and acts then, and one has no time to wait."""
    before = Before.of(app)
    first, patient, hasty = make_step("first"), make_step("patient"), make_step("hasty")
    first.start(app.inputs("v2", stable_for="1s", migrate_env="DEMO_MIGRATION_SECONDS: 10"))
    first.wait_for_log("│ second 1")
    patient.start(app.inputs("v3", stable_for="1s"))
    refused = hasty.run(app.inputs("v3", stable_for="1s", lock_timeout="1s"))
    assert (refused.exit_code, refused.outputs["result"]) == (1, "failed"), told(refused)
    assert "::error::Another deploy still runs: acme/shop run " in refused.raw, told(refused)
    assert "job first" in refused.outputs["summary"]
    assert hasty.post().exit_code == 0

    done = first.wait()
    assert (done.exit_code, done.outputs["deployed-image"]) == (0, app.place.image("v2")), told(done)
    assert first.post().exit_code == 0
    result = patient.wait()
    assert "Waiting for acme/shop run " in result.log
    assert result.outputs["previous-image"] == app.place.image("v2"), told(result)
    assert_deployed(result, before, "v3")
    assert_nothing_left(app)
