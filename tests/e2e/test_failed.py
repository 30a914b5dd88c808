"""Deploys that fail: each leaves the old version serving, just as it was set, unless it was asked to stay down."""

from __future__ import annotations

import json

import pytest
import requests

from tests.e2e.conftest import SWITCHES, MakeApp, MakeStep
from tests.e2e.world import Before, assert_back, assert_deployed, journal, told
from tests.sandbox.app import DemoApp
from tests.sandbox.engine import wait_for
from tests.sandbox.runner import Step, StepResult
from tests.sandbox.sandbox import Sandbox

HALF = 500  # rows that the failing migrations leave


def assert_failed(result: StepResult, *, phase: str, schema: str, why: str) -> None:
    """One annotation that begins with what happened, and outputs that say where and how it stands now."""
    assert result.exit_code == 1, told(result)
    assert result.outputs["result"] == "restored", told(result)
    assert result.outputs["failed-phase"] == phase, told(result)
    assert result.outputs["schema-state"] == schema, told(result)
    (error,) = [line for line in result.raw.splitlines() if line.startswith("::error::")]
    assert why in error, told(result)
    assert "### What happened" in result.summary
    assert why in result.summary, told(result)


def test_failed__migration_half_way(app: DemoApp, step: Step) -> None:
    """The migration commits half of its work and ends with 1: the old version serves again, and the error says so."""
    before = Before.of(app)
    result = step.run(app.inputs("v3-fails", stable_for="1s"))
    assert_failed(result, phase="migrating", schema="unknown", why="The migration failed (exit code 1).")
    assert result.outputs["migration-exit-code"] == "1"
    assert "  migration │ demo: this migration fails half-way" in result.log
    assert (app.schema(), app.rows()) == ("1", HALF)
    assert_back(before)
    assert step.post().log == ""


def test_failed__migration_hangs(app: DemoApp, step: Step) -> None:
    """The migration never ends: after migrate-timeout it is stopped, proven gone, and the old version serves again."""
    before = Before.of(app)
    result = step.run(app.inputs("v3-hangs", stable_for="1s", migrate_timeout="15s"))
    assert_failed(result, phase="migrating", schema="unknown", why="The migration did not end in time")
    assert (app.schema(), app.rows()) == ("1", HALF)
    assert_back(before)


@pytest.mark.parametrize("version", ["v3-crashes", "v3-unhealthy"])
def test_failed__new_version(app: DemoApp, step: Step, version: str) -> None:
    """The new version crashes at its start, or never becomes healthy: the old one is back, on the migrated schema."""
    before = Before.of(app)
    # On a busy machine a Python program needs its time to crash.
    result = step.run(app.inputs(version, stable_for="20s", deploy_timeout="1m"))
    assert_failed(result, phase="verifying", schema="migrated", why="does not stay up: ")
    assert "If its health check fails" in result.log
    assert (app.schema(), app.rows()) == ("3", before.rows)
    assert_back(before)


@pytest.mark.parametrize("login", ["token", "password"])
@pytest.mark.sandbox_only(SWITCHES)
def test_failed__caprover_cannot_pull(sandbox: Sandbox, app: DemoApp, step: Step, login: str) -> None:
    """CapRover accepts the deploy and then fails to pull, also when it is asked for the old version again."""
    before = Before.of(app)
    sandbox.caprover.control(refuse_deploys=True)
    password = {"token": "", "password": sandbox.caprover.password} if login == "password" else {}
    result = step.run(app.inputs("v2", stable_for="1s", deploy_timeout="15s", **password))
    # Only a password can read CapRover's own words.
    why = "manifest unknown" if login == "password" else "CapRover did not deploy"
    assert_failed(result, phase="deploying", schema="migrated", why=why)
    assert (app.schema(), app.rows()) == ("2", before.rows)
    assert_back(before)


