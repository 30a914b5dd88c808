"""The journal: one holder at a time, each of whose writes is safe to repeat and to lose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from capmig.deploy import first_entry
from capmig.entry import Entry, Phase
from capmig.errors import Conflict, EngineRefused, FateUnknown, JournalGone, LinkLost, NeedsPerson, Superseded, TimedOut
from capmig.hand import Hand
from capmig.journal import CALL, LEASE, RENEW, acquire, config_name
from capmig.ports import Config
from capmig.preflight import look
from tests.fakes.log import RecordingLog
from tests.fakes.world import World, inputs


def entry_of(world: World, hand: Hand) -> Entry:
    return first_entry(hand, look(world.swarm, inputs()))


def holding(world: World) -> Hand:
    """A process that holds the journal."""
    hand = world.hand()
    assert hand.journal.create(entry_of(world, hand))
    return hand


def take_over(world: World) -> Hand:
    """Another process, which takes the journal over as it is."""
    hand = world.hand()
    found = hand.journal.look()
    assert found is not None
    assert hand.journal.take_over(*found)
    return hand


def fail_once(name: str, error: Exception, *, then: Callable[[], None] = lambda: None) -> Callable[[str, Any], None]:
    """A hook that raises once, at the first call of this name."""
    left = [error]

    def hook(called: str, args: object) -> None:
        if called == name and left:
            then()
            raise left.pop()

    return hook


def test_entry__survives_the_labels() -> None:
    """What is written is what is read, also with everything set."""
    world = World()
    entry = entry_of(world, world.hand())
    full = replace(
        entry,
        phase=Phase.RETURNING,
        job="job",
        job_deadline=12.5,
        exit_code=137,
        asked=True,
        touched=True,
        reason="a=b\nc",
    )
    for each in (entry, full):
        assert Entry.read("name", each.labels()) == each


@pytest.mark.parametrize(
    "change",
    [
        {"capmig.format": "1"},
        {"capmig.phase": "dancing"},
        {"capmig.replicas": "two"},
        {"capmig.asked": "yes"},
        {"capmig.unheard": "of"},
    ],
)
def test_entry__refuses_what_it_cannot_read(change: dict[str, str]) -> None:
    """A journal of another version, or somebody else's config, is never acted upon, and the message says what it is."""
    world = World()
    labels = entry_of(world, world.hand()).labels() | change
    with pytest.raises(NeedsPerson, match="capmig-web"):
        Entry.read("capmig-web", labels)


def test_entry__refuses_a_missing_field() -> None:
    """Half a journal is none."""
    world = World()
    labels = entry_of(world, world.hand()).labels()
    del labels["capmig.replicas"]
    with pytest.raises(NeedsPerson):
        Entry.read("capmig-web", labels)


def test_config_name__fits_and_tells_apart() -> None:
    """Names of 64 characters at most, and different ones for apps that differ only at their end."""
    assert config_name("web") == "capmig-web"
    long = [config_name("a" * 80 + end) for end in ("1", "2")]
    assert all(len(name) <= 64 for name in long)
    assert len(set(long)) == 2


def test_create__has_one_winner() -> None:
    """The second finds it taken."""
    world = World()
    first = holding(world)
    second = world.hand()
    assert not second.journal.create(entry_of(world, second))
    assert first.journal.held
    assert not second.journal.held


@pytest.mark.parametrize("taken", [True, False])
def test_create__lost_answer_is_looked_up(taken: bool) -> None:
    """Whether it holds the journal is what the manager says, not whether an answer came."""
    world = World()
    hand = world.hand()
    hook = fail_once("create_config", FateUnknown("lost"))
    if taken:
        world.swarm.after_call = hook
    else:
        world.swarm.before_call = hook
    assert hand.journal.create(entry_of(world, hand)) is taken
    assert (world.journal is not None) is taken


def test_take_over__has_one_winner_and_keeps_the_story() -> None:
    """Who takes an entry over changes who holds it and nothing else of it; a second with the same look loses."""
    world = World()
    first = holding(world)
    first.journal.write(phase=Phase.DRAINING, stopped_at=5.0)
    before = world.journal
    world.clock.sleep(LEASE + 1)
    late = world.hand()
    found = late.journal.look()
    assert found is not None
    second = take_over(world)
    after = world.journal
    assert before is not None
    assert after is not None
    assert after == replace(
        before, holder=second.journal.holder, owner=second.journal.owner, owner_url="", expires=after.expires
    )
    assert not late.journal.take_over(*found)


def test_write__of_a_superseded_holder_is_refused() -> None:
    """Whoever lost the journal learns of it at the next write, and holds it no longer."""
    world = World()
    first = holding(world)
    world.clock.sleep(LEASE + 1)
    second = take_over(world)
    with pytest.raises(Superseded, match=second.journal.owner):
        first.journal.write(phase=Phase.DRAINING)
    assert not first.journal.held
    assert world.journal == second.journal.entry


