"""The plan: which service is the app, what cannot work, and what may surprise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from capmig.errors import Refused
from capmig.plan import check_engine, make_plan
from capmig.ports import Engine, Node, Service
from tests.fakes.swarm import app_spec, fake_node
from tests.fakes.world import APP, OLD, inputs

LEGACY = f"srv-captain--{APP}"
ENGINE = Engine(node_id="node1", swarm="active", manager=True, api_version="1.41", time=0.0)


def service(name: str = APP, *, replicas: int = 2, failure_action: str = "pause") -> Service:
    spec = app_spec(name, OLD, replicas=replicas, failure_action=failure_action)
    return Service(id="id", name=name, version=1, spec=spec)


@pytest.mark.parametrize("api_version", ["1.41", "1.43", "2.0"])
def test_check_engine__takes_a_manager(api_version: str) -> None:
    """Docker 20.10 and newer; versions are numbers, not text."""
    check_engine(replace(ENGINE, api_version=api_version), "ssh-host")


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (replace(ENGINE, swarm="inactive"), "in no swarm"),
        (replace(ENGINE, swarm="pending"), "in no swarm"),
        (replace(ENGINE, manager=False), "a worker"),
        (replace(ENGINE, api_version="1.40"), "1.40"),
        (replace(ENGINE, api_version="1.9"), "1.9"),
    ],
)
def test_check_engine__refuses_what_cannot_work(engine: Engine, says: str) -> None:
    """The input to change is named first."""
    with pytest.raises(Refused, match=says) as caught:
        check_engine(engine, "docker-host")
    assert caught.value.problems[0].startswith("docker-host: ")


@pytest.mark.parametrize(
    ("new_style", "legacy", "named", "chosen"),
    [
        (service(), None, "", APP),
        (None, service(LEGACY), "", LEGACY),
        (service(), service(LEGACY), LEGACY, LEGACY),
        (service(), service(LEGACY), APP, APP),
    ],
)
def test_make_plan__finds_the_apps_service(
    new_style: Service | None, legacy: Service | None, named: str, chosen: str
) -> None:
    """By either name; if both exist, the one that the input names."""
    plan = make_plan(replace(inputs(), service=named), new_style=new_style, legacy=legacy, nodes=[fake_node()])
    assert plan.service.name == chosen
    assert plan.warnings == ()


@pytest.mark.parametrize(
    ("new_style", "legacy", "named", "says"),
    [
        (None, None, "", "neither of which exists"),
        (service(), service(LEGACY), "", "has both"),
        (service(), None, LEGACY, f"looked for {LEGACY}"),
    ],
)
def test_make_plan__refuses_what_is_not_one_service(
    new_style: Service | None, legacy: Service | None, named: str, says: str
) -> None:
    """None, or more than one: a person has to say which."""
    with pytest.raises(Refused, match=says):
        make_plan(replace(inputs(), service=named), new_style=new_style, legacy=legacy, nodes=[])


def test_make_plan__refuses_a_global_service() -> None:
    """It cannot be scaled to 0."""
    found = service()
    found.spec["Mode"] = {"Global": {}}
    with pytest.raises(Refused, match="global-mode"):
        make_plan(inputs(), new_style=found, legacy=None, nodes=[])


@pytest.mark.parametrize(
    ("found", "nodes", "says"),
    [
        (service(replicas=0), [fake_node()], "has 0 replicas"),
        (service(failure_action="rollback"), [fake_node()], "rollback"),
        (service(), [fake_node(), fake_node("node2", ready=False)], "node2-host"),
    ],
)
def test_make_plan__warns_of_what_may_surprise(found: Service, nodes: list[Node], says: str) -> None:
    """One warning each, and the deploy goes on."""
    plan = make_plan(inputs(), new_style=found, legacy=None, nodes=nodes)
    assert len(plan.warnings) == 1
    assert says in plan.warnings[0]
