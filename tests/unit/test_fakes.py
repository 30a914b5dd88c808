"""The fakes' own switches; that they behave like the real things is held in the contract tests."""

from __future__ import annotations

import copy
import inspect
from dataclasses import replace
from typing import Any, Literal

import pytest

from capmig.errors import CapRoverBusy, FateUnknown, LinkLost
from capmig.ports import Config, Service, Swarm
from tests.fakes.caprover import FakeCapRover
from tests.fakes.clock import FakeClock
from tests.fakes.swarm import FakeSwarm, Run, app_spec, fake_node

ARGUMENTS: dict[str, Any] = {
    "name": "web",
    "label": "com.caprover.managed",
    "spec": app_spec("other", "web:1"),
    "image": "web:1",
    "grace": 1.0,
    "labels": {"a": "b"},
    "config": Config(id="config", name="journal", version=1, labels={}),
    "volume": "volume",
    "path": "path",
}


def world(**options: Any) -> tuple[FakeClock, FakeSwarm]:
    clock = FakeClock()
    swarm = FakeSwarm(clock, **options)
    swarm.images.update({"web:1": Run(), "web:2": Run()})
    swarm.create_service(app_spec("web", "web:1"))
    clock.sleep(30)
    return clock, swarm


def web(swarm: FakeSwarm) -> Service:
    service = swarm.direct.service("web")
    assert service is not None
    return service


def test_clock__runs_what_is_due_in_order() -> None:
    """Callbacks run at their own times, in order, those that they ask for included."""
    clock = FakeClock(0.0)
    seen: list[tuple[str, float]] = []
    clock.call_later(2, lambda: seen.append(("b", clock.monotonic())))
    clock.call_later(1, lambda: clock.call_later(0.5, lambda: seen.append(("a", clock.monotonic()))))
    clock.sleep(1.9)
    clock.sleep(5)
    assert seen == [("a", 1.5), ("b", 2.0)]
    assert clock.monotonic() == 6.9


@pytest.mark.parametrize("name", [name for name, _ in inspect.getmembers(Swarm, inspect.isfunction) if name[0] != "_"])
def test_fake_swarm__hooks_see_every_call(name: str) -> None:
    """A call that the Protocol has can be made to fail before it takes effect."""
    _, swarm = world()
    seen: list[str] = []

    def before(call: str, args: tuple[Any, ...]) -> None:
        seen.append(call)
        raise LinkLost("as the test asked")

    swarm.before_call = before
    arguments = ARGUMENTS | {"service": web(swarm)}
    parameters = [p for p in inspect.signature(getattr(swarm, name)).parameters.values() if p.default is p.empty]
    with pytest.raises(LinkLost):
        getattr(swarm, name)(**{parameter.name: arguments[parameter.name] for parameter in parameters})
    assert seen == [name]


def test_fake_swarm__effect_without_an_answer() -> None:
    """What the hook after a call raises comes in place of the answer, not of the effect."""
    _, swarm = world()

    def after(call: str, args: tuple[Any, ...]) -> None:
        raise FateUnknown("as the test asked")

    swarm.after_call = after
    with pytest.raises(FateUnknown):
        swarm.create_config("journal", {})
    assert swarm.direct.config("journal") is not None


def test_fake_swarm__node_goes_down() -> None:
    """Tasks on a node out of reach keep their state, their processes go on, and others take their place elsewhere."""
    clock, swarm = world(nodes=[fake_node("node1"), fake_node("node2", manager=False)])
    swarm.set_node(fake_node("node2", manager=False, ready=False))
    clock.sleep(30)
    states = sorted((task.node_id, task.state, task.desired) for task in swarm.direct.tasks(web(swarm)))
    assert states == [
        ("node1", "running", "running"),
        ("node1", "running", "running"),
        ("node2", "running", "shutdown"),
    ]
    assert swarm.alive("web") == 3
    swarm.set_node(fake_node("node2", manager=False))
    clock.sleep(30)
    assert swarm.alive("web") == 2


def test_fake_swarm__unhealthy_image_fails_in_the_end() -> None:
    """A task that never becomes healthy stays starting, with a process, until it fails."""
    clock, swarm = world()
    swarm.images["web:2"] = Run(healthy=False)
    spec = app_spec("sick", "web:2", replicas=1)
    swarm.create_service(spec)
    clock.sleep(20)
    service = swarm.direct.service("sick")
    assert service is not None
    assert [task.state for task in swarm.direct.tasks(service)] == ["starting"]
    assert swarm.alive("sick") == 1
    clock.sleep(20)
    assert "failed" in [task.state for task in swarm.direct.tasks(service)]


