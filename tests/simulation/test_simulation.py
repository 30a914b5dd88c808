"""A few hundred seeds of the simulation; `make simulate` plays 20,000. What one finds becomes a test in tests/unit."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.scenario import simulate

SEEDS = 300
SAME = range(40)  # these are compared step by step


def test_simulation__is_safe() -> None:
    """Whatever fails, dies, stands still or meddles: every step, every report and the end are as they must be."""
    wrong = {outcome.seed: outcome.wrong[0] for outcome in map(simulate, range(SEEDS)) if outcome.wrong}
    assert wrong == {}


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_simulation__is_deterministic(hash_seed: str) -> None:
    """A seed that fails can be played again, in any process: it gives the same schedule, step by step."""
    here = [simulate(seed) for seed in SAME]
    say = f"from tests.simulation.scenario import simulate; print([simulate(seed) for seed in {SAME}])"
    there = subprocess.run(
        [sys.executable, "-c", say],
        env=os.environ | {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout == f"{here}\n"
