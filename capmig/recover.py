"""`recover` turns a journal into a safe state: after a failure, after a cancel, in the post step, in the next run."""

from __future__ import annotations

from dataclasses import dataclass, replace

from capmig import jobs, rollout, stages
from capmig.backup import stages as backups
from capmig.entry import Entry, Phase
from capmig.errors import (
    Cancelled,
    Conflict,
    DeployFailed,
    EngineRefused,
    FateUnknown,
    JournalGone,
    LinkLost,
    NeedsPerson,
    TimedOut,
)
from capmig.hand import Hand

# What may pass by itself; each is tried again for so many seconds in all.
PASSING = (LinkLost, FateUnknown, EngineRefused, Conflict, TimedOut)
PATIENCE = 600.0
PAUSE = 5.0


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a deploy ended. `result`: deployed, restored, stayed-down, or unchanged; `entry`: the journal's last word.

    `downtime`: seconds from the stop until a version ran again; None if nothing was stopped, or it is down still.
    """

    result: str
    entry: Entry
    downtime: float | None = None


def recover(
    hand: Hand, *, failed: DeployFailed | None = None, cancelled: bool = False, raise_up: bool = False
) -> Ending:
    """Bring the deploy that the journal tells of to its end, forward or back. Undisturbed by signals.

    `failed`, `cancelled`: how this run itself came to this; `raise_up`: a person asks for an app that was left down to
    be brought back. NeedsPerson when no end is safe, or the swarm cannot be reached for 10 minutes; the journal stays
    then.
    """
    hand.watch.deafen()
    give_up_at = hand.clock.monotonic() + PATIENCE
    while True:
        try:
            if cancelled:
                stages.cut_short(hand)
                cancelled = False
            if failed is not None:
                stages.give_up(hand, failed)
                failed = None
            return _recover(hand, raise_up)
        except PASSING as error:
            if hand.clock.monotonic() > give_up_at:
                entry = hand.journal.entry
                raise NeedsPerson(
                    f"The deploy could not be brought to a safe end: {error.what}",
                    state=f"{entry.service} was last known in phase {entry.phase}; {state_of_schema(entry)}",
                    todo=f"{error.todo or 'Mend what is said above.'}\n"
                    "The next deploy brings this one to its end first; so does mode: recover.",
                ) from error
            hand.log.warning(f"Trying again: {error.what}")
            hand.clock.sleep(PAUSE)


def _recover(hand: Hand, raise_up: bool) -> Ending:
    while True:
        entry = hand.journal.entry
        try:
            match entry.phase:
                case Phase.PREPARING:
                    return _nothing_happened(hand)
                case Phase.DRAINING | Phase.BACKING_UP:
                    raise DeployFailed(entry.reason or "The deploy ended before the migration began.")
                case Phase.MIGRATING:
                    stages.adopt_migration(hand)
                case Phase.MIGRATED | Phase.DEPLOYING | Phase.VERIFYING:
                    return done(hand, stages.roll_out(hand))
                case Phase.RESTORING:
                    _no_job_may_run(hand)
                    backups.restore(hand)
                    stages.settle_version(hand, entry.reason)
                case Phase.RETURNING:
                    _no_job_may_run(hand)
                    return _end(hand, "restored", stages.bring_back(hand))
                case Phase.DOWN:
                    if not raise_up:
                        return _stay_down(hand)
                    stamp = rollout.service_of(hand, entry.service).stamp
                    hand.journal.write(phase=Phase.RETURNING, stamp=stamp)
        except DeployFailed as error:
            stages.give_up(hand, error)
            hand.log.info(error.what)


def done(hand: Hand, since: float) -> Ending:
    """The new version runs, `since` this moment of the monotonic clock: end the journal."""
    return _end(hand, "deployed", since)


def _end(hand: Hand, result: str, since: float) -> Ending:
    jobs.sweep(hand)
    entry = hand.journal.entry
    up_at = hand.journal.manager_time() - (hand.clock.monotonic() - since)
    hand.journal.release()
    return Ending(result=result, entry=entry, downtime=max(0.0, up_at - entry.stopped_at) if entry.stopped_at else None)


def _nothing_happened(hand: Hand) -> Ending:
    """End a deploy that stopped nothing; one that began with the app left down leaves it so, and its journal."""
    entry = hand.journal.entry
    jobs.sweep(hand)
    if entry.stopped_at:
        service = rollout.service_of(hand, entry.service)
        if not service.replicas:
            hand.journal.leave(phase=Phase.DOWN)
            return Ending(result="stayed-down", entry=entry)
        # Somebody has brought it up since.
        entry = replace(entry, previous_image=service.image, replicas=service.replicas)
    hand.journal.release()
    return Ending(result="unchanged", entry=entry)


def _no_job_may_run(hand: Hand) -> None:
    """Before a version starts: nothing may still work on the database."""
    entry = hand.journal.entry
    if entry.job:
        stages.prove_job_gone(hand)


def _stay_down(hand: Hand) -> Ending:
    entry = hand.journal.entry
    _no_job_may_run(hand)
    if not entry.stopped_at:
        # A deploy that stopped nothing itself, on a database that an earlier one had changed.
        entry = hand.journal.write(stopped_at=hand.journal.manager_time())
    rollout.drain(hand, entry.service)
    jobs.sweep(hand)
    hand.journal.leave()
    return Ending(result="stayed-down", entry=entry)


def state_of_schema(entry: Entry) -> str:
    """What is known of the database, as a clause."""
    return {
        "unchanged": "the database was not changed.",
        "migrated": "the database is migrated.",
        "restored": "the database is restored: it is what it was before.",
        "unknown": "the migration may be half done.",
    }[entry.schema]


def recover_anyhow(hand: Hand, error: Exception) -> Ending:
    """As `recover`, after this run's own error; also when somebody removed the journal by hand."""
    try:
        failed = error if isinstance(error, DeployFailed) else None
        return recover(hand, failed=failed, cancelled=isinstance(error, Cancelled))
    except JournalGone as gone:
        if not hand.journal.make_anew():
            raise
        hand.log.warning(f"{gone.what} It was made anew from what this run knows.")
        return recover_anyhow(hand, error)
