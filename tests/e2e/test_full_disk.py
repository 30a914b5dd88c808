"""Deploys on a manager whose disk is full: nothing is stopped for what could not be finished."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import WORKER, demo_images
from tests.e2e.world import Before, assert_back, told
from tests.sandbox.app import DemoApp
from tests.sandbox.engine import run
from tests.sandbox.place import Place
from tests.sandbox.runner import Step
from tests.sandbox.sandbox import Sandbox

pytestmark = [
    pytest.mark.xdist_group("full disk"),
    pytest.mark.sandbox_only("it needs a manager with a small disk, and fills it"),
]

NAME = f"capmig-e2efull{WORKER}"
DISK = "/var/lib/docker"
FILL = f"{DISK}/fill"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A manager with a disk of 2 GB, which goes on running afterwards."""
    demo_images()
    # Of a run that was killed.
    run("docker", "exec", f"{NAME}-node1", "rm", "--force", FILL, check=False)
    sandbox = Sandbox.up(name=NAME, disk="2g")
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="module")
def place(sandbox: Sandbox) -> Place:
    """It alone has a disk that may be filled."""
    return sandbox


def containers(app: DemoApp) -> set[str]:
    """Those of its instances that run."""
    label = f"label=com.docker.swarm.service.name={app.service}"
    return set(app.place.manager.execute("docker", "ps", "--quiet", "--filter", label).split())


def test_full_disk__stops_nothing(app: DemoApp, step: Step, sandbox: Sandbox) -> None:
    """That no container can be made is found out with the pull, and told with what to do; the app serves on."""
    app.wait_until_served()
    before = Before.of(app)
    manager = sandbox.manager
    manager.execute("docker", "pull", "--quiet", app.place.image("v2"))
    serving = containers(app)
    try:
        # To the last byte, which fallocate leaves.
        fill = f"fallocate --length $(df -B1 --output=avail {DISK} | tail -1) {FILL}; yes >> {FILL} || true"
        manager.execute("bash", "-c", fill)
        result = step.run(app.inputs("v2", stable_for="1s"))
    finally:
        manager.execute("rm", "--force", FILL)
    assert (result.exit_code, result.outputs["result"]) == (1, "failed"), told(result)
    assert result.outputs["failed-phase"] == "preparing"
    assert f"no space left on device (on {manager.name})" in result.log, told(result)
    assert "Make room on that node's disk" in result.log
    assert containers(app) == serving
    assert_back(before)


def test_full_disk__in_the_middle_of_a_backup(app: DemoApp, step: Step, sandbox: Sandbox) -> None:
    """A dump that compresses less than was to be expected fills the backups' disk: the old version is back."""
    app.place.psql(
        "CREATE TABLE noise AS SELECT decode(string_agg(md5(random()::text), ''), 'hex') AS bytes"
        " FROM generate_series(1, 1000000) n GROUP BY n % 1000",
        app.database,
    )
    size = int(app.place.psql("SELECT pg_database_size(current_database())", app.database)[0][0])
    manager = sandbox.manager
    volume = ["--opt=type=tmpfs", "--opt=device=tmpfs", f"--opt=o=size={size // 2}", "capmig-backups"]
    manager.execute("docker", "volume", "create", *volume)
    before, whole = Before.of(app), app.dump()
    try:
        result = step.run(app.inputs("v2", stable_for="1s", backup="auto"))
    finally:
        # What has ended still has it, until CapRover prunes that.
        manager.execute("docker", "container", "prune", "--force")
        manager.execute("docker", "volume", "rm", volume[-1])
    assert (result.exit_code, result.outputs["result"]) == (1, "restored"), told(result)
    assert result.outputs["failed-phase"] == "backing-up"
    assert result.outputs["migration-ran"] == "false"
    assert "No space left on device" in result.log, told(result)
    assert "Make room on that node's disk" in result.log
    assert app.dump() == whole
    assert_back(before)
