"""Deploys that die or are cancelled half-way: what comes next brings them to their end, forward or back.

What comes next waits until the dead one's lease has ended, up to a minute.
"""

from __future__ import annotations

import pytest

from tests.e2e.conftest import SWITCHES, MakeApp, MakeStep
from tests.e2e.world import Before, assert_back, assert_deployed, assert_nothing_left, journal, told, wait_for_phase
from tests.sandbox.app import DemoApp
from tests.sandbox.engine import run, wait_for
from tests.sandbox.runner import Step
from tests.sandbox.sandbox import Sandbox

SLOWLY = "DEMO_MIGRATION_SECONDS: 10"


def test_died__while_it_stopped_the_app(make_app: MakeApp, step: Step) -> None:
    """Killed before the database was touched: the post step brings the old version back."""
    app = make_app(version="v3-slow-stop")
    app.wait_until_served()
    before = Before.of(app)
    step.start(app.inputs("v3", stable_for="1s"))
    wait_for_phase(app, "draining")
    wait_for("the scale to 0", lambda: app.replicas() == 0)
    step.kill_container()
    post = step.post()
    assert (post.exit_code, post.outputs["result"]) == (0, "restored"), told(post)
    assert app.rows() == before.rows
    assert_back(before)


def test_died__in_the_migration(app: DemoApp, step: Step) -> None:
    """Killed in mid-migration: the migration goes on, and the post step deploys the new version after it."""
    before = Before.of(app)
    step.start(app.inputs("v2", stable_for="1s", migrate_env=SLOWLY))
    step.wait_for_log("│ second 1")
    step.kill_container()
    assert journal(app)["phase"] == "migrating"
    post = step.post()
    assert_deployed(post, before, "v2")
    assert post.outputs["migration-exit-code"] == "0"


@pytest.mark.sandbox_only(SWITCHES)
def test_died__after_the_migration(sandbox: Sandbox, app: DemoApp, make_step: MakeStep) -> None:
    """Killed past the migration, by a runner without a post step: the next deploy first brings this one to its end."""
    before = Before.of(app)
    sandbox.caprover.control(hold_builds=True)
    dead = make_step()
    dead.start(app.inputs("v2", stable_for="1s"))
    wait_for_phase(app, "deploying")
    dead.kill_container()
    sandbox.caprover.control(hold_builds=False)
    result = make_step("next").run(app.inputs("v3", stable_for="1s"))
    assert f"The unfinished deploy of {app.place.image('v2')} has ended: deployed." in result.log, told(result)
    assert result.outputs["previous-image"] == app.place.image("v2")
    assert_deployed(result, before, "v3")


@pytest.mark.sandbox_only("it reads which requests came to the stand-in")
def test_died__while_it_verified(sandbox: Sandbox, app: DemoApp, step: Step) -> None:
    """Killed when the new version may have served already: the post step only proves that it runs."""
    before = Before.of(app)
    step.start(app.inputs("v2", stable_for="20s"))
    wait_for_phase(app, "verifying")
    step.kill_container()
    asked = len(sandbox.caprover.requests("POST", "/user/apps/appData/"))
    post = step.post()
    assert_deployed(post, before, "v2")
    assert len(sandbox.caprover.requests("POST", "/user/apps/appData/")) == asked


def test_cancelled__in_the_migration(app: DemoApp, step: Step) -> None:
    """Cancelled by the runner in mid-migration: its container goes on to the new version, and the post step waits."""
    before = Before.of(app)
    step.start(app.inputs("v2", stable_for="1s", migrate_env=SLOWLY))
    step.wait_for_log("│ second 1")
    container = step.container
    cancelled = step.cancel()
    assert cancelled.exit_code != 0
    post = step.post()
    assert post.exit_code == 0, told(post)
    assert "still works on it" in post.log, told(post)
    wait_for("the container to end", lambda: container not in run("docker", "ps", "--format={{.Names}}").split())
    assert app.schema() == "2"
    assert app.rows() == before.rows
    wait_for("v2 to run", lambda: app.running() == [app.place.image("v2")] * 2)
    before.assert_only_image_differs(app.place.image("v2"))
    assert_nothing_left(app)


def test_cancelled__before_the_migration(make_app: MakeApp, step: Step) -> None:
    """Cancelled while the old instances still stop: they come back, and the post step finds nothing to do."""
    app = make_app(version="v3-slow-stop")
    app.wait_until_served()
    before = Before.of(app)
    step.start(app.inputs("v3", stable_for="1s"))
    wait_for_phase(app, "draining")
    step.cancel()
    post = step.post()
    assert post.exit_code == 0, told(post)
    assert_back(before)


@pytest.mark.sandbox_only("it ends the manager's sshd sessions")
def test_cut__ssh_in_the_migration(sandbox: Sandbox, app: DemoApp, step: Step) -> None:
    """The SSH session dies in mid-migration: it is made again, and the deploy goes on."""
    before = Before.of(app)
    node = sandbox.nodes[0]
    step.start(app.inputs("v2", stable_for="1s", migrate_env=SLOWLY))
    step.wait_for_log("│ second 1")
    sessions = node.execute("pgrep", "--full", "^sshd: root").split()
    assert sessions
    node.execute("kill", "-KILL", *sessions)
    result = step.wait()
    assert_deployed(result, before, "v2")
    assert " again after " in result.log, told(result)
    assert "  migration │ the database is at schema 2" in result.log
