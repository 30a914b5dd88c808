"""The stages of a deploy that have to do with backups: check, back up, restore, remove old ones."""

from __future__ import annotations

import shlex
from dataclasses import replace

from capmig import jobs, rollout
from capmig.backup.subject import subject_of
from capmig.backup.tool import VOLUME, Told, Tool, backup_id, job_spec, registry_of
from capmig.entry import Entry, Phase
from capmig.errors import CapmigError, DeployFailed, EngineRefused, NeedsPerson, Refused, TimedOut, remedy
from capmig.guard import Guard
from capmig.hand import Hand, Made
from capmig.plan import Plan
from capmig.ports import Credentials, Service
from capmig.report import amount

CHECK_TIMEOUT = 300.0  # the client's image may have to be pulled
TIDY_TIMEOUT = 60.0
RESTORE_FACTOR = 4  # a restore makes indexes anew, so it takes longer than the backup did
RESTORES = 3  # attempts, before a person is asked
TOUCHED = "Somebody has started the app meanwhile: nothing is restored, and what it wrote stays."


def check(hand: Hand, plan: Plan) -> Tool | None:
    """See, before anything stops, that the login, the rights, the client and the space are right for a backup.

    Returns the plan's tool, its image pinned to what was just pulled. None if no backup was asked for.
    """
    if plan.tool is None or plan.inputs.backup is None:
        return None
    subject = plan.tool.subject
    hand.timeline.step(f"Check that {subject.what} can be backed up")
    name = f"{hand.job_name}-check"
    tool = replace(plan.tool, image=_pinned(hand, plan.tool.image))
    hand.journal.write(
        backup_engine=subject.engine,
        backup_source=subject.source,
        backup_target=subject.target,
        backup_command=shlex.join(plan.inputs.backup.command),
        restore_command=shlex.join(plan.inputs.backup.restore_command),
        backup_image=tool.image,
        backup_node=tool.node,
        backup_timeout=plan.inputs.backup.timeout,
        restores=plan.inputs.backup.restore,
    )
    told, ended = _run(hand, plan.service, tool, name=name, action="check", timeout=CHECK_TIMEOUT)
    if not (ended.succeeded or told.values):
        # Its container may have been pruned before it was read, just after CapRover has updated some service.
        jobs.stop(hand, name)
        told, ended = _run(hand, plan.service, tool, name=name, action="check", timeout=CHECK_TIMEOUT)
    if not ended.succeeded:
        raise DeployFailed(
            f"{_capital(subject.what)} cannot be backed up: {_why(told, ended)}",
            todo="Mend what is said above, name another database with backup-source or another image with "
            "backup-image, or deploy without a backup (backup: none).",
        )
    jobs.stop(hand, name)
    return tool


def _pinned(hand: Hand, image: str) -> str:
    """The image with its digest: with that, a node which has it asks no registry for it while the app is down."""
    if "@" in image:
        return image
    try:
        return f"{image}@{hand.swarm.resolve(image, _login(hand, image))}"
    except EngineRefused:
        return image


def back_up(hand: Hand, service: Service, tool: Tool) -> None:
    """Back the stopped app's database up, and see that the backup can be read. DeployFailed otherwise."""
    hand.watch.heed()
    entry = hand.journal.entry
    hand.timeline.step(f"Back {tool.subject.what} up")
    with Guard(hand, entry.service) as guard:
        guard.settle()
        version = rollout.service_of(hand, entry.service).version
        hand.journal.write(phase=Phase.BACKING_UP, drained_version=version, touched=False)
        guard.settle()
        dump(hand, service, tool)