@pytest.mark.parametrize("error", [FateUnknown("lost"), Conflict("out of sequence")])
def test_write__is_repeated_until_it_is_known(error: Exception) -> None:
    """A lost answer, or another's change of an unrelated kind, is looked at and written again."""
    world = World()
    hand = holding(world)
    world.swarm.before_call = fail_once("update_config", error)
    hand.journal.write(phase=Phase.DRAINING)
    left = world.journal
    assert left is not None
    assert left.phase is Phase.DRAINING


def test_write__lost_answer_is_not_written_twice() -> None:
    """What has taken effect is not sent again."""
    world = World()
    hand = holding(world)
    sent: list[str] = []
    world.swarm.before_call = lambda name, args: sent.append(name)
    world.swarm.after_call = fail_once("update_config", FateUnknown("lost"))
    hand.journal.write(phase=Phase.DRAINING)
    assert sent.count("update_config") == 1


def test_write__a_new_phase_begins_now() -> None:
    """`since` is when the phase began: a change within it does not move it."""
    world = World()
    hand = holding(world)
    hand.journal.write(phase=Phase.DRAINING)
    began = hand.journal.entry.since
    world.clock.sleep(5.0)
    assert hand.journal.write(touched=True).since == began
    assert hand.journal.write(phase=Phase.MIGRATING).since > began + 4.0


def test_renew__only_when_due() -> None:
    """A tick is free until a quarter of the lease has passed."""
    world = World()
    hand = holding(world)
    calls: list[str] = []
    world.swarm.before_call = lambda name, args: calls.append(name)
    hand.journal.renew()
    assert calls == []
    world.clock.sleep(RENEW)
    hand.journal.renew()
    assert "update_config" in calls


@pytest.mark.parametrize("error", [LinkLost("down"), EngineRefused("no quorum")])
def test_renew__bears_a_lost_link_as_long_as_the_lease_lasts(error: Exception) -> None:
    """Nothing is given up for one missed renewal; when too little is left for another call, it is."""
    world = World()
    hand = holding(world)

    def down(name: str, args: object) -> None:
        raise error

    world.swarm.before_call = down
    world.clock.sleep(RENEW)
    hand.journal.renew()
    world.clock.sleep(LEASE - RENEW - CALL + 1)
    with pytest.raises(type(error)):
        hand.journal.renew()


def test_fence__renews_when_too_little_is_left() -> None:
    """No act begins with less time on the lease than a call may take."""
    world = World()
    hand = holding(world)
    world.clock.sleep(LEASE - CALL + 1)
    hand.journal.fence()
    left = world.journal
    assert left is not None
    assert left.expires > world.clock.time() + LEASE - 1


def test_fence__stops_who_stood_still_past_the_lease() -> None:
    """A run that slept while another took over does not act."""
    world = World()
    first = holding(world)
    world.clock.sleep(LEASE + 1)
    take_over(world)
    with pytest.raises(Superseded):
        first.journal.fence()


def test_fence__slow_renewal_is_not_enough() -> None:
    """When the renewal itself took so long that too little is left, nothing is sent."""
    world = World()
    hand = holding(world)
    world.clock.sleep(LEASE - CALL + 1)
    world.swarm.after_call = lambda name, args: world.clock.sleep(45.0 if name == "update_config" else 0.0)
    with pytest.raises(LinkLost):
        hand.journal.fence()


def test_journal__removed_by_hand_can_be_made_anew() -> None:
    """While the lease lasts no other run can have ended it, so it was a person."""
    world = World()
    hand = holding(world)
    found = hand.journal.look()
    assert found is not None
    world.swarm.direct.remove_config(found[0])
    with pytest.raises(JournalGone):
        hand.journal.write(phase=Phase.DRAINING)
    assert hand.journal.make_anew()
    assert world.journal is not None


def test_journal__gone_after_its_lease_was_ended_by_another_run() -> None:
    """A run that stood still must not start again a deploy that another run has taken over and ended meanwhile."""
    world = World()
    first = holding(world)
    world.clock.sleep(LEASE + 1)
    take_over(world).journal.release()
    with pytest.raises(Superseded) as caught:
        first.journal.renew()
    assert not isinstance(caught.value, JournalGone)
    assert not first.journal.held


def test_release__of_a_journal_that_is_gone_is_no_success() -> None:
    """A run whose journal another one ended must not report what it meant to report."""
    world = World()
    first = holding(world)
    world.clock.sleep(LEASE + 1)
    take_over(world).journal.release()
    with pytest.raises(Superseded):
        first.journal.release()


