"""Deploys in a swarm of two nodes: what runs on the other one, and what happens when that one is gone."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import WORKER, MakeApp, MakeStep, demo_images
from tests.e2e.world import Before, assert_deployed, assert_nothing_left, told
from tests.faults.witness import Witness
from tests.sandbox.app import DemoApp
from tests.sandbox.engine import wait_for
from tests.sandbox.node import Node
from tests.sandbox.place import Place
from tests.sandbox.sandbox import Sandbox

pytestmark = [
    pytest.mark.xdist_group("nodes"),
    pytest.mark.sandbox_only("it needs two nodes, and stops one of them"),
]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A manager and a worker, which go on running afterwards."""
    demo_images()
    sandbox = Sandbox.up(nodes=2, name=f"capmig-e2enodes{WORKER}")
    yield sandbox
    # An engine that has become the leader twice runs each job twice (docs/FACTS.md).
    sandbox.nodes[0].restart()
    sandbox.close()


@pytest.fixture(scope="module")
def place(sandbox: Sandbox) -> Place:
    """It alone: there is no other whose nodes may be killed."""
    return sandbox


@pytest.fixture
def worker(sandbox: Sandbox) -> Iterator[Node]:
    """The second node. Whatever becomes of it in a test, it is a healthy worker afterwards."""
    manager, worker = sandbox.nodes
    yield worker
    worker.revive()
    wait_for("a leader", lambda: manager.execute("docker", "node", "ls"))
    manager.execute("docker", "node", "demote", worker.name)
    wait_for("both nodes", lambda: nodes(sandbox) == {manager.name: "Ready Leader", worker.name: "Ready"})


@pytest.fixture
def witness(sandbox: Sandbox) -> Iterator[Witness]:
    """Sees what starts and ends on both nodes."""
    witness = Witness(sandbox)
    yield witness
    witness.close()


def nodes(sandbox: Sandbox) -> dict[str, str]:
    """Each node's state, and what it is among the managers."""
    lines = sandbox.nodes[0].execute("docker", "node", "ls", "--format={{.Hostname}} {{.Status}} {{.ManagerStatus}}")
    return {line.split()[0]: " ".join(line.split()[1:]) for line in lines.splitlines()}


def spread(app: DemoApp) -> dict[str, int]:
    """How many of its tasks run on each node; those that swarm wants no more are not counted."""
    command = ["docker", "service", "ps", "--format={{.Node}} {{.CurrentState}}", "--filter=desired-state=running"]
    lines = app.place.manager.execute(*command, app.service).splitlines()
    return dict(Counter(line.split()[0] for line in lines if line.split()[1] == "Running"))


def evenly(sandbox: Sandbox) -> dict[str, int]:
    """Four tasks on two nodes."""
    return {node.name: 2 for node in sandbox.nodes}


def assert_apart(witness: Witness, app: DemoApp) -> None:
    """The one migration ran while no instance did, on any node."""
    migrations = witness.lives(lambda name: name.startswith(f"capmig-{app.name}-") and name.endswith("-migration"))
    lives = witness.lives(lambda name: name == app.service)
    assert [(migration, life) for migration in migrations for life in lives if migration.overlaps(life)] == []
    assert len(migrations) == 1, migrations
    witness.forget(lambda name: app.name in name)


def pulled(node: Node, image: str, since: float) -> float:
    """When a node that did not have the image pulled it first; seconds since the epoch."""
    command = ["docker", "events", f"--since={since:.9f}", f"--until={time.time():.9f}", "--filter=event=pull"]
    events = [json.loads(line) for line in node.execute(*command, "--format={{json .}}").splitlines()]
    return float(min(event["timeNano"] for event in events if event["id"] == image) / 1e9)