def dump(hand: Hand, service: Service, tool: Tool) -> None:
    """Make a backup, of an app that runs or not. DeployFailed when it fails or takes too long."""
    entry = hand.journal.entry
    name = f"{hand.job_name}-backup"
    now = hand.journal.manager_time()
    made = backup_id(hand.app, entry.previous_image, tool.subject.engine, now)
    hand.journal.write(job=name, job_id="", job_deadline=now + entry.backup_timeout)
    try:
        told, ended = _run(
            hand, service, tool, name=name, action="dump", timeout=entry.backup_timeout, backup=made, journaled=True
        )
    except TimedOut as error:
        raise DeployFailed(f"{error.what} It was stopped.", todo="Raise backup-timeout.") from error
    if not ended.succeeded:
        why = _why(told, ended)
        raise DeployFailed(f"The backup failed: {why}", todo=remedy(why, "Mend what is said above and deploy again."))
    jobs.stop(hand, name, known_id=hand.journal.entry.job_id)
    entry = hand.journal.write(
        job="",
        job_id="",
        backup_id=made,
        backup_bytes=int(told.number("bytes")),
        backup_seconds=told.number("seconds"),
    )
    hand.made.append(
        Made(
            id=made,
            bytes=entry.backup_bytes,
            sha256=told.values.get("sha256", ""),
            image=tool.image,
            node=tool.node,
        )
    )
    size = amount(entry.backup_bytes)
    hand.log.info(f"The backup {made} has {size}; it took {entry.backup_seconds:.0f} s, and can be read.")


def untouched(hand: Hand) -> bool:
    """Whether no task of the app can have run since the backup: its service is just as it was when it was drained."""
    entry = hand.journal.entry
    if not entry.backup_id or entry.touched or entry.phase == Phase.VERIFYING:
        return False
    if entry.asked and not entry.declined:
        return False  # CapRover may yet come to it, and start the new version in the middle of a restore
    service = rollout.service_of(hand, entry.service)
    return service.version == entry.drained_version and service.replicas == 0


def restore(hand: Hand) -> None:
    """Bring the database back to what it was, with the app stopped; begins anew where one was left half done.

    Nothing is restored if the app was started since that was decided, and before any restore had begun.
    """
    entry = hand.journal.entry
    service = rollout.service_of(hand, entry.service)
    tool = tool_of(entry, service)
    what = tool.subject.what
    hand.timeline.step(f"Restore {what}")
    why = ""
    with Guard(hand, entry.service) as guard:
        try:
            guard.settle()
        except DeployFailed as error:
            raise NeedsPerson(error.what, state=where(entry), todo=f"{error.todo} Then run mode: recover.") from error
        begun = entry.job_id and entry.job.rpartition("-restore-")[2].isdigit()
        surely = entry.by_hand or begun
        if not (surely or untouched(hand)):
            hand.log.warning(TOUCHED)
            return
        for number in range(RESTORES):
            name = f"{hand.job_name}-restore-{number}"
            timeout = RESTORE_FACTOR * entry.backup_timeout
            deadline = hand.journal.manager_time() + timeout
            hand.journal.write(job=name, job_id="", job_deadline=deadline)
            if not (surely or untouched(hand)):  # to write that may take long
                hand.journal.write(job="")
                hand.log.warning(TOUCHED)
                return
            surely = True
            try:
                told, ended = _run(
                    hand,
                    service,
                    tool,
                    name=name,
                    action="restore",
                    timeout=timeout,
                    backup=entry.backup_id,
                    journaled=True,
                )
            except TimedOut as error:
                why = error.what
                break
            except DeployFailed as error:  # there was no job: another one may come
                why = error.what
                hand.log.warning(f"The restore did not begin: {why}")
                jobs.stop(hand, name)
                continue
            jobs.stop(hand, name, known_id=hand.journal.entry.job_id)
            if ended.succeeded:
                how = {
                    "swap": "a new database took its place",
                    "in-place": "in place, in one transaction",
                    "recreate": "dropped, and made anew",
                    "rename": "its file took the other one's place",
                    "unpack": "emptied, and filled again",
                    "command": "by restore-command",
                }
                hand.log.info(f"{_capital(what)}: restored ({how.get(told.values.get('method', ''), 'done')}).")
                state = "restored" if entry.by_hand or entry.schema_was == "unchanged" else entry.schema_was
                hand.journal.write(job="", job_id="", restored=True, schema=state)
                return
            why = _why(told, ended)
            hand.log.warning(f"The restore failed: {why}")
    raise NeedsPerson(
        f"{_capital(what)} could not be restored: {why}",
        state=f"{entry.service} is stopped, and what the migration did is still there. {where(entry)}",
        todo="Mend what is said above and run mode: recover, which restores again.",
    )


