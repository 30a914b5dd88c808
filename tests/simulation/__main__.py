"""`python -m tests.simulation SEED…` plays seeds and prints their schedules; `--seeds N` plays the first N."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from multiprocessing import Pool

from tests.simulation.scenario import Outcome, simulate

SHOWN = 5  # failing seeds whose schedules are printed


def show(outcome: Outcome) -> None:
    """A seed's schedule, how its processes ended, and what was wrong."""
    print(f"seed {outcome.seed}")
    for line in outcome.schedule + outcome.endings + [f"WRONG {what}" for what in outcome.wrong]:
        print(f"  {line}")


def play_many(count: int, first: int) -> int:
    """Play that many seeds on all processors; how many were unsafe."""
    began = time.monotonic()
    failed: list[Outcome] = []
    endings: Counter[str] = Counter()
    with Pool(os.cpu_count()) as pool:
        for done, outcome in enumerate(pool.imap_unordered(simulate, range(first, first + count), chunksize=20), 1):
            if outcome.wrong:
                failed.append(outcome)
                print(f"seed {outcome.seed}: {outcome.wrong[0]}")
            endings.update(_kind(ending) for ending in outcome.endings)
            if done % 1000 == 0:
                print(f"{done} of {count} seeds, {len(failed)} unsafe, {time.monotonic() - began:.0f} s", flush=True)
    for outcome in sorted(failed, key=lambda each: len(each.schedule))[:SHOWN]:
        show(outcome)
    print("How processes ended: " + ", ".join(f"{kind} {number}" for kind, number in endings.most_common()))
    print(f"{count - len(failed)} of {count} seeds safe")
    return len(failed)


def _kind(ending: str) -> str:
    return ending.split(": ")[1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("seed", type=int, nargs="*", help="play just these, and print their schedules")
    parser.add_argument("--seeds", type=int, default=1000, metavar="N", help="play N seeds (default: 1000)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first of them")
    asked = parser.parse_args()
    if not asked.seed:
        return 1 if play_many(asked.seeds, asked.first) else 0
    outcomes = [simulate(seed) for seed in asked.seed]
    for outcome in outcomes:
        show(outcome)
    return 1 if any(outcome.wrong for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
