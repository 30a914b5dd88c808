"""What runs beside a deploy: the post step, and the modes recover and unlock."""

from __future__ import annotations

import pytest

from capmig.by_hand import POST_WAIT, post, recover_now, unlock
from capmig.deploy import first_entry
from capmig.entry import Phase
from capmig.errors import NeedsPerson
from capmig.hand import Hand
from capmig.journal import LEASE
from capmig.preflight import look
from tests.fakes.log import RecordingLog
from tests.fakes.swarm import Run
from tests.fakes.world import APP, NEW, OLD, World, inputs


def left_stopped(world: World, *, owner: str = "run 1") -> None:
    """A deploy that died with the app stopped and the database untouched."""
    with world.dying(lambda name: world.running == []):
        world.deploy(hand=world.hand(owner=owner))


def holding(world: World, hand: Hand) -> None:
    assert hand.journal.create(first_entry(hand, look(world.swarm, inputs())))


def text_of(hand: Hand) -> str:
    assert isinstance(hand.log, RecordingLog)
    return hand.log.text


def test_post__has_nothing_to_do_after_a_whole_deploy() -> None:
    """No journal, no word."""
    world = World()
    world.deploy()
    ended = post(world.hand(owner="run 1"))
    assert ended.quiet
    assert ended.exit_code == 0


def test_post__brings_back_what_its_own_run_left() -> None:
    """It waits for the dead process's lease to end, then recovers."""
    world = World()
    left_stopped(world)
    began = world.clock.monotonic()
    ended = post(world.hand(owner="run 1"))
    assert ended.outcome.result == "restored"
    assert world.running == [OLD, OLD]
    assert world.journal is None
    assert world.clock.monotonic() - began < LEASE + 30.0


def test_post__leaves_the_journal_of_another_run_alone() -> None:
    """That run has a post step of its own, and whoever deploys next recovers it."""
    world = World()
    left_stopped(world, owner="another run")
    assert post(world.hand(owner="run 1")).quiet
    assert world.journal is not None
    assert world.running == []


def test_post__leaves_an_app_down_that_was_left_down() -> None:
    """stay-down is an end: the post step must not take it for something unfinished."""
    world = World()
    world.new_image(migration=Run(duration=1.0, exit_code=1))
    world.deploy(inputs(on_failure="stay-down"), world.hand(owner="run 1"))
    assert post(world.hand(owner="run 1")).quiet
    assert world.running == []
    assert world.journal is not None


def test_post__waits_for_a_container_that_goes_on() -> None:
    """A cancelled run's container outlives its client: the post step watches, and ends without an error."""
    world = World()
    first, second = world.hand(owner="run 1"), world.hand(owner="run 1")
    holding(world, first)
    second.watch.also.append(first.journal.renew)
    began = world.clock.monotonic()
    ended = post(second)
    assert ended.quiet
    assert ended.exit_code == 0
    assert world.clock.monotonic() - began >= POST_WAIT
    assert text_of(second).count("still works on it, or died") == 1
    assert first.journal.held


def test_recover_now__has_nothing_to_do() -> None:
    """Without a journal it says so and changes nothing."""
    world = World()
    hand = world.hand()
    assert recover_now(hand, raise_up=True).quiet
    assert f"No deploy of {APP} is unfinished" in text_of(hand)


def test_recover_now__finishes_anybodys_deploy() -> None:
    """Whose it was does not matter; the exit code is that of a success."""
    world = World()
    with world.dying(lambda name: world.schema == 2):
        world.deploy(hand=world.hand(owner="another run"))
    ended = recover_now(world.hand(), raise_up=True)
    assert ended.outcome.result == "deployed"
    assert ended.exit_code == 0
    assert world.running == [NEW, NEW]


def test_recover_now__does_not_touch_a_live_deploy() -> None:
    """It waits for as long as lock-timeout says, then names who is at it."""
    world = World()
    first, second = world.hand(), world.hand()
    holding(world, first)
    second.watch.also.append(first.journal.renew)
    with pytest.raises(NeedsPerson, match=first.journal.owner):
        recover_now(second, raise_up=True)
    assert first.journal.held
    assert world.running == [OLD, OLD]


def test_unlock__without_a_journal() -> None:
    """Nothing is locked."""
    world = World()
    assert unlock(world.hand()).quiet


def test_unlock__removes_the_journal_of_an_app_that_runs() -> None:
    """A run died before it stopped anything: all is well, and the journal is shown before it goes."""
    world = World()
    with world.dying(lambda name: world.journal is not None):
        world.deploy(hand=world.hand(owner="run 1"))
    world.clock.sleep(LEASE + 1)
    hand = world.hand()
    assert unlock(hand).exit_code == 0
    assert world.journal is None
    assert "capmig.phase=preparing" in text_of(hand)


def test_unlock__refuses_while_the_owner_lives() -> None:
    """A live deploy is never unlocked."""
    world = World()
    first = world.hand()
    holding(world, first)
    with pytest.raises(NeedsPerson, match="its owner is alive"):
        unlock(world.hand())
    assert world.journal is not None


def test_unlock__refuses_while_the_app_is_stopped() -> None:
    """The journal is all that knows how many replicas it had."""
    world = World()
    left_stopped(world)
    world.clock.sleep(LEASE + 1)
    with pytest.raises(NeedsPerson, match="runs 0 of 2 replicas"):
        unlock(world.hand())
    left = world.journal
    assert left is not None
    assert left.phase is Phase.DRAINING


def test_unlock__refuses_while_the_migration_is_there() -> None:
    """Even if the app runs: its job may still work on the database."""
    world = World()
    world.new_image(migration=Run(duration=None))
    with world.dying(lambda name: world.migrations == 1):
        world.deploy(hand=world.hand(owner="run 1"))
    world.caprover.save_and_update()
    world.clock.sleep(LEASE + 1)
    with pytest.raises(NeedsPerson, match="job capmig-web-"):
        unlock(world.hand())


def test_unlock__keeps_secrets_to_itself() -> None:
    """What it shows is the journal, which has none."""
    world = World()
    with world.dying(lambda name: world.journal is not None):
        world.deploy(hand=world.hand(owner="run 1"))
    world.clock.sleep(LEASE + 1)
    hand = world.hand()
    unlock(hand)
    assert inputs().token not in text_of(hand)
