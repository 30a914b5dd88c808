"""Preflight: everything that can be found wrong before anything is touched, all of it at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from capmig import plan
from capmig.backup import sealing
from capmig.backup.inputs import Backup, Verify
from capmig.backup.subject import Subject, node_of, service_names, subject_of
from capmig.backup.tool import VERIFIED, Tool
from capmig.caprover import CapRoverClient
from capmig.errors import CapmigError, EngineRefused, LinkLost, Refused
from capmig.inputs import Inputs
from capmig.plan import Plan
from capmig.ports import Credentials, Log, Service, Swarm

T = TypeVar("T")

EXAMPLES = {"postgres": "postgres:16", "mysql": "mysql:8", "mariadb": "mariadb:11", "mongodb": "mongo:7"}


class Problems:
    """Runs checks that do not depend on each other, and keeps what they find.

    `manager`: the input that names the swarm manager, which is at fault when that does not answer.
    """

    def __init__(self, manager: str) -> None:
        self._manager = manager
        self.lines: list[str] = []
        self.todo: list[str] = []

    def of(self, check: Callable[[], T]) -> T | None:
        try:
            return check()
        except Refused as refused:
            self.lines += refused.problems
            if refused.todo:
                self.todo.append(refused.todo)
        except (LinkLost, EngineRefused) as error:
            self.lines.append(f"{self._manager}: {error.what}")
            self.todo += [error.todo] if error.todo else []
        return None


def check_caprover(caprover: CapRoverClient, inputs: Inputs) -> tuple[list[str], Credentials | None]:
    """Warnings, and the credentials that images are pulled with: the given ones, else CapRover's own."""
    try:
        warnings = caprover.check()
        return warnings, inputs.registry or caprover.registry_credentials(inputs.image)
    except Refused:
        raise
    except CapmigError as error:
        raise Refused([f"server: {error.what}"], todo=error.todo) from error


def also_of_caprover(refused: Refused, caprover: CapRoverClient, inputs: Inputs) -> Refused:
    """What was refused already, and what is wrong with CapRover's inputs besides."""
    problems = Problems(inputs.manager_input)
    problems.of(lambda: check_caprover(caprover, inputs))
    todo = [text for text in (refused.todo, *problems.todo) if text]
    return Refused([*refused.problems, *problems.lines], todo="\n".join(todo))


def look(swarm: Swarm, inputs: Inputs) -> Plan:
    """The plan, from what the swarm says now."""
    planned = plan.make_plan(
        inputs,
        new_style=swarm.service(inputs.app),
        legacy=swarm.service(plan.LEGACY + inputs.app),
        nodes=swarm.nodes(),
    )
    if inputs.backup is None:
        return planned
    tool = find_tool(swarm, inputs.backup, planned.service)
    if inputs.download is not None and tool.node != swarm.engine().node_id:
        where = "the backup is made on the node of the app's volume, which is not the one of ssh-host"
        raise Refused([f"backup-download: {where}. Leave it out, or connect to that node if it is a manager."])
    return replace(planned, tool=tool)


def find_tool(swarm: Swarm, backup: Backup, service: Service) -> Tool:
    """What backs the app's data up, where, and with which image."""
    subject = subject_of(service, engine=backup.engine, source=backup.source, commands=backup.commands)
    node = node_of(service, swarm.nodes()) if subject.mounts else swarm.engine().node_id
    verifies = backup.verify is Verify.RESTORE
    if verifies and subject.engine not in VERIFIED:
        raise Refused([f"backup-verify: restore is there for {', '.join(VERIFIED)}, and not for {subject.engine}."])
    image = backup.image or _image(swarm, subject, service)
    return Tool(subject=subject, image=image, node=node, verifies=verifies)


def _image(swarm: Swarm, subject: Subject, service: Service) -> str:
    """The app's own image, which is on its node; or that of the database's server, if that is a service here."""
    if subject.engine in ("volumes", "command", "sqlite"):
        return service.image
    host = subject.host.split(",")[0]
    servers = (swarm.service(name) for name in service_names(host))
    image = next((server.image for server in servers if server is not None), "")
    if not image:
        what = f"the image of the database's server, such as {EXAMPLES[subject.engine]}"
        raise Refused(
            [f"backup-image: is required: {what}, since {host} (in {subject.source}) is no service of the swarm."]
        )
    return image


def check_images(swarm: Swarm, inputs: Inputs, credentials: Credentials | None) -> None:
    """Refused when a registry does not give an image that will be needed."""
    images = {"image": inputs.image} if inputs.image else {}
    if inputs.migration is not None and inputs.migration.image != inputs.image:
        images["migrate-image"] = inputs.migration.image
    problems = []
    for name, image in images.items():
        try:
            swarm.resolve(image, credentials)
        except EngineRefused as error:
            problems.append(f"{name}: {image} cannot be pulled: {error.what}")
    if problems:
        raise Refused(
            problems,
            todo="Check the name and the tag, and that the image was pushed. If its registry needs a login, give "
            "registry-username and registry-password, or CapRover's password, whose own registry logins are then used.",
        )


def preflight(swarm: Swarm, caprover: CapRoverClient, inputs: Inputs, log: Log) -> tuple[Plan, Credentials | None]:
    """A plan that can work, and the credentials to pull with. Refused with every problem that was found."""
    problems = Problems(inputs.manager_input)
    problems.of(lambda: plan.check_engine(swarm.engine(), inputs.manager_input))
    planned = problems.of(lambda: look(swarm, inputs)) if not problems.lines else None
    if inputs.download is not None and inputs.download.key:
        key = inputs.download.key
        problems.of(lambda: sealing.check(key))
    checked = problems.of(lambda: check_caprover(caprover, inputs))
    warnings, credentials = checked if checked is not None else ([], inputs.registry)
    if planned is not None and checked is not None:
        problems.of(lambda: check_images(swarm, inputs, credentials))
    if planned is None or problems.lines:
        raise Refused(problems.lines, todo="\n".join(problems.todo))
    for warning in [*planned.warnings, *warnings]:
        log.warning(warning)
    return planned, credentials
