"""How the end-to-end tests use a CapRover that is somebody's: they wait for its other users, and hold nobody up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.caprover_replay import Replay, standin_on_fake_engine, wait_until
from tests.sandbox.caprover.client import ApiError
from tests.sandbox.external import Guest


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Replay]:
    with standin_on_fake_engine(tmp_path) as replay:
        replay.create_app("other", "testapp:1")
        replay.ready_app("testapp:1")
        yield replay


@pytest.fixture
def guest(standin: Replay) -> Guest:
    return Guest(standin.url, standin.password)


def test_guest__waits_while_caprover_is_busy(standin: Replay, guest: Guest) -> None:
    """Refused as one of two at once, it asks again, and returns when the deploy is done."""
    standin.control(busy=2)
    guest.deploy("web", "testapp:2")
    assert standin.images()[-1] == "testapp:2"
    assert standin.build_status("web")["isAppBuilding"] is False


def test_guest__does_not_hold_others_up(standin: Replay, guest: Guest) -> None:
    """While its deploy is queued behind another's, that one goes on with other requests."""
    standin.control(hold_builds=True)
    standin.deploy("other", "testapp:2", detached=True)
    deployed = standin.threads.submit(guest.deploy, "web", "testapp:2")
    wait_until(lambda: "This build is queued..." in str(standin.build_status("web")["logs"]["lines"]))
    standin.api("POST", "/user/apps/appDefinitions/register", {"appName": "third", "hasPersistentData": False})
    assert not deployed.done()
    standin.control(hold_builds=False)
    deployed.result(timeout=60)
    assert standin.images()[-1] == "testapp:2"


def test_guest__removes_an_app_that_is_being_built(standin: Replay, guest: Guest) -> None:
    """It waits for the end of the build, before which CapRover declines."""
    standin.control(hold_builds=True)
    standin.deploy("web", "testapp:2", detached=True)
    removed = standin.threads.submit(guest.delete_app, "web")
    wait_until(lambda: len(standin.requests("POST", "/appDefinitions/delete")) > 0)
    standin.control(hold_builds=False)
    removed.result(timeout=60)
    with pytest.raises(KeyError):
        standin.definition("web")


def test_guest__tells_a_failed_deploy(standin: Replay, guest: Guest) -> None:
    """An image that cannot be pulled is told at once, in CapRover's words."""
    with pytest.raises(ApiError, match="cannot deploy nosuchimage:1:\n"):
        guest.deploy("web", "nosuchimage:1")
