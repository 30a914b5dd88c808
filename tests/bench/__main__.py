"""`make bench`: how quick capmig's ways are, as ratios to the plain ones, measured in turns on the sandbox."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from capmig import ssh
from capmig.inputs import SshManager
from capmig.main import LocalLink
from capmig.ports import Service
from capmig.rollout import grace
from capmig.swarm import DockerSwarm
from tests.fakes.log import RecordingLog
from tests.sandbox.caprover.store import NETWORK
from tests.sandbox.engine import run, wait_for
from tests.sandbox.sandbox import Sandbox

INSTANCES = 2
# Swarm's own stop begins some time after the scale, so what counts is how long the app itself takes.
PROGRAMS = {
    "ends at SIGTERM": "trap 'exit 0' TERM; touch /tmp/ready; while :; do sleep 0.02; done",
    "takes 1 s to end": "trap 'sleep 1; exit 0' TERM; touch /tmp/ready; while :; do sleep 0.02; done",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    sandbox = Sandbox.up(name="capmig-bench")
    try:
        socket = sandbox.nodes[0].socket
        swarm = DockerSwarm(f"unix://{socket}", LocalLink(str(socket)), time)
        print(f"\nMedians of {rounds} rounds, taken in turns.")
        for what, program in PROGRAMS.items():
            service = start(sandbox, swarm, program)
            ways = {"scale to 0, and wait": plain_drain, "capmig's drain": direct_drain}
            show(
                f"Stop {INSTANCES} instances of an app that {what}",
                measured({name: partial(way, swarm, service.name) for name, way in ways.items()}, rounds),
            )
            swarm.remove_service(service)
        swarm.close()
        show("Ask the Docker API one question", over_ssh(sandbox, rounds))
    finally:
        sandbox.down()


def measured(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median seconds of each way; round by round, so that a busy moment meets them all."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(way())
    return {name: median(each) for name, each in taken.items()}


def show(title: str, medians: Mapping[str, float]) -> None:
    """A line for each way; the first is what the others are compared with."""
    print(f"\n{title}")
    first = next(iter(medians.values()))
    for name, seconds in medians.items():
        print(f"  {seconds * 1000:8.1f} ms  {first / seconds:6.2f} × as quick  {name}")


def start(sandbox: Sandbox, swarm: DockerSwarm, program: str) -> Service:
    """A service of that program; its replicas run."""
    command = ["docker", "service", "create", "--quiet", "--detach", f"--replicas={INSTANCES}", "--name=bench"]
    command += [f"--network={NETWORK}", "--endpoint-mode=dnsrr"]
    # Before its trap is set a shell that is a container's first process does not hear SIGTERM.
    command += ["--health-cmd=test -e /tmp/ready", "--health-interval=200ms"]
    sandbox.nodes[0].execute(*command, "--entrypoint=sh", sandbox.image("v1"), "-c", program)
    service = found(swarm, "bench")
    wait_until_running(swarm, service)
    return service


def found(swarm: DockerSwarm, name: str) -> Service:
    service = swarm.service(name)
    assert service is not None
    return service


def wait_until_running(swarm: DockerSwarm, service: Service) -> None:
    wait_for("the instances", lambda: sum(task.state == "running" for task in swarm.tasks(service)) == INSTANCES)


def plain_drain(swarm: DockerSwarm, name: str) -> float:
    return _drain(swarm, name, directly=False)


def direct_drain(swarm: DockerSwarm, name: str) -> float:
    return _drain(swarm, name, directly=True)


def _drain(swarm: DockerSwarm, name: str, *, directly: bool) -> float:
    """Seconds from the scale until every task has ended; afterwards the instances run again."""
    service = found(swarm, name)
    began = time.monotonic()
    swarm.update_service(service, _with_replicas(service, 0))
    if directly:
        swarm.stop_containers(service, grace(service))
    wait_for("the end of all tasks", lambda: all(task.ended for task in swarm.tasks(service)))
    took = time.monotonic() - began
    service = found(swarm, name)
    swarm.update_service(service, _with_replicas(service, INSTANCES))
    wait_until_running(swarm, service)
    return took


def _with_replicas(service: Service, replicas: int) -> dict[str, object]:
    return {**service.spec, "Mode": {"Replicated": {"Replicas": replicas}}}


def over_ssh(sandbox: Sandbox, rounds: int) -> dict[str, float]:
    """The time of one small request: by a login of its own, as `DOCKER_HOST=ssh://…` does, and by capmig's two ways."""
    access = sandbox.ssh
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        (folder / "key").write_text(access.key)
        (folder / "key").chmod(0o600)
        (folder / "known_hosts").write_text(access.known_hosts)
        login = ["ssh", "-F", "none", "-i", str(folder / "key"), "-o", f"UserKnownHostsFile={folder / 'known_hosts'}"]
        login += [f"root@{access.host}", "docker", "info", "--format={{.ID}}"]

        def by_login() -> float:
            began = time.monotonic()
            run(*login)
            return time.monotonic() - began

        ways: dict[str, Callable[[], float]] = {"a login for each": by_login}
        for name, key in (("the dial-stdio bridge", access.dial_key), ("the forwarded socket", access.forwarding_key)):
            manager = SshManager(
                host=access.host,
                user="root",
                port=22,
                key=key,
                passphrase="",
                known_hosts=access.known_hosts,
                jump="",
            )
            connection = stack.enter_context(ssh.connect(manager, clock=time, log=RecordingLog()))
            swarm = DockerSwarm(f"unix://{connection.socket}", connection, time)
            stack.callback(swarm.close)
            ways[name] = partial(_asked, swarm)
        return measured(ways, rounds * 4)


def _asked(swarm: DockerSwarm) -> float:
    began = time.monotonic()
    swarm.nodes()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
