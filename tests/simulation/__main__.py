"""`python -m tests.simulation SEED…` plays seeds and prints their schedules; `--seeds N` plays the first N."""

from __future__ import annotations

import argparse
import faulthandler
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing.queues import SimpleQueue

from tests.simulation.scenario import Outcome, simulate

SHOWN = 5  # failing seeds whose schedules are printed
HANGS = 300  # seconds for one seed, which takes some hundredths of one: the code under test loops without a sleep


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
    processors = _processors()
    free: SimpleQueue[int] = multiprocessing.SimpleQueue()
    for processor in processors:
        free.put(processor)
    with ProcessPoolExecutor(len(processors), initializer=_settle_down, initargs=(free,)) as pool:
        for done, outcome in enumerate(pool.map(_play, range(first, first + count), chunksize=20), 1):
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


def _processors() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _settle_down(free: SimpleQueue[int]) -> None:
    """Keep to one processor: strictly one thread runs at a time, and waking one on another processor takes long."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {free.get()})


def _play(seed: int) -> Outcome:
    """Play a seed; the schedule is only kept of an unsafe one."""
    signal.signal(signal.SIGALRM, partial(_give_up, seed))
    signal.alarm(HANGS)
    outcome = simulate(seed)
    signal.alarm(0)
    return outcome if outcome.wrong else replace(outcome, schedule=[])


def _give_up(seed: int, *_: object) -> None:
    """Say where a seed hangs, and end this process, which ends all."""
    print(f"seed {seed} does not end:", file=sys.stderr, flush=True)
    faulthandler.dump_traceback()
    os._exit(1)


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
