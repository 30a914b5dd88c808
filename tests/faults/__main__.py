"""`make faults`: every outward call of a deploy, spoilt in every way; says which cases were not safe.

Goes on where a stopped run left off, as long as its results are kept (build/faults/). KEEP=1 leaves
the sandbox running.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.faults.cases import Case, acts_first, cases, own
from tests.faults.play import NOT_MADE, Verdict
from tests.faults.stage import TRIES, Stage, stage
from tests.faults.stories import STORIES
from tests.sandbox.engine import timed
from tests.sandbox.runner import Action
from tests.sandbox.sandbox import Sandbox

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "build" / "faults"


class Results:
    """Verdicts by the case's name, in a file that grows by a line for each."""

    def __init__(self, name: str, *, fresh: bool) -> None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        self._file = RESULTS / f"{name}.jsonl"
        if fresh:
            self._file.unlink(missing_ok=True)
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        describe = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]
        self._code = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
        self.safe = {line["case"]: line["ending"] for line in map(json.loads, lines) if not line["wrong"]}

    def add(self, case: Case, verdict: Verdict) -> None:
        line = {
            "case": case.name,
            "code": self._code,
            "wrong": verdict.wrong,
            "ending": verdict.ending,
            "seconds": round(verdict.seconds, 1),
        }
        with self._file.open("a") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        if verdict.wrong:
            name = re.sub("[^a-zA-Z0-9]+", "-", case.name).strip("-")
            (RESULTS / f"{name}.log").write_text("\n".join([case.name, *verdict.wrong, verdict.story]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1, choices=(1, 2))
    names = [story.name for story in STORIES]
    parser.add_argument("--story", default="", metavar="NAME", choices=("", *names), help=f"one of {', '.join(names)}")
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
    chosen = [story for story in STORIES if asked.story in ("", story.name)]
    with timed("record undisturbed deploys"):  # of earlier stories too: what they have is not played again
        recorded = ready.record(STORIES[: STORIES.index(chosen[-1]) + 1])
    wanted = acts_first(case for story in chosen for case in cases(own(story, recorded), asked.points, story))
    if asked.list:
        for case in wanted:
            print(case.name)
        print(f"{len(wanted)} cases")
        return 0
    results = Results(f"{asked.nodes}-nodes", fresh=asked.fresh)
    left = [case for case in wanted if case.name not in results.safe]
    print(f"{len(wanted)} cases, of which {len(wanted) - len(left)} were safe in an earlier run", flush=True)
    unsafe: dict[str, list[str]] = {}
    unmet: list[str] = []
    endings: Counter[str] = Counter(results.safe[case.name] for case in wanted if case.name in results.safe)
    played: list[Case] = []
    began = time.monotonic()

    def tell(case: Case, verdict: Verdict) -> None:
        results.add(case, verdict)
        endings[verdict.ending] += 1
        played.append(case)
        if verdict.wrong == [NOT_MADE]:
            unmet.append(case.name)
        elif verdict.wrong:
            unsafe[case.name] = verdict.wrong
        mark = "not met" if case.name in unmet else "UNSAFE" if verdict.wrong else "safe"
        print(
            f"{len(played)}/{len(left)} {time.monotonic() - began:5.0f} s  {mark}, {verdict.ending}, "
            f"{verdict.seconds:.0f} s: {case.name}{''.join(f' — {what}' for what in verdict.wrong)}",
            flush=True,
        )

    ready.play_all(left, tell)
    print(f"\nHow the deploys ended: {', '.join(f'{ending} {count}' for ending, count in endings.most_common())}")
    for name, what in unsafe.items():
        print(f"not safe: {name}: {'; '.join(what)}")
    for name in unmet:
        print(f"not met, since none of {TRIES} deploys made the call: {name}")
    met = len(wanted) - len(unmet)
    print(f"{met - len(unsafe)} of {met} safe" + (f"; {len(unmet)} not met" if unmet else ""))
    return 1 if unsafe or not met else 0


if __name__ == "__main__":
    sys.exit(main())
