"""A job: a one-off replicated-job service made from the app's own. Its spec (pure), and running it to a proven end."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from capmig.errors import Conflict, DeployFailed, Exists, FateUnknown, TimedOut, remedy
from capmig.hand import Hand
from capmig.ports import NO_TASK, ONE_TASK, Credentials, Service, Spec, Task
from capmig.rollout import where

APP_LABEL = "capmig.app"
KIND_LABEL = "capmig.kind"
# A program that no image has: the engine pulls the image, and then cannot start it.
NO_PROGRAM = "/capmig-only-pulls-the-image"
NO_HEALTHCHECK = {"Test": ["NONE"]}
GONE_TIMEOUT = 120.0
CANARY_TIMEOUT = 60.0
BEGIN_TIMEOUT = 60.0
NODE_LOOK = 15.0  # seconds between looks at the node that a job runs on

Hear = Callable[[Sequence[str]], None]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a job's task ended. `exit_code`: None when its program never ran."""

    state: str
    exit_code: int | None
    error: str

    @property
    def succeeded(self) -> bool:
        """It came to its own end, which was a good one: a program that is stopped may exit with 0 as well."""
        return self.state == "complete" and self.exit_code == 0


def migration_spec(
    service: Service,
    *,
    app: str,
    name: str,
    image: str,
    command: Sequence[str],
    entrypoint: Sequence[str],
    env: Mapping[str, str],
) -> Spec:
    """The migration: one task with the app's env, networks, mounts, secrets, placement and limits, and one attempt."""
    template = copy.deepcopy(service.spec["TaskTemplate"])
    container = template["ContainerSpec"]
    container["Image"] = image
    for key in ("Command", "Args", "Labels"):
        container.pop(key, None)
    if entrypoint:
        container["Command"] = list(entrypoint)
    if command:
        container["Args"] = list(command)
    container["Env"] = with_env(container.get("Env") or [], env)
    # A job that has to become healthy first would stay `starting` for as long as it runs.
    container["Healthcheck"] = NO_HEALTHCHECK
    # With its aliases the app's name would also resolve to the job.
    template["Networks"] = [{k: v for k, v in net.items() if k != "Aliases"} for net in template.get("Networks") or []]
    template.get("Placement", {}).pop("MaxReplicas", None)
    template["RestartPolicy"] = {"Condition": "none", "MaxAttempts": 0}
    template["LogDriver"] = {"Name": "json-file", "Options": {"max-size": "512m"}}
    return {
        "Name": name,
        "Labels": {APP_LABEL: app, KIND_LABEL: "migration"},
        "TaskTemplate": template,
        "Mode": ONE_TASK,
    }


def pull_spec(service: Service, *, app: str, name: str, image: str) -> Spec:
    """One task on every node where the app may run, which does nothing but make the node pull the image."""
    template = service.spec["TaskTemplate"]
    placement = {key: value for key, value in template.get("Placement", {}).items() if key != "MaxReplicas"}
    return {
        "Name": name,
        "Labels": {APP_LABEL: app, KIND_LABEL: "pull"},
        "TaskTemplate": {
            "ContainerSpec": {"Image": image, "Command": [NO_PROGRAM], "Healthcheck": NO_HEALTHCHECK},
            "Placement": placement,
            "RestartPolicy": {"Condition": "none", "MaxAttempts": 0},
        },
        "Mode": {"GlobalJob": {}},
    }


def canary_spec(*, app: str, name: str, image: str) -> Spec:
    """A job that does nothing, to see how often swarm starts it."""
    return {
        "Name": name,
        "Labels": {APP_LABEL: app, KIND_LABEL: "canary"},
        "TaskTemplate": {
            "ContainerSpec": {"Image": image, "Command": [NO_PROGRAM], "Healthcheck": NO_HEALTHCHECK},
            "RestartPolicy": {"Condition": "none", "MaxAttempts": 0},
        },
        "Mode": ONE_TASK,
    }


def with_env(env: Sequence[str], added: Mapping[str, str]) -> list[str]:
    """`env` as NAME=value lines, with `added` in place of what has the same name."""
    kept = [line for line in env if line.split("=", 1)[0] not in added]
    return kept + [f"{name}={value}" for name, value in added.items()]


