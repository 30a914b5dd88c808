"""What whole deploys need: one sandbox and one built action for all tests, and a new app for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.app import DemoApp
from tests.sandbox.runner import Action, Step
from tests.sandbox.sandbox import Sandbox

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """One node; goes on running afterwards, so that the next tests start at once (`make down` removes it)."""
    sandbox = Sandbox.up(name="capmig-e2e")
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="session")
def action() -> Iterator[Action]:
    """This action, its image built."""
    action = Action.build(REPOSITORY)
    yield action
    action.remove()


@pytest.fixture
def app(sandbox: Sandbox) -> Iterator[DemoApp]:
    """A new app: v1 on schema 1, two replicas, a thousand rows. Afterwards nothing is left of it or of its deploys."""
    try:
        yield DemoApp.create(sandbox)
    finally:
        sandbox.clean()


@pytest.fixture
def step(action: Action, sandbox: Sandbox) -> Iterator[Step]:
    """A step of a job that uses this action."""
    with Step(action, sandbox.name) as step:
        yield step