def test_release__lost_answer_is_looked_up() -> None:
    """The removal took effect: that is success, also when another run has already begun a journal of its own."""
    world = World()
    hand, other = holding(world), world.hand()

    def begin() -> None:
        world.swarm.after_call = lambda name, args: None
        assert other.journal.create(entry_of(world, other))

    world.swarm.after_call = fail_once("remove_config", FateUnknown("lost"), then=begin)
    hand.journal.release()
    assert not hand.journal.held
    assert other.journal.held


def test_release__answered_as_done_but_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Released means gone: a removal that had no effect is made again."""
    world = World()
    hand = holding(world)
    really, asked = world.swarm.remove_config, list[Config]()

    def remove(config: Config) -> None:
        asked.append(config)
        if len(asked) > 1:
            really(config)

    monkeypatch.setattr(world.swarm, "remove_config", remove)
    hand.journal.release()
    assert hand.journal.look() is None
    assert len(asked) == 2


@pytest.mark.parametrize("error", [LinkLost("gone"), EngineRefused("too busy", status=500)])
def test_release__nothing_matters_once_it_is_done(error: Exception) -> None:
    """The manager said that the journal is gone; a look that fails after that changes nothing."""
    world = World()
    hand = holding(world)

    def cut(name: str, args: object) -> None:
        if name == "remove_config":
            world.swarm.before_call = fail_once("config", error)

    world.swarm.after_call = cut
    hand.journal.release()
    assert not hand.journal.held
    assert hand.journal.look() is None


def test_release__whose_answers_get_lost_ends_the_lease() -> None:
    """The removal may take effect at any time, and another run begin: nothing may be done on the old lease."""
    world = World()
    hand = holding(world)

    def lose(name: str, args: tuple[Any, ...]) -> None:
        if name == "remove_config":
            world.clock.sleep(15.0)
            raise FateUnknown("lost")

    world.swarm.before_call = lose
    with pytest.raises(FateUnknown):
        hand.journal.release()
    found = hand.journal.look()
    assert found is not None
    world.swarm.direct.remove_config(found[0])
    holding(world)
    with pytest.raises(Superseded):
        hand.journal.fence()


@pytest.mark.parametrize("error", [LinkLost("gone"), EngineRefused("too busy", status=500)])
def test_release__knows_its_own_removal_on_the_next_try(error: Exception) -> None:
    """The answer to the removal is lost, and so is the look for it: recovery tries again, and finds it done."""
    world = World()

    def lose(name: str, args: object) -> None:
        if name == "remove_config":
            world.swarm.before_call = fail_once("config", error)
            raise FateUnknown("lost")

    world.swarm.after_call = lose
    assert world.deploy().ending.result == "deployed"
    assert world.journal is None


def test_release__does_not_take_the_end_by_another_for_its_own() -> None:
    """The removal never took effect; past the lease another run takes the journal, and ends it as it sees fit."""
    world = World()
    hand = holding(world)

    def lose(name: str, args: object) -> None:
        if name == "remove_config":
            world.swarm.before_call = fail_once("config", LinkLost("gone"))
            raise FateUnknown("lost")

    world.swarm.before_call = lose
    with pytest.raises(LinkLost):
        hand.journal.release()
    world.clock.sleep(LEASE + 1)
    take_over(world).journal.release()
    with pytest.raises(Superseded):
        hand.journal.release()


def test_leave__can_be_taken_at_once() -> None:
    """What is left for the next run has no lease."""
    world = World()
    hand = holding(world)
    hand.journal.leave(phase=Phase.DOWN)
    left = world.journal
    assert left is not None
    assert hand.journal.expired(left)
    assert not hand.journal.held


def acquired(world: World, hand: Hand, timeout: float = 300.0) -> Entry | None:
    return acquire(
        hand.journal,
        lambda: entry_of(world, hand),
        clock=world.clock,
        log=hand.log,
        timeout=timeout,
        tick=hand.watch.tick,
    )


def test_acquire__takes_over_a_dead_one() -> None:
    """A journal whose lease runs out is given to be recovered first."""
    world = World()
    first = holding(world)
    began = world.clock.monotonic()
    left = acquired(world, world.hand())
    assert left is not None
    assert left.owner == first.journal.owner
    assert LEASE - 1 < world.clock.monotonic() - began < LEASE + 5


def test_acquire__waits_for_a_live_one_and_names_it_once() -> None:
    """Who waits sees for whom, in one line and not in hundreds."""
    world = World()
    first, second = holding(world), world.hand()
    second.watch.also.append(first.journal.renew)
    with pytest.raises(TimedOut, match=first.journal.owner):
        acquired(world, second)
    assert isinstance(second.log, RecordingLog)
    assert len(second.log.of("info")) == 1
