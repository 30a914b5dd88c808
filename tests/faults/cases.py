"""Which cases there are: each recorded call of a clean deploy, times what can go wrong with such a call. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True, kw_only=True)
class Case:
    """One interruption of one deploy."""

    call: Call
    fault: str
    when: str
    then: str

    @property
    def name(self) -> str:
        return f"{self.call.key} | {self.fault} {self.when}, {self.then}"


def calls(recorded: Iterable[Mapping[str, object]]) -> list[Call]:
    """The distinct calls of a record, in order, without the later repeats of each."""
    found = [Call(key=str(entry["key"]), kind=str(entry["kind"])) for entry in recorded]
    return [call for call in dict.fromkeys(found) if int(call.key.rpartition("#")[2]) <= REPEATS]


def cases(found: Iterable[Call], wanted: str = "") -> list[Case]:
    """Every case of these calls whose name the regular expression finds; acts first, since they matter most."""
    every = [
        Case(call=call, fault=fault, when=when, then=then) for call in found for fault, when, then in FAULTS[call.kind]
    ]
    every.sort(key=lambda case: not case.call.kind.endswith("act"))
    return [case for case in every if re.search(wanted, case.name)]
