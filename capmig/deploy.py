"""The deploy, from the lock to the proof that the new version runs. It knows no Docker, no HTTP and no SSH."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from capmig import jobs, rollout, stages
from capmig.backup import stages as backups
from capmig.entry import Entry, Phase
from capmig.errors import CapmigError, NeedsPerson, OwnMistake
from capmig.hand import Hand
from capmig.inputs import Migration
from capmig.journal import acquire
from capmig.plan import Plan
from capmig.recover import PASSING, Ending, done, recover, recover_anyhow


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of a deploy. `error` is None if the new version runs; `failed_phase` is where it failed."""

    ending: Ending
    error: CapmigError | None = None
    failed_phase: str = ""


def deploy(hand: Hand, look: Callable[[], Plan]) -> Report:
    """Carry out the plan that `look` makes once the lock is held."""
    return carry_out(hand, look, roll_forward)


def carry_out(hand: Hand, look: Callable[[], Plan], act: Callable[[Hand, Plan], Ending]) -> Report:
    """Do something with the lock held. Every way out of it ends in `recover`."""
    try:
        return Report(ending=act(hand, lock(hand, look)))
    except Exception as error:  # noqa: BLE001 - whatever it is, the app must not stay down for it
        return _fail(hand, error)


def roll_forward(hand: Hand, plan: Plan) -> Ending:
    """The deploy itself, step by step."""
    pull(hand, plan)
    if plan.inputs.migration is not None:
        jobs.see_that_jobs_run_once(hand, plan.inputs.migration.image, hand.credentials)
        tool = backups.check(hand, plan)
        stages.drain(hand)
        if tool is not None:
            backups.back_up(hand, plan.service, tool)
        stages.migrate(hand, migration_job(hand, plan, plan.inputs.migration))
    since = stages.roll_out(hand)
    backups.tidy(hand, plan)
    return done(hand, since)


def lock(hand: Hand, look: Callable[[], Plan]) -> Plan:
    """Hold the journal, bring an unfinished deploy to its end first, and look afresh."""
    hand.timeline.step("Lock the app")
    while True:
        left = acquire(
            hand.journal,
            lambda: first_entry(hand, look()),
            clock=hand.clock,
            log=hand.log,
            timeout=hand.settings.lock_timeout,
            tick=hand.watch.tick,
        )
        if left is None:
            plan = look()
            hand.journal.write(**_facts(plan))
            return plan
        if left.phase == Phase.DOWN:
            hand.journal.write(phase=Phase.PREPARING)  # if this look fails, the app is left as it is
            plan = look()
            entry = replace(first_entry(hand, plan), schema=left.schema, schema_was=left.schema)
            if not plan.service.replicas:
                # Nobody has brought it up since: only the journal knows what it was before it was stopped, and when.
                entry = replace(
                    entry,
                    replicas=left.replicas,
                    previous_image=left.previous_image,
                    stopped_at=left.stopped_at,
                )
            hand.journal.write(**vars(entry))
            return plan
        try:
            ending = recover(hand)
        except NeedsPerson:
            hand.journal.let_go()
            raise
        hand.log.notice(f"The unfinished deploy of {left.image} has ended: {ending.result}.")


def first_entry(hand: Hand, plan: Plan) -> Entry:
    """The journal of a deploy that begins."""
    return Entry(
        app=hand.app,
        owner=hand.journal.owner,
        owner_url=hand.journal.owner_url,
        holder=hand.journal.holder,
        phase=Phase.PREPARING,
        since=0.0,
        expires=0.0,
        **_facts(plan),
    )


def _facts(plan: Plan) -> dict[str, Any]:
    service = plan.service
    return {
        "service": service.name,
        "image": plan.inputs.image or service.image,
        "git_hash": plan.inputs.git_hash,
        "previous_image": service.image,
        "replicas": service.replicas,
        "on_failure": str(plan.inputs.on_failure),
        "spec_digest": rollout.digest(service.spec),
    }


def pull(hand: Hand, plan: Plan) -> None:
    """Have the new images on every node where the app may run, before anything stops."""
    jobs.sweep(hand)
    images = [plan.inputs.image]
    if plan.inputs.migration is not None and plan.inputs.migration.image not in images:
        images.append(plan.inputs.migration.image)
    for image in images:
        hand.timeline.step(f"Pull {image}")
        jobs.pull(hand, plan.service, image, hand.credentials, hand.settings.deploy_timeout)


def migration_job(hand: Hand, plan: Plan, migration: Migration) -> stages.MigrationJob:
    """The job in which the migration runs, made from the app's own service."""
    spec = jobs.migration_spec(
        plan.service,
        app=hand.app,
        name=f"{hand.job_name}-migration",
        image=migration.image,
        command=migration.command,
        entrypoint=migration.entrypoint,
        env=migration.env,
    )
    return stages.MigrationJob(spec=spec, credentials=hand.credentials, timeout=migration.timeout)


def _fail(hand: Hand, error: Exception) -> Report:
    """Recover; the first error stays the story."""
    if not hand.journal.held:
        if isinstance(error, PASSING) and not error.state:
            error.state = "This deploy had not begun: it has touched nothing."
        raise error
    phase = hand.journal.entry.phase
    cause = error if isinstance(error, CapmigError) else OwnMistake(error)
    if isinstance(cause, OwnMistake):
        hand.log.output_of("capmig", cause.lines)
    hand.log.info(cause.what)
    try:
        ending = recover_anyhow(hand, error)
    except NeedsPerson as later:
        hand.journal.let_go()
        what = cause.what if later.what == cause.what else f"{cause.what}\n{later.what}"
        raise NeedsPerson(what, state=later.state, todo=later.todo) from error
    return Report(ending=ending, error=cause, failed_phase=phase)
