"""The plan: what will be stopped, run and deployed; or the reasons why not. Pure: it decides on what was read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from capmig.backup.tool import Tool
from capmig.errors import Refused
from capmig.inputs import Inputs
from capmig.ports import Engine, Node, Service

OLDEST_API = (1, 41)  # the first with replicated jobs
LEGACY = "srv-captain--"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will happen to which service; `warnings` are what may surprise."""

    inputs: Inputs
    service: Service
    warnings: tuple[str, ...]
    tool: Tool | None = None  # what backs the database up, if that was asked for


def check_engine(engine: Engine, named_by: str) -> None:
    """Refused unless this engine, which an input names, is a swarm manager that knows replicated jobs."""
    if engine.swarm != "active":
        raise Refused([f"{named_by}: the Docker engine there is in no swarm. Is it the machine that CapRover runs on?"])
    if not engine.manager:
        raise Refused(
            [f"{named_by}: this node is a worker of the swarm. Give a manager: the machine that CapRover runs on."]
        )
    if tuple(int(part) for part in engine.api_version.split(".")) < OLDEST_API:
        raise Refused(
            [f"{named_by}: the engine there speaks API {engine.api_version}; capmig needs 1.41 (Docker 20.10)."]
        )


def make_plan(inputs: Inputs, *, new_style: Service | None, legacy: Service | None, nodes: Sequence[Node]) -> Plan:
    """The plan for the app, whose service is named like it, or `srv-captain--APP` if it is an older one."""
    service = _choose(inputs, new_style, legacy)
    if service.replicas is None:
        raise Refused(
            [f"app: {service.name} is a global-mode service, which cannot be scaled to 0. capmig cannot stop it."]
        )
    return Plan(inputs=inputs, service=service, warnings=tuple(_warnings(service, nodes)))


def _choose(inputs: Inputs, new_style: Service | None, legacy: Service | None) -> Service:
    found = [service for service in (new_style, legacy) if service is not None]
    if inputs.service:
        found = [service for service in found if service.name == inputs.service]
    names = f"{inputs.app} and {LEGACY}{inputs.app}"
    if len(found) > 1:
        raise Refused([f"service: the swarm has both {names}. Say which one the app is, with the input service."])
    if not found:
        looked_for = inputs.service or f"{names}, neither of which exists"
        raise Refused([f"app: the swarm has no service for the app {inputs.app} (looked for {looked_for})."])
    return found[0]


def _warnings(service: Service, nodes: Sequence[Node]) -> list[str]:
    found = []
    if service.replicas == 0:
        found.append(
            f"{service.name} has 0 replicas now. It is deployed all the same, and goes back to 0 if that fails."
        )
    if (service.spec.get("UpdateConfig") or {}).get("FailureAction") == "rollback":
        found.append(
            f"{service.name} has the update failure action `rollback`. After a stop that brings the old image back at "
            "0 replicas; capmig notices that and brings it back as it was."
        )
    down = [node.hostname for node in nodes if not node.ready]
    if down:
        found.append(
            f"Node {', '.join(down)} of the swarm is down. If a task of the app was last seen there, nothing can be "
            "migrated."
        )
    return found