def start(hand: Hand, spec: Spec, credentials: Credentials | None) -> Service:
    """Create the job unless it is there already; EngineRefused with the engine's reason."""
    name = spec["Name"]
    created = False

    def there() -> Service | None:
        nonlocal created
        found = hand.swarm.service(name)
        if found is None and not created:
            hand.journal.fence()
            try:
                hand.swarm.create_service(spec, credentials)
            except (Exists, FateUnknown):
                return None
            created = True
            found = hand.swarm.service(name)
        if found is None:
            raise DeployFailed(f"The job {name} was removed by somebody as soon as it was created.")
        return found

    return hand.watch.until(there, timeout=60, what=lambda: f"The job {name} could not be created.")


def prepare(hand: Hand, spec: Spec, credentials: Credentials | None) -> Service:
    """Create a job that does nothing before `begin`, unless it is there already; EngineRefused as with `start`."""
    return start(hand, {**spec, "Mode": NO_TASK}, credentials)


def begin(hand: Hand, prepared: Service) -> None:
    """Have a prepared job run, and never twice, whatever becomes of an answer: by compare-and-swap.

    A job that is created and runs at once might be created again, if the first answer was lost and somebody had removed
    it before it was looked for. DeployFailed when somebody removed it; EngineRefused with the engine's reason.
    """

    def begun() -> bool | None:
        job = hand.swarm.service(prepared.name)
        if job is None or job.id != prepared.id:
            raise DeployFailed(f"The job {prepared.name} was removed by somebody.")
        if job.spec["Mode"] != NO_TASK:
            return True
        hand.journal.fence()
        with suppress(FateUnknown, Conflict):
            hand.swarm.update_service(job, {**job.spec, "Mode": ONE_TASK})
        return None

    hand.watch.until(begun, timeout=BEGIN_TIMEOUT, what=lambda: f"The job {prepared.name} could not be begun.")


def kept_from_beginning(hand: Hand, name: str) -> bool:
    """Whether a prepared job of another process has not begun, which it then never will; False if there is none.

    Once its version is another, a `begin` that is still under way comes too late.
    """
    seen = 0

    def decided() -> bool | None:
        nonlocal seen
        job = hand.swarm.service(name)
        if job is None or job.spec["Mode"] != NO_TASK:
            return False
        if seen and job.version > seen:
            return True
        seen = job.version
        hand.journal.fence()
        with suppress(FateUnknown, Conflict):
            hand.swarm.update_service(job, job.spec)
        return None

    return hand.watch.until(
        decided, timeout=BEGIN_TIMEOUT, what=lambda: f"The job {name} could not be kept from beginning."
    )


def _not_heard(lines: Sequence[str]) -> None:
    """Nobody else listens to the output."""


def wait_for_end(hand: Hand, job: Service, *, timeout: float, source: str, hear: Hear = _not_heard) -> Ended:
    """Follow the job's output until its task has ended, and say how. TimedOut after `timeout` seconds.

    The end of a log proves nothing, and the task's state does. `hear`: gets the lines of the output as they come.
    """
    last = "not started"
    look_at = hand.clock.monotonic() + NODE_LOOK

    def look_at_node(task: Task) -> None:
        nonlocal look_at
        if hand.clock.monotonic() < look_at:
            return
        look_at += NODE_LOOK
        down = [node.hostname for node in hand.swarm.nodes() if node.id == task.node_id and not node.ready]
        if down:
            look_at = float("inf")
            hand.log.warning(
                f"Node {down[0]}, where the {source} runs, is down: nothing is known of it until the node is back. It "
                f"is waited for; if the node is surely off, end that with: docker node rm --force {down[0]}"
            )

    def follow() -> bool:
        lines = hand.swarm.logs(job, hand.shown.get(job.name, ""))
        if lines:
            hand.shown[job.name] = lines[-1].stamp
            hand.log.output_of(source, [line.text for line in lines])
            hear([line.text for line in lines])
        return bool(lines)

    def ended() -> Ended | None:
        nonlocal last
        tasks = hand.swarm.tasks(job)
        _must_run_once(job, tasks)
        follow()
        if not tasks:  # the swarm has not made it yet
            return None
        (task,) = tasks
        last = task.state + (f": {task.error}" if task.error else "")
        if not task.ended:
            look_at_node(task)
            return None
        while follow():  # a look takes only so much
            hand.watch.tick()
        return Ended(state=task.state, exit_code=task.exit_code, error=task.error)

    return hand.watch.until(
        ended, timeout=timeout, what=lambda: f"The {source} did not end in time (last seen: {last})."
    )


