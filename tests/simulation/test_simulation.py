"""A few hundred seeds of the simulation, and those by which it once found a bug."""

from __future__ import annotations

from tests.simulation.scenario import simulate

SEEDS = 300


def test_simulation__is_safe() -> None:
    """Whatever fails, dies, stands still or meddles: every step, every report and the end are as they must be."""
    wrong = {outcome.seed: outcome.wrong[0] for outcome in map(simulate, range(SEEDS)) if outcome.wrong}
    assert wrong == {}


def test_simulation__is_deterministic() -> None:
    """A seed that fails can be played again: it gives the same schedule, step by step."""
    for seed in range(20):
        assert simulate(seed) == simulate(seed)
