"""Deploys that work, from the image that the runner builds to what the app's users see."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import SWITCHES, MakeApp, MakeStep
from tests.e2e.world import Before, assert_deployed, told
from tests.sandbox.app import DemoApp
from tests.sandbox.engine import wait_for
from tests.sandbox.runner import Step
from tests.sandbox.sandbox import REGISTRY_LOGIN, Sandbox

HEALTHCHECK = {
    "Test": ["CMD", "python", "-c", "import urllib.request as http; http.urlopen('http://127.0.0.1')"],
    "Interval": 1_000_000_000,
    "Timeout": 10_000_000_000,
    "Retries": 3,
}


def test_deploy__migrates_while_nothing_runs(app: DemoApp, step: Step) -> None:
    """No instance answers while the migration runs, and afterwards the new version serves the migrated rows."""
    before = Before.of(app)
    with app.prober() as prober:
        prober.wait_for("v1 to serve", lambda sample: sample.status == 200, count=5)
        result = step.run(app.inputs("v2", stable_for="1s"))
        post = step.post()
        prober.wait_for("v2 to serve", lambda sample: sample.status == 200 and sample.version == "v2", count=10)
        samples = prober.samples()
    assert_deployed(result, before, "v2")
    assert 0 < float(result.outputs["downtime-seconds"]) < 120
    summary = result.outputs["summary"]
    assert summary.startswith(f"{app.name}: deployed {app.place.image('v2')}; schema migrated; down for "), summary
    wanted = {
        "result": "deployed",
        "failed-phase": "",
        "migration-ran": "true",
        "migration-exit-code": "0",
        "schema-state": "migrated",
        "previous-image": app.place.image("v1"),
        "deployed-image": app.place.image("v2"),
    }
    assert {name: result.outputs[name] for name in wanted} == wanted
    assert result.summary.startswith(f"## `{app.name}` ✅ deployed")
    assert "  migration │ the database is at schema 2" in result.log
    assert (post.exit_code, post.log) == (0, "")
    # Whoever got an answer got the one version that fits the schema: old and new never served side by side.
    assert {sample.version for sample in samples if sample.status} == {"v1", "v2"}
    assert {sample.status for sample in samples} == {200, 0}
    first_of_v2 = next(index for index, sample in enumerate(samples) if sample.version == "v2")
    assert all(sample.version != "v1" for sample in samples[first_of_v2:])


def test_deploy__without_a_migration_nobody_is_turned_away(make_app: MakeApp, step: Step) -> None:
    """An ordinary deploy, here to an image named by its digest, replaces every instance and answers all the while."""
    override = json.dumps({"TaskTemplate": {"ContainerSpec": {"Healthcheck": HEALTHCHECK}}})
    app = make_app(serviceUpdateOverride=override)
    before = Before.of(app)
    name = app.place.image("v1")
    digests = app.place.manager.execute("docker", "image", "inspect", '--format={{join .RepoDigests "\\n"}}', name)
    by_digest = next(line for line in digests.split() if line.startswith(name.removesuffix(":v1") + "@"))
    with app.prober() as prober:
        prober.wait_for("the first version", lambda sample: sample.status == 200, count=5)
        served = len(prober.samples())
        result = step.run(app.inputs("v1", image=by_digest, migrate_command="", stable_for="1s"))
        # The old instances end after the new ones have begun to serve.
        wait_for("the old instances to end", lambda: len(app.running()) == 2)
        count = len(prober.samples())
        wait_for("more answers", lambda: len(prober.samples()) > count + 20)
        samples = prober.samples()[served - 5 :]
    assert result.exit_code == 0, told(result)
    assert result.outputs["migration-ran"] == "false"
    assert result.outputs["schema-state"] == "unchanged"
    assert result.outputs["downtime-seconds"] == ""
    # A machine that is too busy to answer in time turns people away by itself.
    assert [sample for sample in samples if sample.status != 200 and "TimeoutError" not in sample.error] == []
    assert not {sample.instance for sample in samples[:3]} & {sample.instance for sample in samples[-20:]}
    before.assert_only_image_differs(by_digest)


def test_deploy__with_a_password(app: DemoApp, step: Step) -> None:
    """CapRover's password does as well as the app token."""
    before = Before.of(app)
    login = {"token": "", "password": app.place.caprover.password}
    assert_deployed(step.run(app.inputs("v2", stable_for="1s", **login)), before, "v2")