def test_fake_swarm__rollback_restores_zero() -> None:
    """After a scale to zero and a deploy, the former spec is the old image at no replicas."""
    clock, swarm = world()
    caprover = FakeCapRover(clock, swarm)
    zero = copy.deepcopy(web(swarm).spec)
    zero["Mode"]["Replicated"]["Replicas"] = 0
    swarm.update_service(web(swarm), zero)
    caprover.deploy("web:2", "")
    clock.sleep(20)
    swarm.roll_back("web")
    clock.sleep(20)
    assert (web(swarm).image, web(swarm).replicas, swarm.alive("web")) == ("web:1", 0, 0)
    assert web(swarm).update_state == "rollback_completed"


def test_fake_caprover__deploys() -> None:
    """An accepted deploy writes image, stamp and the definition's replicas, and later prunes what has stopped."""
    clock, swarm = world()
    caprover = FakeCapRover(clock, swarm, instance_count=3)
    before = web(swarm)
    caprover.deploy("web:2", "abc")
    state = caprover.build()
    assert state is not None
    assert state.building
    clock.sleep(30)
    after = web(swarm)
    assert (after.image, after.replicas, after.update_state) == ("web:2", 3, "completed")
    assert after.stamp != before.stamp
    assert caprover.asked == [("web:2", "abc")]


def test_fake_caprover__failed_pull_changes_nothing() -> None:
    """The service stays as it is; alone, the build fails; behind another one, CapRover crashes and forgets it."""
    clock, swarm = world()
    caprover = FakeCapRover(clock, swarm)
    before = web(swarm)
    caprover.deploy("missing:1", "")
    clock.sleep(1)
    failed = caprover.build()
    assert failed is not None
    assert (failed.building, failed.failed) == (False, True)
    caprover.other_builds(5)
    caprover.deploy("missing:1", "")
    clock.sleep(6)
    with pytest.raises(CapRoverBusy):
        caprover.build()
    clock.sleep(40)
    forgotten = caprover.build()
    assert forgotten is not None
    assert (forgotten.building, forgotten.failed, forgotten.lines) == (False, False, ())
    assert web(swarm) == before


@pytest.mark.parametrize(("fate", "soon", "late"), [("none", 1, 1), ("taken", 2, 2), ("late", 1, 2)])
def test_fake_caprover__fate_unknown(fate: Literal["none", "taken", "late"], soon: int, late: int) -> None:
    """A lost answer says nothing of the effect: none, at once, or later."""
    clock, swarm = world()
    caprover = FakeCapRover(clock, swarm)
    caprover.fate = fate
    with pytest.raises(FateUnknown):
        caprover.deploy("web:2", "")
    clock.sleep(1)
    assert web(swarm).image == f"web:{soon}"
    clock.sleep(20)
    assert web(swarm).image == f"web:{late}"


def test_fake_caprover__busy_then_taken_and_token_only() -> None:
    """Busy answers run out; with a token alone the build's state is not told."""
    clock, swarm = world()
    caprover = FakeCapRover(clock, swarm, token_only=True)
    caprover.busy = 1
    with pytest.raises(CapRoverBusy):
        caprover.deploy("web:2", "")
    caprover.deploy("web:2", "")
    clock.sleep(1)
    assert web(swarm).image == "web:2"
    assert caprover.build() is None


def test_fake_caprover__save_and_update_revives_the_old_version() -> None:
    """A person's Save & Update in the window starts what was deployed last, at its instance count."""
    clock, swarm = world()
    caprover = FakeCapRover(clock, swarm)
    zero = copy.deepcopy(web(swarm).spec)
    zero["Mode"]["Replicated"]["Replicas"] = 0
    swarm.update_service(web(swarm), zero)
    clock.sleep(10)
    assert swarm.alive("web") == 0
    caprover.save_and_update()
    clock.sleep(2)
    assert (web(swarm).image, swarm.alive("web")) == ("web:1", 2)


def test_fake_swarm__drained_node_gets_no_tasks() -> None:
    """A node that is not active is left out."""
    _, swarm = world(nodes=[fake_node("node1"), replace(fake_node("node2"), active=False)])
    assert {task.node_id for task in swarm.direct.tasks(web(swarm))} == {"node1"}
    assert swarm.alive("web") == 2
