"""The CapRover stand-in on a real swarm: the services are the captured ones, and so is what happens to them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.caprover_replay import capture, wait_until
from tests.sandbox.caprover.client import ApiError, StandIn
from tests.sandbox.caprover.store import NETWORK
from tests.sandbox.sandbox import REGISTRY_LOGIN, Sandbox

# The first test may have to build the sandbox's images.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    sandbox = Sandbox.up()
    yield sandbox
    sandbox.close()


@pytest.fixture
def standin(sandbox: Sandbox, tmp_path: Path) -> Iterator[StandIn]:
    """With CapRover's own waits and addressing; its apps are deleted afterwards."""
    with StandIn.start(
        f"unix://{sandbox.nodes[0].socket}",
        data=tmp_path / "data.json",
        endpoint_mode="vip",
        placeholder_image=sandbox.image("placeholder"),
    ) as standin:
        yield standin
        for app in standin.api("GET", "/user/apps/appDefinitions")["appDefinitions"]:
            standin.delete_app(app["appName"])


def read(sandbox: Sandbox, path: str, **params: str) -> Any:
    """The engine's own words; docker-py would fill defaults in."""
    api = sandbox.docker.api
    return api.get(f"{api.base_url}/v{api.api_version}{path}", params=params).json()


def inspected(sandbox: Sandbox, name: str) -> dict[str, Any]:
    return dict(read(sandbox, f"/services/{name}"))


def comparable(spec: dict[str, Any], known: dict[str, str]) -> dict[str, Any]:
    """The spec without its random label, and with words in the place of what is known to differ."""
    spec["TaskTemplate"]["ContainerSpec"]["Labels"]["randomLabelForceUpdate"] = "(random)"
    text = json.dumps(spec)
    for value, word in known.items():
        text = text.replace(value, word)
    return dict(json.loads(text))


def running(sandbox: Sandbox, service: str, image: str) -> int:
    """How many tasks of the service run this image."""
    tasks = read(sandbox, "/tasks", filters=json.dumps({"service": [service]}))
    images = [task["Spec"]["ContainerSpec"]["Image"] for task in tasks if task["Status"]["State"] == "running"]
    return images.count(image)


def scale(sandbox: Sandbox, service: str, replicas: int) -> None:
    """As an outsider does it: the raw spec posted back with another number."""
    api, seen = sandbox.docker.api, inspected(sandbox, service)
    seen["Spec"]["Mode"]["Replicated"]["Replicas"] = replicas
    url = f"{api.base_url}/v{api.api_version}/services/{seen['ID']}/update"
    api.post(url, params={"version": seen["Version"]["Index"]}, json=seen["Spec"]).raise_for_status()


def test_swarm__service_is_the_captured_one(standin: StandIn, sandbox: Sandbox) -> None:
    """Field by field what CapRover 1.15.3 left in its swarm, for both styles of service name."""
    image = sandbox.image("v1")
    standin.control(legacy_apps=["old"])
    standin.create_app("old", image, instances=2, env={"DATABASE_URL": "x"})
    network = sandbox.docker.networks.list(names=[NETWORK])[0].id
    wanted = capture("service-inspect-legacy")["Spec"]
    words = {'"testapp:1"': '"(image)"', f'"{image}"': '"(image)"'}
    words |= {str(network): "(network)", wanted["TaskTemplate"]["Networks"][0]["Target"]: "(network)"}
    assert comparable(inspected(sandbox, "srv-captain--old")["Spec"], words) == comparable(wanted, words)

    secret = str(sandbox.docker.api.create_secret("dbpass", b"x")["ID"])
    wanted = capture("service-inspect-pers")["Spec"]
    wanted_container = wanted["TaskTemplate"]["ContainerSpec"]
    node = sandbox.docker.info()["Swarm"]["NodeID"]
    words |= {secret: "(secret)", wanted_container["Secrets"][0]["SecretID"]: "(secret)"}
    words |= {node: "(node)", wanted["TaskTemplate"]["Placement"]["Constraints"][0].split()[-1]: "(node)"}
    secrets = [{**wanted_container["Secrets"][0], "SecretID": secret}]
    override = json.dumps({"TaskTemplate": {"ContainerSpec": {"Secrets": secrets}}})
    volumes = [
        {"containerPath": "/data", "volumeName": "persdata"},
        {"containerPath": "/hosttmp", "hostPath": "/srv/sandbox"},
    ]
    env = {"DATABASE_URL": "db", "MIGRATE_SECONDS": "1"}
    standin.create_app("pers", image, env=env, volumes=volumes, serviceUpdateOverride=override)
    assert comparable(inspected(sandbox, "pers")["Spec"], words) == comparable(wanted, words)
    standin.delete_app("pers")
    sandbox.docker.api.remove_secret(secret)


def test_swarm__deploys_from_zero(standin: StandIn, sandbox: Sandbox) -> None:
    """A failed pull leaves 0 at 0; a deploy brings the count back; a Save & Update the old version."""
    v1, v2 = sandbox.image("v1"), sandbox.image("v2")
    standin.create_app("web", v1, instances=2)
    wait_until(lambda: running(sandbox, "web", v1) == 2)
    scale(sandbox, "web", 0)
    with pytest.raises(ApiError, match="500"):
        standin.deploy("web", sandbox.image("none"))
    assert "manifest" in json.dumps(standin.build_status("web"))
    assert inspected(sandbox, "web")["Spec"]["Mode"]["Replicated"]["Replicas"] == 0
    standin.update_app("web")
    wait_until(lambda: running(sandbox, "web", v1) == 2)
    scale(sandbox, "web", 0)
    standin.deploy("web", v2, detached=True)
    wait_until(lambda: running(sandbox, "web", v2) == 2)


def test_swarm__private_registry(standin: StandIn, sandbox: Sandbox) -> None:
    """The stand-in's credentials pull, and reach the nodes with the service."""
    user, password = REGISTRY_LOGIN
    image = sandbox.image("v1", private=True)
    standin.create_app("web", sandbox.image("v1"))
    with pytest.raises(ApiError, match="500"):
        standin.deploy("web", image)
    registry = {"registryUser": user, "registryDomain": sandbox.private_registry, "registryImagePrefix": ""}
    with pytest.raises(ApiError, match="1112"):
        standin.api("POST", "/user/registries/insert", {**registry, "registryPassword": "wrong"})
    standin.api("POST", "/user/registries/insert", {**registry, "registryPassword": password})
    standin.deploy("web", image)
    wait_until(lambda: running(sandbox, "web", image) == 1)


def test_swarm__prunes_others_containers(standin: StandIn, sandbox: Sandbox) -> None:
    """A container that somebody created and did not start yet is gone after any app's update."""
    image = sandbox.image("v1")
    standin.create_app("web", image)
    mine = sandbox.docker.containers.create(image)
    standin.update_app("web")
    wait_until(lambda: mine.id not in [container.id for container in sandbox.docker.containers.list(all=True)])


def test_swarm__nodes_have_the_captured_shape(standin: StandIn, sandbox: Sandbox) -> None:
    """One entry for each node of the swarm, with the captured keys."""
    [wanted] = capture("14-nodes")["response"]["body"]["data"]["nodes"]
    nodes = standin.api("GET", "/user/system/nodes")["nodes"]
    assert [{key: type(value) for key, value in node.items()} for node in nodes] == [
        {key: type(value) for key, value in wanted.items()}
    ] * len(sandbox.nodes)
