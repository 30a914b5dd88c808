"""Composition root: environment → clients → deploy → outputs, summary, exit code."""

from __future__ import annotations

import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TextIO

from capmig import by_hand, endings, probe, report, ssh
from capmig.actions import Reporter
from capmig.backup import by_hand as backups
from capmig.backup.download import fetch
from capmig.caprover import CapRoverClient
from capmig.deploy import carry_out, roll_forward
from capmig.errors import CapmigError, LinkLost, OwnMistake, Refused
from capmig.given import SECRET, Given
from capmig.hand import Hand, Settings
from capmig.inputs import Inputs, LocalManager, Mode, parse
from capmig.journal import Journal
from capmig.masking import secrets_in_env
from capmig.plan import Plan
from capmig.ports import Credentials
from capmig.preflight import also_of_caprover, look, preflight
from capmig.swarm import DockerSwarm
from capmig.timeline import Timeline
from capmig.watch import Watch

ACTS = {
    Mode.DEPLOY: roll_forward,
    Mode.BACKUP: backups.back_up,
    Mode.LIST_BACKUPS: backups.show,
    Mode.RESTORE: backups.restore,
}
SETTLED = "capmig_settled"  # saved state: the main step ended with nothing left to recover


def main(argv: Sequence[str], environ: Mapping[str, str], stream: TextIO = sys.stdout) -> int:
    """Run the step (or, with `post`, the post step) that the environment describes; returns the exit code."""
    log = Reporter(environ, stream)
    post = list(argv) == ["post"]
    if post and environ.get(f"STATE_{SETTLED}"):
        return 0
    cancelled = _listen(log)
    timeline = Timeline(time, log)
    _mask(log, Given(environ))
    try:
        inputs = parse(environ)
        if inputs.migration is not None:
            _mask_env(log, [f"{name}={value}" for name, value in inputs.migration.env.items()])
        outcome = _run(inputs, log, timeline, cancelled, post=post)
    except CapmigError as error:
        if post and isinstance(error, Refused):
            log.warning(f"The post step could not see whether the deploy was left unfinished: {error.what}")
            log.end()
            return 0
        outcome = endings.of_error(error, environ, timeline.stages())
    except Exception as error:  # noqa: BLE001 - a mistake of capmig's own: it is told like any failure, without secrets
        mistake = OwnMistake(error)
        log.output_of("capmig", mistake.lines)
        outcome = endings.of_own_mistake(mistake, environ, timeline.stages())
    return _tell(log, outcome, post=post)


def _run(
    inputs: Inputs, log: Reporter, timeline: Timeline, cancelled: Callable[[], bool], *, post: bool
) -> endings.Ended:
    with ExitStack() as stack:
        timeline.step("Connect to the swarm manager")
        caprover = CapRoverClient(
            inputs.server, inputs.app, token=inputs.token, password=inputs.password, otp=inputs.otp
        )
        stack.callback(caprover.close)
        try:
            swarm = DockerSwarm(*stack.enter_context(_manager(inputs, log)), clock=time)
        except Refused as refused:
            if post or inputs.mode is not Mode.DEPLOY:
                raise
            raise also_of_caprover(refused, caprover, inputs) from refused
        stack.callback(swarm.close)
        journal = Journal(
            swarm, time, log, app=inputs.app, owner=inputs.owner.id, owner_url=inputs.owner.url, holder=uuid.uuid4().hex
        )
        hand = partial(
            Hand,
            app=inputs.app,
            swarm=swarm,
            caprover=caprover,
            clock=time,
            log=log,
            journal=journal,
            watch=Watch(time, journal, cancelled),
            timeline=timeline,
            settings=_settings(inputs),
        )
        if post:
            return by_hand.post(hand())
        match inputs.mode:
            case Mode.RECOVER:
                return by_hand.recover_now(hand(), raise_up=inputs.on_failure == "restore")
            case Mode.UNLOCK:
                return by_hand.unlock(hand())
            case _:
                timeline.step("Check that everything needed is there")
                planned, credentials = preflight(swarm, caprover, inputs, log)
                _mask_of_app(log, planned, credentials)
                acting = hand(credentials=credentials)
                done = carry_out(acting, partial(look, swarm, inputs), ACTS[inputs.mode])
                copied = None
                if inputs.download is not None and inputs.backup is not None:
                    copied = fetch(acting, inputs.download, timeout=inputs.backup.timeout, cancelled=cancelled)
                return endings.of_deploy(done, timeline.stages(), copied)


def _settings(inputs: Inputs) -> Settings:
    asked = inputs.probe
    return Settings(
        drain_timeout=inputs.drain_timeout,
        deploy_timeout=inputs.deploy_timeout,
        stable_for=inputs.stable_for,
        lock_timeout=inputs.lock_timeout,
        probe=None if asked is None else partial(probe.ask, asked.url, asked.status),
    )


class LocalLink:
    """The manager's own Docker socket: there is nothing to re-establish."""

    def __init__(self, socket: str) -> None:
        self._socket = Path(socket)

    def ensure(self) -> None:
        if not self._socket.exists():
            raise LinkLost(f"There is no Docker socket at {self._socket}.")


@contextmanager
def _manager(inputs: Inputs, log: Reporter) -> Iterator[tuple[str, ssh.Connection | LocalLink]]:
    """The Docker API's address, and what keeps it reachable."""
    if isinstance(inputs.manager, LocalManager):
        if not Path(inputs.manager.socket).exists():
            raise Refused([f"docker-host: there is no socket at {inputs.manager.socket} in the action's container."])
        yield f"unix://{inputs.manager.socket}", LocalLink(inputs.manager.socket)
        return
    with ssh.connect(inputs.manager, clock=time, log=log) as connection:
        yield f"unix://{connection.socket}", connection


def _listen(log: Reporter) -> Callable[[], bool]:
    """Whether SIGINT or SIGTERM has come. The runner's container outlives a cancel, so there is time to recover."""
    heard: list[int] = []

    def hear(number: int, _: object) -> None:
        heard.append(number)

    for wanted in (signal.SIGINT, signal.SIGTERM):
        signal.signal(wanted, hear)
    return lambda: bool(heard)


def _mask(log: Reporter, given: Given) -> None:
    """The inputs that are secret, before any of them is read: no error in reading them can show one."""
    for name in SECRET:
        log.mask(given.raw(name))


def _mask_env(log: Reporter, env: Iterable[str]) -> None:
    for secret in secrets_in_env(env):
        log.mask(secret)


def _mask_of_app(log: Reporter, planned: Plan, credentials: Credentials | None) -> None:
    """The app's own secrets, before anything of its output is printed."""
    env = list(planned.service.env)
    if planned.tool is not None:
        env += [f"{name}={value}" for name, value in planned.tool.subject.env.items()]
    _mask_env(log, env)
    if credentials is not None:
        log.mask(credentials.password)


def _tell(log: Reporter, ended: endings.Ended, *, post: bool) -> int:
    """Outputs, summary and the annotation of a failure."""
    if ended.quiet:
        log.end()
        return ended.exit_code
    outcome = ended.outcome
    log.end()
    for name, value in report.outputs(outcome).items():
        log.output(name, value)
    log.summary(report.summary(outcome))
    if ended.exit_code:
        log.error("\n".join(part for part in (outcome.error, outcome.state, outcome.todo) if part))
    else:
        log.notice(report.one_line(outcome))
    if ended.settled and not post:
        log.state(SETTLED, "true")
    return ended.exit_code
