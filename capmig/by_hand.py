"""What is run beside a deploy: the post step, and the modes recover and unlock for a person."""

from __future__ import annotations

from capmig import endings, recover, rollout
from capmig.entry import Entry
from capmig.errors import NeedsPerson
from capmig.hand import Hand
from capmig.report import Outcome

POST_WAIT = 240.0  # seconds: a runner gives post steps about 5 minutes


def post(hand: Hand) -> endings.Ended:
    """After the main step: finish what it left. While its container still works on it, wait and show how far it is."""
    hand.timeline.step("See whether the deploy was left unfinished")
    give_up = hand.clock.monotonic() + POST_WAIT
    told = ""
    while True:
        found = hand.journal.look()
        if found is None or found[1].owner != hand.journal.owner or _left_down(found[1], hand):
            return _nothing(hand, "Nothing is left to do.")
        config, entry = found
        if hand.journal.expired(entry):
            if hand.journal.take_over(config, entry):
                return endings.of_recovery(recover.recover(hand), hand.timeline.stages())
            continue
        saying = f"The deploy's container still works on it, or died within the last minute: phase {entry.phase}."
        if saying != told:
            hand.log.info(saying)
            told = saying
        if hand.clock.monotonic() > give_up:
            return _nothing(
                hand, f"The deploy's container still works on it after {POST_WAIT:.0f} s; it goes on by itself."
            )
        hand.watch.sleep(2.0)


def _left_down(entry: Entry, hand: Hand) -> bool:
    return entry.phase == "down" and hand.journal.expired(entry)


def recover_now(hand: Hand, *, raise_up: bool) -> endings.Ended:
    """Bring an unfinished deploy to its end. Waits for one that is still alive up to lock-timeout."""
    hand.timeline.step("Look for an unfinished deploy")
    give_up = hand.clock.monotonic() + hand.settings.lock_timeout
    while True:
        found = hand.journal.look()
        if found is None:
            return _nothing(hand, f"No deploy of {hand.app} is unfinished.")
        config, entry = found
        if not hand.journal.expired(entry):
            if hand.clock.monotonic() > give_up:
                raise NeedsPerson(
                    f"{entry.owner} is still deploying {entry.image} (phase {entry.phase}). {entry.owner_url}".strip(),
                    state="This run has changed nothing.",
                    todo="Wait for it to end, or cancel it; then run mode: recover again.",
                )
            hand.log.info(f"{entry.owner} still holds the lock (phase {entry.phase}).")
            hand.watch.sleep(5.0)
            continue
        if hand.journal.take_over(config, entry):
            return endings.of_recovery(recover.recover(hand, raise_up=raise_up), hand.timeline.stages())


def unlock(hand: Hand) -> endings.Ended:
    """Show the journal, and remove it if the app is in a safe state. NeedsPerson otherwise."""
    hand.timeline.step("Look at the journal")
    found = hand.journal.look()
    if found is None:
        return _nothing(hand, f"There is no journal of {hand.app}: it is not locked.")
    config, entry = found
    for name, value in sorted(entry.labels().items()):
        hand.log.info(f"{name}={value}")
    why = _why_not_safe(hand, entry)
    if why:
        raise NeedsPerson(
            f"The journal of {hand.app} stays: {why}",
            state=f"It is held by {entry.owner}, phase {entry.phase}. {entry.owner_url}".strip(),
            todo="Run mode: recover, which brings the deploy to a safe end and unlocks the app.",
        )
    if not hand.journal.take_over(config, entry):
        return unlock(hand)
    hand.journal.release()
    return _nothing(
        hand, f"{hand.app} is unlocked: {entry.service} runs with all its replicas, and no job of capmig does."
    )


def _why_not_safe(hand: Hand, entry: Entry) -> str:
    if not hand.journal.expired(entry):
        return "its owner is alive."
    if entry.job and hand.swarm.service(entry.job) is not None:
        return f"the migration's job {entry.job} is still there."
    service = rollout.service_of(hand, entry.service)
    running = [task for task in hand.swarm.tasks(service) if task.state == "running"]
    if len(running) != service.replicas or (not running and entry.replicas):
        return f"{entry.service} runs {len(running)} of {service.replicas or entry.replicas} replicas."
    return ""


def _nothing(hand: Hand, saying: str) -> endings.Ended:
    hand.log.info(saying)
    outcome = Outcome(
        result="recovered",
        app=hand.app,
        image="",
        previous_image="",
        failed_phase="",
        migration_ran=False,
        migration_exit_code=None,
        schema_state="",
        downtime=None,
        stages=hand.timeline.stages(),
        error="",
        state="",
        todo="",
        deployed_image="",
    )
    return endings.Ended(outcome=outcome, exit_code=0, quiet=True)
