"""What whole deploys need: one place and one built action for all tests, and new apps for each.

The place is a sandbox, of which each worker of pytest-xdist has its own, so that no test meets another one's apps.
Or it is the CapRover that the CAPMIG_E2E_… variables name: docs/TESTING.md.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.sandbox import external, images, variables
from tests.sandbox.app import DemoApp
from tests.sandbox.engine import CACHE
from tests.sandbox.place import Place
from tests.sandbox.runner import Action, Step
from tests.sandbox.sandbox import Sandbox

REPOSITORY = Path(__file__).parents[2]
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")

# A reason to be marked sandbox_only.
SWITCHES = "it uses the stand-in's switches"

SERVER = pytest.StashKey[variables.Server | None]()  # that the tests were pointed at

MakeApp = Callable[..., DemoApp]
MakeStep = Callable[..., Step]


def pytest_configure(config: pytest.Config) -> None:
    """Refuse variables that are wrong, before anything is touched."""
    try:
        config.stash[SERVER] = variables.given(os.environ)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_report_header(config: pytest.Config) -> str:
    server = config.stash[SERVER]
    return f"deploys go to {server.url if server else 'the sandbox'}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, on a server, what only the sandbox can do; pytest tells how many, and why."""
    if config.stash[SERVER]:
        for item in items:
            if marker := item.get_closest_marker("sandbox_only"):
                item.add_marker(pytest.mark.skip(reason=f"only in the sandbox: {marker.args[0]}"))


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
def sandbox(pytestconfig: pytest.Config) -> Iterator[Sandbox]:
    """One node; goes on running afterwards, so that the next tests start at once (`make down` removes it)."""
    assert not pytestconfig.stash[SERVER], "a test that asks for the sandbox is to be marked sandbox_only"
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
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Where apps are deployed. A server on which that cannot work ends the run."""
    server = request.config.stash[SERVER]
    if server is None:
        yield request.getfixturevalue("sandbox")
        return
    try:
        with external.at(server, _images_to_copy) as place:
            yield place
    except external.Unusable as error:
        pytest.exit(f"{error}\nNothing was changed at {server.url}.", returncode=pytest.ExitCode.USAGE_ERROR)


def _images_to_copy() -> Mapping[str, str]:
    with _one_worker_at_a_time():
        local = images.build_all(["postgres", "demoapp"])
        return {external.DATABASE: local["postgres"], **images.variants(local["demoapp"])}


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
