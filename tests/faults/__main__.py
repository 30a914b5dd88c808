"""`make faults`: every outward call of a deploy, spoilt in every way; says which cases were not safe.

Goes on where a stopped run left off, as long as its results are kept (build/faults/). KEEP=1 leaves
the sandbox running.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue

from tests.faults.cases import Call, Case, calls, cases
from tests.faults.play import Slot, Verdict, play, spoilt
from tests.faults.witness import Witness
from tests.sandbox.engine import timed
from tests.sandbox.runner import Action
from tests.sandbox.sandbox import Sandbox

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "build" / "faults"
RECORDINGS = 2  # clean runs, whose calls are put together: how often a wait looks is a matter of time


class Stage:
    """A sandbox with slots for cases side by side."""

    def __init__(self, sandbox: Sandbox, witness: Witness, action: Action, slots: Sequence[Slot]) -> None:
        self._witness = witness
        self._action = action
        self._slots: SimpleQueue[Slot] = SimpleQueue()
        for slot in slots:
            self._slots.put(slot)

    def play(self, case: Case | None) -> Verdict:
        """Play the case in a free slot. What the sandbox itself does wrong is tried once more."""
        slot = self._slots.get()
        try:
            try:
                return play(slot, self._witness, self._action, case)
            except (RuntimeError, TimeoutError) as error:
                print(f"  again: {error}", flush=True)
                return play(slot, self._witness, self._action, case)
        finally:
            self._slots.put(slot)

    def record(self) -> list[Call]:
        """The calls of a clean deploy; RuntimeError if it was not clean."""
        found: dict[Call, None] = {}
        with ThreadPoolExecutor(RECORDINGS) as pool:
            for verdict in pool.map(self.play, [None] * RECORDINGS):
                if verdict.wrong or verdict.ending != "deployed":
                    raise RuntimeError(
                        f"a deploy without a fault is not as it should be: {verdict.wrong}\n{verdict.story}"
                    )
                found |= dict.fromkeys(calls(verdict.calls))
        return list(found)


@contextmanager
def stage(sandbox: Sandbox, action: Action, at_once: int) -> Iterator[Stage]:
    """Witness, image and slots for so many cases at once."""
    with ExitStack() as stack:
        changed = stack.enter_context(spoilt(action))
        witness = Witness(sandbox)
        stack.callback(witness.close)
        slots = [Slot(sandbox, number) for number in range(at_once)]
        for slot in slots:
            stack.callback(slot.close)
        yield Stage(sandbox, witness, changed, slots)


class Results:
    """Verdicts by the case's name, in a file that grows by a line for each."""

    def __init__(self, name: str, *, fresh: bool) -> None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        self._file = RESULTS / f"{name}.jsonl"
        if fresh:
            self._file.unlink(missing_ok=True)
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self.safe = {line["case"]: line["ending"] for line in map(json.loads, lines) if not line["wrong"]}
        self._lock = threading.Lock()

    def add(self, case: Case, verdict: Verdict) -> None:
        line = {
            "case": case.name,
            "wrong": verdict.wrong,
            "ending": verdict.ending,
            "seconds": round(verdict.seconds, 1),
        }
        with self._lock, self._file.open("a") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if verdict.wrong:
            name = re.sub("[^a-zA-Z0-9]+", "-", case.name).strip("-")
            (RESULTS / f"{name}.log").write_text("\n".join([case.name, *verdict.wrong, verdict.story]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1, choices=(1, 2))
    parser.add_argument("--points", default="", metavar="REGEX", help="only the cases whose name it finds")
    parser.add_argument("--at-once", type=int, default=6, metavar="N")
    parser.add_argument("--list", action="store_true", help="only print the cases")
    parser.add_argument("--fresh", action="store_true", help="forget the results of earlier runs")
    asked = parser.parse_args()
    sandbox = Sandbox.up(nodes=asked.nodes, name=f"capmig-faults{asked.nodes}")
    try:
        with timed("build the action's image"):
            action = Action.build(REPOSITORY)
        try:
            with stage(sandbox, action, asked.at_once) as ready:
                return _all(ready, asked)
        finally:
            action.remove()
    finally:
        if os.environ.get("KEEP"):
            sandbox.close()
        else:
            sandbox.down()


def _all(ready: Stage, asked: argparse.Namespace) -> int:
    with timed("record clean deploys"):
        wanted = cases(ready.record(), asked.points)
    if asked.list:
        for case in wanted:
            print(case.name)
        print(f"{len(wanted)} cases")
        return 0
    results = Results(f"{asked.nodes}-nodes", fresh=asked.fresh)
    left = [case for case in wanted if case.name not in results.safe]
    print(f"{len(wanted)} cases, of which {len(wanted) - len(left)} were safe in an earlier run", flush=True)
    unsafe: dict[str, list[str]] = {}
    endings: Counter[str] = Counter(results.safe[case.name] for case in wanted if case.name in results.safe)
    began = time.monotonic()
    with ThreadPoolExecutor(asked.at_once) as pool:
        played = {pool.submit(ready.play, case): case for case in left}
        for number, future in enumerate(as_completed(played), 1):
            case, verdict = played[future], future.result()
            results.add(case, verdict)
            endings[verdict.ending] += 1
            if verdict.wrong:
                unsafe[case.name] = verdict.wrong
            mark = "UNSAFE" if verdict.wrong else "safe"
            print(
                f"{number}/{len(left)} {time.monotonic() - began:5.0f} s  {mark}, {verdict.ending}, "
                f"{verdict.seconds:.0f} s: {case.name}{''.join(f' — {what}' for what in verdict.wrong)}",
                flush=True,
            )
    print(f"\nHow the deploys ended: {', '.join(f'{ending} {count}' for ending, count in endings.most_common())}")
    for name, what in unsafe.items():
        print(f"not safe: {name}: {'; '.join(what)}")
    print(f"{len(wanted) - len(unsafe)} of {len(wanted)} safe")
    return 1 if unsafe else 0


if __name__ == "__main__":
    sys.exit(main())