def tool_of(entry: Entry, service: Service) -> Tool:
    """The tool that made the backup, from the journal and the app's service. NeedsPerson if that has changed."""
    commands = tuple(tuple(shlex.split(text)) for text in (entry.backup_command, entry.restore_command) if text)
    try:
        subject = subject_of(service, engine=entry.backup_engine, source=entry.backup_source, commands=commands)
    except Refused as error:
        raise _changed(entry, error.what) from error
    if subject.target != entry.backup_target:
        raise _changed(entry, f"{subject.source} named another database then" if subject.source else subject.target)
    return Tool(subject=subject, image=entry.backup_image, node=entry.backup_node)


def _changed(entry: Entry, why: str) -> NeedsPerson:
    return NeedsPerson(
        f"The app was changed since the backup, so it cannot be restored by itself: {why}",
        state=f"{entry.service} is stopped. {where(entry)}",
        todo=f"Set {entry.backup_source or 'the volumes'} back to {entry.backup_target}, and run mode: recover.",
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def where(entry: Entry) -> str:
    """Where the backup is, in a sentence."""
    return f"The backup is in the volume {VOLUME} on the node {entry.backup_node}, as {entry.backup_id}."


def listed(hand: Hand, service: Service, tool: Tool) -> dict[str, int]:
    """The app's backups on the tool's node, oldest first, with their sizes in bytes."""
    name = f"{hand.job_name}-list"
    told, ended = _run(hand, service, tool, name=name, action="list", timeout=TIDY_TIMEOUT)
    if not ended.succeeded:
        raise DeployFailed(f"The backups cannot be listed: {_why(told, ended)}")
    jobs.stop(hand, name)
    return {found["backup"]: int(found["bytes"]) for found in told.lists if "backup" in found}


def tidy(hand: Hand, plan: Plan) -> None:
    """Remove the app's oldest backups. A deploy that has succeeded does not fail for it."""
    if plan.tool is None or plan.inputs.backup is None:
        return
    tool = replace(plan.tool, image=hand.journal.entry.backup_image)
    name = f"{hand.job_name}-prune"
    try:
        told, ended = _run(
            hand, plan.service, tool, name=name, action="prune", timeout=TIDY_TIMEOUT, keep=plan.inputs.backup.keep
        )
        why = "" if ended.succeeded else _why(told, ended)
    except CapmigError as error:
        why = error.what
    if why:
        hand.log.warning(f"Old backups could not be removed: {why}")


def _run(
    hand: Hand,
    service: Service,
    tool: Tool,
    *,
    name: str,
    action: str,
    timeout: float,
    backup: str = "",
    keep: int = 0,
    journaled: bool = False,
) -> tuple[Told, jobs.Ended]:
    """Run a job to its end. When it does not come to it in time it is stopped and proven gone, and TimedOut raised."""
    # The time of the stop tells restores of one backup apart, and is the same for whoever takes over.
    attempt = f"{hand.journal.entry.stopped_at:.0f}"
    spec = job_spec(service, tool, app=hand.app, name=name, action=action, backup=backup, keep=keep, attempt=attempt)
    told = Told()
    try:
        job = jobs.start(hand, spec, _login(hand, tool.image))
    except EngineRefused as error:
        raise DeployFailed(f"The swarm refused the job {name}: {error.what}") from error
    if journaled:
        hand.journal.write(job_id=job.id)
    try:
        ended = jobs.wait_for_end(hand, job, timeout=timeout, source=action, hear=told.hear)
    except (TimedOut, DeployFailed):
        jobs.stop(hand, name, known_id=job.id)
        raise
    return told, ended


def _login(hand: Hand, image: str) -> Credentials | None:
    """The login at the registry of the app's image, if this image is from there too: another one would refuse it."""
    return hand.credentials if registry_of(image) == registry_of(hand.journal.entry.image) else None


def _why(told: Told, ended: jobs.Ended) -> str:
    return told.values.get("error") or ended.error or f"{ended.state}, exit code {ended.exit_code}"
