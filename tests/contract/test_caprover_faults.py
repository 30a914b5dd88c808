"""The CapRover stand-in's switches: each fault that a deploy client has to survive can be had at will."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.contract.caprover_replay import PATIENCE, Replay, standin_on_fake_engine, wait_until
from tests.sandbox.caprover.client import ApiError, StandIn


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Replay]:
    with standin_on_fake_engine(tmp_path) as replay:
        replay.ready_app("testapp:1")
        yield replay


def test_busy__hits_changing_calls_only(standin: Replay) -> None:
    """429 for as many changing calls as asked, none of which does anything; reading goes on."""
    standin.control(busy=2)
    for _ in range(2):
        with pytest.raises(ApiError, match="429"):
            standin.deploy("web", "testapp:2")
        assert standin.build_status("web")["isAppBuilding"] is False
    assert standin.service_image() == "testapp:1"
    standin.deploy("web", "testapp:2")
    assert standin.service_image() == "testapp:2"


def test_errors__hit_any_call(standin: Replay) -> None:
    """The HTTP status that was asked for, a login's too, and nothing done."""
    standin.control(errors=2, error_status=503)
    assert requests.post(f"{standin.url}/api/v2/login", json={}, timeout=PATIENCE).status_code == 503
    with pytest.raises(ApiError, match="503"):
        standin.deploy("web", "testapp:2")
    assert standin.service_image() == "testapp:1"
    standin.deploy("web", "testapp:2")


def test_lost_answer__was_acted_on(standin: Replay) -> None:
    """The connection ends without an answer, and the deploy happens."""
    standin.control(lost_answers=1)
    with pytest.raises(requests.ConnectionError):
        standin.deploy("web", "testapp:2", detached=True)
    wait_until(lambda: standin.service_image() == "testapp:2")
    assert standin.requests("POST", "appData/web")[-1]["http"] is None


def test_lost_request__was_not_acted_on(standin: Replay) -> None:
    """To the client it is the same, but nothing happens, and the lock is free."""
    standin.control(lost_requests=1)
    with pytest.raises(requests.ConnectionError):
        standin.deploy("web", "testapp:2", detached=True)
    standin.deploy("web", "testapp:3")
    assert standin.images() == ["caprover/caprover-placeholder-app:latest", "testapp:1", "testapp:3"]


def test_refused_deploys__leave_the_service(standin: Replay) -> None:
    """Each pull fails as for an image that is not there."""
    standin.control(refuse_deploys=True)
    with pytest.raises(ApiError, match="500"):
        standin.deploy("web", "testapp:2")
    assert standin.build_status("web")["isBuildFailed"] is True
    assert standin.service_image() == "testapp:1"


def test_failing_service_update__has_advanced_the_definition(standin: Replay) -> None:
    """The next Save & Update rolls the new image out."""
    standin.control(failing_service_updates=1)
    with pytest.raises(ApiError, match="500"):
        standin.deploy("web", "testapp:2")
    assert standin.service_image() == "testapp:1"
    standin.update_app("web")
    assert standin.service_image() == "testapp:2"


def test_queued_failure__need_not_crash(standin: Replay) -> None:
    """With that flaw switched off it is a failed build, and the rest goes on."""
    standin.create_app("other", "testapp:1")
    standin.control(hold_builds=True, queued_failure_crashes=False)
    standin.deploy("other", "testapp:2", detached=True)
    standin.deploy("web", "nosuchimage:1", detached=True)
    standin.control(hold_builds=False)
    wait_until(lambda: standin.build_status("web")["isBuildFailed"])
    standin.deploy("web", "testapp:2")


def test_expired_session__asks_for_a_new_login(standin: Replay) -> None:
    """A client that logs in again goes on."""
    session = standin.fresh_session()
    standin.expire_sessions()
    assert standin.fresh_session() != session


def test_restart__breaks_off_what_is_under_way(standin: Replay) -> None:
    """An attached deploy's connection ends without an answer, and its build never reaches the service."""
    standin.control(hold_builds=True)
    answer = standin.threads.submit(standin.deploy, "web", "testapp:2")
    standin.wait_until_started()
    standin.restart(refused=0.2, failing=0.2, starting=0.2)
    assert isinstance(answer.exception(PATIENCE), requests.ConnectionError)
    standin.wait_until_up()
    standin.control(hold_builds=False)
    standin.deploy("web", "testapp:3")
    assert standin.engine.pulls == ["testapp:1", "testapp:3"]


def test_request_log__masks_secrets(standin: Replay, tmp_path: Path) -> None:
    """Passwords, tokens and values of the environment are in no log; what came, and in which order, is."""
    standin.update_app("web", envVars=[{"key": "TOKEN", "value": "s3cret"}], instanceCount=3)
    entry = standin.requests("POST", "appDefinitions/update")[-1]
    assert (entry["auth"], entry["http"], entry["body"]["instanceCount"]) == ("session", 200, 3)
    assert entry["body"]["envVars"] == [{"key": "TOKEN", "value": "***"}]
    text = json.dumps(standin.requests()) + (tmp_path / "requests.log").read_text()
    for secret in ("captain42", "s3cret", standin.app_token):
        assert secret not in text


def test_unknown_switch__is_refused(standin: Replay) -> None:
    """A misspelt switch fails the test that meant it."""
    with pytest.raises(ApiError, match="no such switch: bussy"):
        standin.control(bussy=1)


def test_start__says_why_it_failed(tmp_path: Path) -> None:
    """Without an engine the start fails with the stand-in's own words."""
    with pytest.raises(RuntimeError, match="No such file or directory"):
        StandIn.start(f"unix://{tmp_path}/none.sock", data=tmp_path / "data.json")


def test_command_line__help_names_every_option() -> None:
    """It runs by hand, too."""
    command = [sys.executable, "-m", "tests.sandbox.caprover", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--docker-host" in done.stdout
