"""What happens around the runs: a person meddles, CapRover is busy or restarts, a node goes away for a while."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from capmig.errors import CapRoverBusy
from capmig.journal import config_name
from capmig.ports import Service
from tests.fakes.orchestrator import copy_of
from tests.fakes.world import APP
from tests.simulation.faults import moment

if TYPE_CHECKING:
    from tests.simulation.scenario import Scenario

LAST = 100.0  # seconds after the first run's start until which something may happen…
BUSY = 25.0  # …and until which the first run does most of what it does


def add(scenario: Scenario) -> None:
    """Choose, by the seed, what happens and when: some time, or just when the first run has sent a call."""
    random = scenario.random
    trouble = random.choice(CAPROVER) if random.random() < 0.2 else None
    if trouble is not None:
        _at(scenario, trouble)
    # Once CapRover is late, nobody can tell by whose hand a version starts.
    meddling = [act for act in PERSON if trouble is None or act is not deploy_by_webhook]
    if random.random() < 0.35:
        for _ in range(random.choice((1, 1, 2, 3))):
            _at(scenario, random.choice(meddling))
    if len(scenario.world.swarm.world.nodes) > 1 and random.random() < 0.2:
        _at(scenario, node_goes_away)


def end(scenario: Scenario) -> None:
    """Before the last run nothing happens any more, and all nodes are there again."""
    scenario.clock.sleep(max(0.0, scenario.began + LAST - scenario.clock.monotonic()))
    for node in scenario.world.swarm.direct.nodes():
        if not node.ready:
            scenario.world.swarm.set_node(replace(node, ready=True))


def _at(scenario: Scenario, act: Callable[[Scenario], None]) -> None:
    def go() -> None:
        scenario.faults.tell("world", act.__name__)
        act(scenario)

    random = scenario.random
    if random.random() < 0.5:
        scenario.faults.at["run 1", moment(random)] = go
    else:
        scenario.clock.call_later(random.uniform(0.0, random.choice((BUSY, LAST))), go)


def save_and_update(scenario: Scenario) -> None:
    scenario.witness.disturbed(starts=True)
    scenario.world.caprover.save_and_update()


def save_with_other_settings(scenario: Scenario) -> None:
    """Save & Update after a variable was added."""
    service = scenario.world.service
    spec = copy_of(service.spec)
    spec["TaskTemplate"]["ContainerSpec"]["Env"].append("ADDED=1")
    scenario.witness.change_settings(spec)
    scenario.world.swarm.direct.update_service(service, spec)
    save_and_update(scenario)


def deploy_by_webhook(scenario: Scenario) -> None:
    """Another workflow has CapRover deploy an image that serves well."""
    scenario.witness.disturbed(starts=True)
    with suppress(CapRoverBusy):
        scenario.world.caprover.deploy(scenario.random.choice(scenario.sound), "")


def scale_up(scenario: Scenario) -> None:
    _scale(scenario, scenario.replicas)


def scale_to_zero(scenario: Scenario) -> None:
    """From then on nobody can know whether the app is to be at 0."""
    scenario.also_replicas.add(0)
    scenario.witness.replicas = 0
    _scale(scenario, 0)


def _scale(scenario: Scenario, replicas: int) -> None:
    scenario.witness.disturbed(starts=True)
    service = scenario.world.service
    spec = copy_of(service.spec)
    spec["Mode"]["Replicated"]["Replicas"] = replicas
    scenario.world.swarm.direct.update_service(service, spec)


def remove_journal(scenario: Scenario) -> None:
    """Without the journal an app may stay at 0, if nobody is there who knows of its deploy."""
    config = scenario.world.swarm.direct.config(config_name(APP))
    if config is not None:
        scenario.witness.unlock()
        scenario.also_replicas.add(0)
        scenario.world.swarm.direct.remove_config(config)


def remove_jobs(scenario: Scenario) -> None:
    for job in _jobs(scenario):
        scenario.witness.disturbed()
        scenario.world.swarm.direct.remove_service(job)


def _jobs(scenario: Scenario) -> list[Service]:
    return scenario.world.swarm.direct.services("capmig.app")


def caprover_restarts(scenario: Scenario) -> None:
    scenario.world.caprover.restart()


def caprover_builds_others(scenario: Scenario) -> None:
    scenario.world.caprover.other_builds(scenario.random.choice((5.0, 40.0, 150.0)))


def caprover_is_busy(scenario: Scenario) -> None:
    scenario.world.caprover.busy = scenario.random.choice((1, 5, 50))


def caprover_is_slow(scenario: Scenario) -> None:
    scenario.world.caprover.delay = scenario.random.choice((1.0, 4.0, 20.0))


def node_goes_away(scenario: Scenario) -> None:
    """A node cannot be reached for a while; its processes go on."""
    node = scenario.random.choice(scenario.world.swarm.direct.nodes())
    scenario.witness.disturbed()
    scenario.world.swarm.set_node(replace(node, ready=False))

    def come_back() -> None:
        scenario.witness.disturbed()
        scenario.faults.tell("world", f"{node.id} is back")
        scenario.world.swarm.set_node(node)

    scenario.clock.call_later(scenario.random.choice((10.0, 60.0, 300.0)), come_back)


PERSON: tuple[Callable[[Scenario], None], ...] = (
    save_and_update,
    save_with_other_settings,
    deploy_by_webhook,
    scale_up,
    scale_to_zero,
    remove_journal,
    remove_jobs,
)
CAPROVER: tuple[Callable[[Scenario], None], ...] = (
    caprover_restarts,
    caprover_builds_others,
    caprover_is_busy,
    caprover_is_slow,
)
