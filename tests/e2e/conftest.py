"""What whole deploys need: one sandbox and one built action for all tests, and new apps for each.

With pytest-xdist each worker has a sandbox of its own, so that no test meets another one's apps.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.sandbox import images
from tests.sandbox.app import DemoApp
from tests.sandbox.engine import CACHE
from tests.sandbox.place import Place
from tests.sandbox.runner import Action, Step
from tests.sandbox.sandbox import Sandbox

REPOSITORY = Path(__file__).parents[2]
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")

# A reason to be marked sandbox_only.
SWITCHES = "it uses the stand-in's switches"

MakeApp = Callable[..., DemoApp]
MakeStep = Callable[..., Step]


@contextmanager
def _one_worker_at_a_time() -> Iterator[None]:
    """For what fills the engine's cache: the first does the work, the others find it done."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "building.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def demo_images() -> None:
    """Have all images of the sandbox."""
    with _one_worker_at_a_time():
        images.variants(images.build_all()["demoapp"])


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """One node; goes on running afterwards, so that the next tests start at once (`make down` removes it)."""
    demo_images()
    sandbox = Sandbox.up(name=f"capmig-e2e{WORKER}")
    yield sandbox
    sandbox.close()


@pytest.fixture(scope="session")
def action() -> Iterator[Action]:
    """This action, its image built."""
    with _one_worker_at_a_time():
        action = Action.build(REPOSITORY)
    yield action
    action.remove()


@pytest.fixture(scope="session")
def place(request: pytest.FixtureRequest) -> Place:
    """Where apps are deployed."""
    sandbox: Sandbox = request.getfixturevalue("sandbox")
    return sandbox


@pytest.fixture
def make_app(place: Place) -> Iterator[MakeApp]:
    """Makes apps, as `DemoApp.create` does. Afterwards nothing is left of them or of their deploys."""
    try:
        yield partial(DemoApp.create, place)
    finally:
        place.clean()


@pytest.fixture
def app(make_app: MakeApp) -> DemoApp:
    """A new app: v1 on schema 1, two replicas, a thousand rows."""
    return make_app()


@pytest.fixture
def make_step(action: Action, place: Place) -> Iterator[MakeStep]:
    """Makes steps of jobs that use this action."""
    steps: list[Step] = []

    def make(job: str = "deploy", socket: Path | None = None, memory: str = "") -> Step:
        steps.append(Step(action, place.network, job=job, socket=socket or place.socket, memory=memory))
        return steps[-1]

    yield make
    for step in steps:
        step.close()


@pytest.fixture
def step(make_step: MakeStep) -> Step:
    """A step of a job that uses this action."""
    return make_step()