def test_nodes__instances_on_both(
    make_app: MakeApp, make_step: MakeStep, sandbox: Sandbox, worker: Node, witness: Witness
) -> None:
    """Both nodes pull before anything stops, nothing runs anywhere in the migration, and the new version is on both.

    A migration that fails then leaves that version on both again. Meanwhile another app's migration runs on the worker
    when its runner dies: the next run follows it to its end, log and all.
    """
    remote = make_app(nodeId=worker.execute("docker", "info", "--format={{.Swarm.NodeID}}").strip())
    app = make_app(replicas=4)
    app.wait_until_served()
    assert spread(app) == evenly(sandbox)
    assert spread(remote) == {worker.name: 2}
    before_remote = Before.of(remote)
    dead, follower = make_step("remote"), make_step("remote next")
    dead.start(remote.inputs("v2", stable_for="1s", migrate_env="DEMO_MIGRATION_SECONDS: 10"))
    dead.wait_for_log("│ second 1")
    dead.kill_container()
    assert f"capmig-{remote.name}-" in worker.execute("docker", "ps", "--format={{.Names}}")
    follower.start(remote.inputs("v1", mode="recover"))

    image = app.place.image("v3-fails")
    for node in sandbox.nodes:
        node.forget_image(image)
    before, began = Before.of(app), time.time()
    result = make_step().run(app.inputs("v3-fails", stable_for="1s"))
    assert result.outputs["result"] == "restored", told(result)
    assert result.outputs["failed-phase"] == "migrating", told(result)
    assert spread(app) == evenly(sandbox)
    assert app.running() == [before.image] * 4
    before.assert_only_image_differs(before.image)
    stops = [life.ended for life in witness.lives(lambda name: name == app.service) if life.ended > began]
    assert max(pulled(node, image, began) for node in sandbox.nodes) < min(stops)
    assert_apart(witness, app)

    before = Before.of(app)
    result = make_step("again").run(app.inputs("v2", stable_for="1s"))
    assert re.search(rf"{app.service}: 4 → 0 replicas, stopped in \d+\.\d s", result.log), told(result)
    assert spread(app) == evenly(sandbox)
    assert_apart(witness, app)

    followed = follower.wait()
    assert "│ second 1\n" in followed.log, told(followed)
    assert "│ the database is at schema 2" in followed.log, told(followed)
    assert_deployed(followed, before_remote, "v2")
    assert spread(remote) == {worker.name: 2}
    assert_apart(witness, remote)
    # Last, when the other deploy has left nothing behind either.
    assert_deployed(result, before, "v2")


def test_nodes__worker_dies(make_app: MakeApp, make_step: MakeStep, sandbox: Sandbox, worker: Node) -> None:
    """A node loses its power while its instances stop: the old version is back on the other one, and nothing migrated.

    As long as that node is gone, the next deploy ends before anything stops, and one without a migration works.
    """
    app = make_app(version="v3-slow-stop", replicas=4)
    app.wait_until_served()
    assert spread(app) == evenly(sandbox)
    manager = sandbox.nodes[0]
    before = Before.of(app)
    step = make_step()
    step.start(app.inputs("v3", stable_for="1s"))
    wait_for("the scale to 0", lambda: app.replicas() == 0)
    worker.kill()
    result = step.wait()
    gone = f"Node {worker.name} is down, so it cannot be proven that the app's tasks there have stopped."
    assert (result.exit_code, result.outputs["result"]) == (1, "restored"), told(result)
    assert result.outputs["failed-phase"] == "draining"
    assert result.outputs["migration-ran"] == "false"
    assert f"::error::{gone}" in result.raw, told(result)
    assert f"docker node rm --force {worker.name}" in result.log
    assert spread(app) == {manager.name: 4}
    before.assert_only_image_differs(before.image)
    assert_nothing_left(app)

    with app.prober() as prober:
        prober.wait_for("the old version", lambda sample: sample.status == 200, count=5)
        result = make_step("next").run(app.inputs("v3", stable_for="1s"))
        assert {sample.status for sample in prober.samples()[-5:]} == {200}
    assert (result.exit_code, result.outputs["result"]) == (1, "failed"), told(result)
    assert result.outputs["failed-phase"] == "preparing"
    assert f"::error::{gone}" in result.raw, told(result)
    assert spread(app) == {manager.name: 4}

    result = make_step("plain").run(app.inputs("v3", stable_for="1s", migrate_command=""))
    assert result.outputs["result"] == "deployed", told(result)
    assert spread(app) == {manager.name: 4}


def test_nodes__without_quorum(make_app: MakeApp, make_step: MakeStep, sandbox: Sandbox, worker: Node) -> None:
    """One of two managers hangs in mid-migration: the deploy goes on once it is back, and until then none begins."""
    manager = sandbox.nodes[0]
    app = make_app(nodeId=manager.execute("docker", "info", "--format={{.Swarm.NodeID}}").strip())
    before = Before.of(app)
    manager.execute("docker", "node", "promote", worker.name)
    wait_for("two managers", lambda: nodes(sandbox)[worker.name] == "Ready Reachable")
    step = make_step()
    step.start(app.inputs("v2", stable_for="1s", migrate_env="DEMO_MIGRATION_SECONDS: 5"))
    step.wait_for_log("│ second 1")
    worker.pause()
    wait_for("the leader to go", lambda: not leads(manager))
    refused = make_step("next").run(app.inputs("v3"))
    assert refused.exit_code == 2, told(refused)
    assert "::error::ssh-host: The swarm has no leader" in refused.raw, told(refused)
    assert "docker swarm init --force-new-cluster" in refused.log
    step.wait_for_log("Trying again: ")
    assert "The swarm has no leader" in step.printed()
    worker.unpause()
    result = step.wait()
    assert_deployed(result, before, "v2")


def leads(node: Node) -> bool:
    """Whether the swarm of this node has a leader."""
    try:
        return bool(node.execute("docker", "node", "ls"))
    except RuntimeError as error:
        if "does not have a leader" not in str(error):
            raise
        return False