def test_failed__caprover_declines(app: DemoApp, step: Step) -> None:
    """Somebody takes the app's token away in mid-migration, which also starts the app: CapRover declines the deploy."""
    before = Before.of(app)
    step.start(app.inputs("v2", stable_for="1s", migrate_env="DEMO_MIGRATION_SECONDS: 8"))
    step.wait_for_log("migrating to schema 2")
    app.place.caprover.update_app(app.name, appDeployTokenConfig={"enabled": False})
    result = step.wait()
    assert_failed(result, phase="deploying", schema="migrated", why="CapRover declined to deploy")
    assert (app.schema(), app.rows()) == ("2", before.rows)
    assert_back(before)


def test_failed__verify_url(app: DemoApp, step: Step) -> None:
    """The new version runs, and its URL answers another status than it should."""
    before = Before.of(app)
    url = f"{app.place.caprover.url}/no-such-page"
    answers = requests.get(url, timeout=30, allow_redirects=False).status_code
    wanted = {"verify_url": url, "verify_status": "418"}
    result = step.run(app.inputs("v2", stable_for="1s", deploy_timeout="15s", **wanted))
    assert_failed(result, phase="verifying", schema="migrated", why=f"{url} answers {answers} instead of 418")
    assert (app.schema(), app.rows()) == ("2", before.rows)
    assert_back(before)


def test_failed__drain(make_app: MakeApp, step: Step) -> None:
    """The instances need longer to stop than drain-timeout allows: nothing is migrated, and the app is as before."""
    a_minute = {"TaskTemplate": {"ContainerSpec": {"StopGracePeriod": 60_000_000_000}}}
    app = make_app(version="v3-slow-stop", env={"DEMO_STOP_SECONDS": "30"}, serviceUpdateOverride=json.dumps(a_minute))
    before = Before.of(app)
    result = step.run(app.inputs("v3", stable_for="1s", drain_timeout="2s"))
    assert_failed(result, phase="draining", schema="unchanged", why="2 tasks did not stop within 2 s")
    assert result.outputs["migration-ran"] == "false"
    assert app.rows() == before.rows
    assert_back(before)


def test_failed__stays_down_until_recovered(app: DemoApp, make_step: MakeStep) -> None:
    """With stay-down nothing serves until a person decides: unlock refuses, recover brings the old version back."""
    before = Before.of(app)
    step = make_step()
    result = step.run(app.inputs("v3-fails", stable_for="1s", on_failure="stay-down"))
    assert (result.exit_code, result.outputs["result"]) == (3, "stayed-down"), told(result)
    assert step.post().exit_code == 0
    assert (app.replicas(), app.running(), app.rows()) == (0, [], HALF)
    assert journal(app)["phase"] == "down"

    by_hand = {"image": "", "migrate_command": "", "stable_for": "1s"}
    unlock = make_step("unlock").run(app.inputs("v2", mode="unlock", **by_hand))
    assert (unlock.exit_code, unlock.outputs["result"]) == (3, "needs-person"), told(unlock)
    assert "stays" in unlock.log
    assert journal(app)["phase"] == "down"

    recover = make_step("recover").run(app.inputs("v2", mode="recover", **by_hand))
    assert (recover.exit_code, recover.outputs["result"]) == (0, "restored"), told(recover)
    assert app.rows() == HALF
    assert_back(before)


def test_failed__stays_down_until_deployed(app: DemoApp, make_step: MakeStep) -> None:
    """After stay-down a mended version is deployed from there. Or the app is started by hand, and unlock lets go."""
    before = Before.of(app)
    down = {"stable_for": "1s", "on_failure": "stay-down"}
    assert make_step().run(app.inputs("v3-fails-early", **down)).exit_code == 3

    app.place.manager.execute("docker", "service", "scale", "--detach", f"{app.service}=2")
    wait_for("v1 to run", lambda: app.running() == [before.image] * 2)
    by_hand = {"image": "", "migrate_command": "", "stable_for": "1s"}
    unlock = make_step("unlock").run(app.inputs("v2", mode="unlock", **by_hand))
    assert unlock.exit_code == 0, told(unlock)
    assert_back(before)

    assert make_step().run(app.inputs("v3-fails-early", **down)).exit_code == 3
    result = make_step().run(app.inputs("v2", stable_for="1s"))
    assert_deployed(result, before, "v2")