def _must_run_once(job: Service, tasks: Sequence[Task]) -> None:
    """DeployFailed when swarm has made two tasks of a job that is to run once, and is not restarted."""
    if len(tasks) > 1:
        raise DeployFailed(
            f"The swarm has started the job {job.name} twice at once.",
            todo="Restart Docker on the leader of the swarm's managers (docker node ls shows which one that is): since "
            "it lost the lead and took it again, it starts each job twice. Then deploy again.",
        )


def see_that_jobs_run_once(hand: Hand, image: str, credentials: Credentials | None) -> None:
    """Where there are several managers: DeployFailed if swarm starts jobs twice, which two migrations would be.

    An engine 20.10 does so once it has lost the lead and taken it again; a lone manager cannot lose it.
    """
    if sum(node.manager for node in hand.swarm.nodes()) < 2:
        return
    name = f"{hand.job_name}-canary"
    job = start(hand, canary_spec(app=hand.app, name=name, image=image), credentials)
    wait_for_end(hand, job, timeout=CANARY_TIMEOUT, source="canary")
    _must_run_once(job, hand.swarm.tasks(job))
    stop(hand, name)


def stop(hand: Hand, name: str, *, known_id: str = "", grace: float = 10.0) -> None:
    """Remove the job and prove that its task is gone; one that is gone already is no error.

    `known_id`: the ID that its service had: the tasks of a removed service may run on for their grace period.
    """
    job = hand.swarm.service(name)
    if job is None and known_id:
        job = Service(id=known_id, name=name, version=0, spec={})
    if job is None:
        return
    hand.watch.until(
        lambda: _removed(hand, job, grace),
        timeout=GONE_TIMEOUT,
        what=lambda: f"The job {name} was removed, but is not proven to have ended: {where(hand, _alive(hand, job))}.",
    )


def _removed(hand: Hand, job: Service, grace: float) -> bool | None:
    """Whether the service and every task of it are gone."""
    if hand.swarm.service(job.name) is not None:
        hand.journal.fence()
        with suppress(FateUnknown, Conflict):
            hand.swarm.remove_service(job)
        if hand.swarm.service(job.name) is not None:
            return None
    if _alive(hand, job):
        hand.journal.fence()
        hand.swarm.stop_containers(job, grace)
        return None
    return True


def _alive(hand: Hand, job: Service) -> list[Task]:
    return [task for task in hand.swarm.tasks(job) if not task.ended]


def sweep(hand: Hand) -> None:
    """Remove what pulls and ended migrations of this app have left."""
    for job in hand.swarm.services(f"{APP_LABEL}={hand.app}"):
        stop(hand, job.name)


def pull(hand: Hand, service: Service, image: str, credentials: Credentials | None, timeout: float) -> None:
    """Pull the image on every node where the app may run. DeployFailed with the engine's words when one cannot."""
    job = start(hand, pull_spec(service, app=hand.app, name=f"{hand.job_name}-pull", image=image), credentials)
    waiting: list[str] = []

    def all_ended() -> list[Task] | None:
        nodes = {node.id: node.hostname for node in hand.swarm.nodes() if node.ready and node.active}
        tasks = [task for task in hand.swarm.tasks(job) if task.node_id in nodes]
        # With several nodes swarm starts a global job's failed tasks again and again: the first of each node tells.
        ended = [task for task in tasks if task.ended]
        done = {task.node_id for task in ended}
        waiting[:] = [f"{nodes[task.node_id]} ({task.state})" for task in tasks if task.node_id not in done]
        return ended if ended and not waiting else None

    try:
        tasks = hand.watch.until(
            all_ended,
            timeout=timeout,
            what=lambda: f"Pulling {image} did not end in time on: {', '.join(waiting) or 'any node'}.",
        )
    except TimedOut as error:
        raise DeployFailed(error.what, todo="Raise deploy-timeout, or look at the node's network and disk.") from error
    there = {task.node_id for task in tasks if task.state != "rejected"}
    refused = {task.error: task.node_id for task in tasks if task.node_id not in there}
    if refused:
        nodes = {node.id: node.hostname for node in hand.swarm.nodes()}
        why = "; ".join(f"{error} (on {nodes.get(node, node)})" for error, node in sorted(refused.items()))
        raise DeployFailed(
            f"{image} cannot be pulled: {why}",
            todo=remedy(
                why,
                "Check its name and tag. If its registry needs a login, give registry-username and registry-password, "
                "or CapRover's password, with which its stored registry logins are used.",
            ),
        )
    hand.log.info(f"{image} is on {len(there)} node{'s' if len(there) != 1 else ''}.")
    stop(hand, job.name)
