"""Which cases there are: each recorded call of a deploy, times what can go wrong with such a call. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.faults.stories import PLAIN, STORIES, Story

REPEATS = 2  # of a call that a wait repeats in one phase, the first so many are spoilt: later ones meet the same code

# fault, when (before: nothing was sent; after: it took effect, and its answer is lost where the fault says so), and who
# comes next: the runner's post step, or, where the runner died too, the next run.
ACTS = (
    ("kill", "before", "post"),
    ("kill", "after", "post"),
    ("kill", "after", "next"),
    ("int", "before", "post"),
    ("int", "after", "post"),
    ("cut", "before", "post"),
    ("cut", "after", "post"),
    ("error", "before", "post"),
    ("error", "after", "post"),
    ("timeout", "before", "post"),
    ("timeout", "after", "post"),
    ("silent", "before", "post"),
)
# Whether a read was sent makes no difference to anything.
READS = tuple((fault, "before", "post") for fault in ("kill", "int", "cut", "error", "timeout"))
LOGIN = (
    ("kill", "before", "post"),
    ("kill", "after", "post"),
    ("int", "before", "post"),
    ("int", "after", "post"),
    ("cut", "after", "post"),
    ("error", "before", "post"),
    ("timeout", "before", "post"),
)
FAULTS: Mapping[str, tuple[tuple[str, str, str], ...]] = {
    "docker act": ACTS,
    "caprover act": ACTS,
    "ssh act": LOGIN,
    "docker read": READS,
    "caprover read": READS,
    "ping read": READS,
    "ssh read": READS,
}


@dataclass(frozen=True, kw_only=True)
class Call:
    """One outward call. `key`: phase, what is called, and the how-manieth of it in this phase; `kind`: see FAULTS."""

    key: str
    kind: str

    @property
    def phase(self) -> str:
        return self.key.partition(":")[0]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One interruption of one deploy."""

    call: Call
    fault: str
    when: str
    then: str
    story: Story = PLAIN

    @property
    def name(self) -> str:
        story = "" if self.story == PLAIN else f"{self.story.name}: "
        return f"{story}{self.call.key} | {self.fault} {self.when}, {self.then}"


def calls(recorded: Iterable[Mapping[str, object]]) -> list[Call]:
    """The distinct calls of a record, in order, without the later repeats of each."""
    found = [Call(key=str(entry["key"]), kind=str(entry["kind"])) for entry in recorded]
    return [call for call in dict.fromkeys(found) if int(call.key.rpartition("#")[2]) <= REPEATS]


def own(story: Story, recorded: Mapping[Story, Iterable[Call]]) -> list[Call]:
    """The calls of a story that no earlier one has, and those of phases that it has again."""
    earlier = {call for other in STORIES[: STORIES.index(story)] for call in recorded.get(other, ())}
    return [call for call in recorded[story] if call not in earlier or call.phase in story.again]


def cases(found: Iterable[Call], wanted: str = "", story: Story = PLAIN) -> list[Case]:
    """Every case of these calls whose name the regular expression finds; acts first, since they matter most."""
    every = [
        Case(call=call, fault=fault, when=when, then=then, story=story)
        for call in found
        for fault, when, then in FAULTS[call.kind]
    ]
    return acts_first(case for case in every if re.search(wanted, case.name))


def acts_first(found: Iterable[Case]) -> list[Case]:
    return sorted(found, key=lambda case: not case.call.kind.endswith("act"))
