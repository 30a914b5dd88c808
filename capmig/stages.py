"""The stages of a deploy, each with its phase. `deploy` takes them in order, `recover` from where one was left."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from capmig import jobs, rollout, running
from capmig.backup import stages as backups
from capmig.entry import Phase
from capmig.errors import Declined, DeployFailed, EngineRefused, NeedsPerson, TimedOut, remedy
from capmig.guard import Guard
from capmig.hand import Hand
from capmig.journal import CALL
from capmig.ports import Credentials, Spec


@dataclass(frozen=True, kw_only=True)
class MigrationJob:
    """The migration as it will be run."""

    spec: Spec
    credentials: Credentials | None
    timeout: float  # seconds


def drain(hand: Hand) -> None:
    """Stop the app and prove it. DeployFailed, with nothing stopped, when that could not be proven anyway."""
    hand.watch.heed()
    entry = hand.journal.entry
    hand.timeline.step(f"Stop {entry.service}")
    rollout.nodes_must_answer(hand, rollout.running_tasks(hand, rollout.service_of(hand, entry.service)))
    hand.journal.write(phase=Phase.DRAINING, stopped_at=entry.stopped_at or hand.journal.manager_time())
    rollout.drain(hand, entry.service)


def migrate(hand: Hand, migration: MigrationJob) -> None:
    """Run the migration to its end, with the app stopped. DeployFailed when it failed."""
    with Guard(hand, hand.journal.entry.service) as guard:
        hand.timeline.step("Migrate the database")
        hand.watch.heed()
        deadline = hand.journal.manager_time() + migration.timeout
        hand.journal.write(phase=Phase.MIGRATING, job="", job_id="", job_deadline=deadline)
        try:
            job = jobs.prepare(hand, migration.spec, migration.credentials)
            guard.settle()
            # It may begin only once the journal has its name: without it, nothing was migrated.
            hand.journal.write(job=job.name, job_id=job.id, schema="unknown")
            jobs.begin(hand, job)
        except EngineRefused as error:
            raise DeployFailed(f"The swarm refused the migration's job: {error.what}") from error
        _see_migration_end(hand)


def adopt_migration(hand: Hand) -> None:
    """See the end of a migration whose runner is gone. DeployFailed when it failed, or never began."""
    entry = hand.journal.entry
    if not entry.job or jobs.kept_from_beginning(hand, entry.job):
        hand.journal.write(job="", job_id="", schema=entry.schema_was)
        raise DeployFailed(entry.reason or "The deploy ended before the migration began.")
    hand.timeline.step("See the migration to its end")
    with Guard(hand, entry.service) as guard:
        guard.look()
        _see_migration_end(hand)


def _see_migration_end(hand: Hand) -> None:
    entry = hand.journal.entry
    job = hand.swarm.service(entry.job)
    if job is None and entry.reason:
        raise DeployFailed(f"{entry.reason} The migration was stopped.")
    if job is None:
        raise DeployFailed(f"The migration's job {entry.job} is not there: somebody removed it.")
    left = max(0.0, entry.job_deadline - hand.journal.manager_time())
    try:
        ended = jobs.wait_for_end(hand, job, timeout=left, source="migration")
    except TimedOut as error:
        # For whoever looks for the job after this.
        hand.journal.write(reason=entry.reason or error.what)
        prove_job_gone(hand)
        if entry.reason:
            raise DeployFailed(f"{entry.reason} The migration was stopped.") from error
        raise DeployFailed(
            f"{error.what} It was stopped.",
            todo="Raise migrate-timeout, or see in its output above what it waited for.",
        ) from error
    if ended.succeeded:
        hand.journal.write(phase=Phase.MIGRATED, exit_code=0, schema="migrated")
        hand.log.info("The migration succeeded.")
        return
    never_ran = ended.exit_code is None and ended.state == "rejected"
    hand.journal.write(exit_code=ended.exit_code, schema=entry.schema_was if never_ran else "unknown")
    how = f"exit code {ended.exit_code}" if ended.exit_code is not None else f"{ended.state}: {ended.error}"
    raise DeployFailed(
        f"The migration failed ({how}).",
        todo=remedy(ended.error, "Its output is above. Mend the migration and deploy again."),
    )


def cut_short(hand: Hand) -> None:
    """After a cancel: a migration that can be taken back has no more time. Any other is seen to its end."""
    entry = hand.journal.entry
    if entry.phase is Phase.MIGRATING and entry.restores and backups.untouched(hand):
        hand.log.info("There is a backup to go back to, so the migration is stopped.")
        hand.journal.write(job_deadline=hand.journal.manager_time(), reason="The run was cancelled.")


def prove_job_gone(hand: Hand) -> None:
    """Stop the migration's job. NeedsPerson when a task of it may still work on the database."""
    entry = hand.journal.entry
    if not entry.job_id:
        # It may have been asked for a moment ago, and come yet.
        with contextlib.suppress(TimedOut):
            job = hand.watch.until(lambda: hand.swarm.service(entry.job), timeout=CALL, every=1.0, what=lambda: "")
            entry = hand.journal.write(job_id=job.id)
    try:
        jobs.stop(hand, entry.job, known_id=entry.job_id)
    except TimedOut as error:
        raise NeedsPerson(
            error.what,
            state="The app stays stopped, since the migration may still change the database.",
            todo=f"Look for a container of {entry.job} on each node (docker ps) and stop it; or, if its node is surely "
            "off, have the swarm forget it: docker node rm --force NODE. Then run mode: recover.",
        ) from error