@pytest.mark.sandbox_only("it logs in with the sandbox's restricted keys")
@pytest.mark.parametrize("way", ["forwards", "runs dial-stdio"])
def test_deploy__key_that_only(sandbox: Sandbox, app: DemoApp, step: Step, way: str) -> None:
    """Either kind of restricted key is enough."""
    before = Before.of(app)
    key = sandbox.ssh.forwarding_key if way == "forwards" else sandbox.ssh.dial_key
    result = step.run(app.inputs("v2", stable_for="1s", ssh_key=key))
    assert_deployed(result, before, "v2")
    assert "  migration │ the database is at schema 2" in result.log


@pytest.mark.sandbox_only("its runner shares the sandbox's socket")
def test_deploy__on_the_manager_itself(sandbox: Sandbox, app: DemoApp, make_step: MakeStep) -> None:
    """A runner on the manager needs no SSH: `docker-host` names the socket that the runner mounts anyway."""
    before = Before.of(app)
    step = make_step(socket=sandbox.nodes[0].socket)
    no_ssh = {"ssh_host": "", "ssh_key": "", "ssh_known_hosts": ""}
    result = step.run(app.inputs("v2", stable_for="1s", docker_host="unix:///var/run/docker.sock", **no_ssh))
    assert_deployed(result, before, "v2")


@pytest.mark.sandbox_only("it takes a port of the node, and the stand-in plays an older CapRover")
def test_deploy__legacy_name_and_verify_url(sandbox: Sandbox, make_app: MakeApp, step: Step) -> None:
    """An app from before CapRover 1.15, whose page is asked for before the deploy counts as done."""
    port = {"containerPort": 80, "hostPort": 8080, "protocol": "tcp"}
    sandbox.caprover.control(legacy_apps=["demo-legacy"])
    app = make_app(name="demo-legacy", replicas=1, ports=[port])
    before = Before.of(app)
    url = f"http://{sandbox.nodes[0].address}:8080/health"
    result = step.run(app.inputs("v2", stable_for="1s", verify_url=url))
    assert_deployed(result, before, "v2")


def test_deploy__of_an_app_at_zero(make_app: MakeApp, step: Step) -> None:
    """An app that somebody has set to no instances is migrated and deployed, and stays at none."""
    app = make_app(replicas=0)
    before = Before.of(app)
    result = step.run(app.inputs("v2", stable_for="1s"))
    assert_deployed(result, before, "v2", replicas=0)
    assert "has 0 replicas now" in result.log


@pytest.mark.sandbox_only("it stores a registry in CapRover")
def test_deploy__of_a_private_image(sandbox: Sandbox, app: DemoApp, step: Step) -> None:
    """With the registry's login the image is pulled and the migration runs; CapRover uses its own login."""
    username, password = REGISTRY_LOGIN
    registry = {"registryUser": username, "registryPassword": password, "registryDomain": sandbox.private_registry}
    sandbox.caprover.api("POST", "/user/registries/insert", registry)
    before = Before.of(app)
    image = sandbox.image("v2", private=True)
    login = {"registry_username": username, "registry_password": password}
    result = step.run(app.inputs("v2", image=image, stable_for="1s", **login))
    assert_deployed(result, before, image)
    assert password not in result.log


@pytest.mark.sandbox_only(SWITCHES)
@pytest.mark.parametrize("trouble", ["answer lost", "busy", "queued"])
def test_deploy__caprover_in_trouble(
    sandbox: Sandbox, app: DemoApp, make_app: MakeApp, step: Step, trouble: str
) -> None:
    """A lost answer, a busy CapRover and another app's build cost time, and nothing else."""
    before = Before.of(app)
    caprover = sandbox.caprover
    if trouble == "queued":
        other = make_app(replicas=0)
        caprover.control(hold_builds=True)
        caprover.deploy(other.name, app.place.image("v1"), detached=True)
    step.start(app.inputs("v2", stable_for="1s", migrate_env="DEMO_MIGRATION_SECONDS: 3"))
    step.wait_for_log("migrating to schema 2")
    if trouble == "answer lost":
        caprover.control(lost_answers=1)
    elif trouble == "busy":
        caprover.control(busy=2, errors=1)
    else:
        step.wait_for_log("through CapRover")
        path = f"/user/apps/appData/{app.name}"
        wait_for("the deploy to be queued", lambda: len(caprover.requests("POST", path)) >= 3)
        caprover.control(hold_builds=False)
    result = step.wait()
    assert_deployed(result, before, "v2")