def roll_out(hand: Hand) -> float:
    """Deploy the new image through CapRover and prove that it runs, going on from where the journal is.

    Returns since when it runs, by this process's monotonic clock.
    """
    entry = hand.journal.entry
    if entry.phase != Phase.VERIFYING:
        hand.timeline.step(f"Deploy {entry.image} through CapRover")
        if entry.phase != Phase.DEPLOYING:
            stamp = rollout.service_of(hand, entry.service).stamp
            entry = hand.journal.write(phase=Phase.DEPLOYING, stamp=stamp)
        asked = entry.asked
        hand.journal.write(asked=True)
        try:
            rollout.ask_and_see_it_land(
                hand, entry.service, entry.image, entry.git_hash, stamp=entry.stamp, asked=asked
            )
        except Declined:
            hand.journal.write(declined=True)
            raise
        hand.journal.write(phase=Phase.VERIFYING)
    hand.timeline.step("See the new version run")
    wanted, since = running.see_it_run(hand, entry.service, entry.image, zero_is_right=entry.replicas == 0, probed=True)
    hand.log.info(f"{entry.image} runs with {wanted} replicas.")
    return since


def bring_back(hand: Hand) -> float:
    """Have the old version run again, just as it was; since when it does, by the monotonic clock."""
    entry = hand.journal.entry
    hand.timeline.step(f"Bring back {entry.previous_image}")
    since = running.bring_back(
        hand, entry.service, image=entry.previous_image, replicas=entry.replicas, stamp=entry.stamp, asked=entry.asked
    )
    hand.log.info(f"{entry.previous_image} runs again with {entry.replicas} replicas.")
    return since


def give_up(hand: Hand, error: DeployFailed) -> None:
    """Decide, once the deploy has failed for good, whether the database is restored, and the old version comes back."""
    entry = hand.journal.entry
    reason = error.what.splitlines()[0]
    if entry.phase in (Phase.PREPARING, Phase.RESTORING, Phase.RETURNING, Phase.DOWN):
        return
    if entry.schema != entry.schema_was and entry.restores and backups.untouched(hand):
        hand.journal.write(phase=Phase.RESTORING, reason=reason)
        return
    settle_version(hand, reason)


def settle_version(hand: Hand, reason: str) -> None:
    """Decide, with the database as it is to stay, whether the old version comes back or the app stays stopped."""
    entry = hand.journal.entry
    if entry.schema in ("unchanged", "restored") or entry.on_failure == "restore":
        stamp = rollout.service_of(hand, entry.service).stamp
        hand.journal.write(phase=Phase.RETURNING, reason=reason, stamp=stamp)
    else:
        hand.journal.write(phase=Phase.DOWN, reason=reason)
