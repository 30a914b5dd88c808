"""The CapRover stand-in against what the real one answered: the captures are replayed in their order."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.contract.caprover_replay import (
    CAPTURES,
    PATIENCE,
    Replay,
    capture,
    comparable,
    service_like,
    standin_on_fake_engine,
    wait_until,
)

# With a hook that scales and migrates, which the stand-in does not run.
NOT_REPLAYED = {
    "142-seed-fixed-run0",
    "142-seed-fixed-run1",
    "142-seed-fixed-run2",
    "144-status-after-migration-failed",
}


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Replay]:
    with standin_on_fake_engine(tmp_path) as replay:
        yield replay


def test_standin__login_and_authentication(standin: Replay) -> None:
    """Every way to be let in, or not, before there is an app."""
    standin.replay("01-login-ok", "02-login-empty", "03-login-too-long", "04-login-wrong-namespace")
    standin.replay("05-login-no-namespace-header", "06-no-auth", "07-auth-garbage")
    standin._session = "well-formed-but-not-ours"
    standin.replay("08-auth-jwt-bad-sig", "09-no-auth-unknown-path")
    standin._session = ""
    standin.replay("10-auth-unknown-path", "11-appdefs-empty", "12-system-info", "13-registries-empty", "14-nodes")


def test_standin__definitions_and_deploys(standin: Replay) -> None:
    """Register, save with a token, deploy with either login, and what an app token may not do."""
    standin.replay("15-register-bad-name", "16-register-ok", "17-register-exists", "18-appdefs-after-register")
    standin.replay("20-update-env-instances-token", "21-appdefs-with-token")
    standin.app_token = standin.definition("web")["appDeployTokenConfig"]["appDeployToken"]
    standin.replay("22-deploy-session-attached", "23-status-after")
    standin.control(hold_builds=True)
    standin.replay("24-deploy-session-detached")
    standin.wait_until_started()
    standin.replay("25-status-poll-00")
    standin.control(hold_builds=False)
    standin.wait_until_built()
    standin.replay("25-status-poll-01", "25-status-poll-02", "25-status-poll-03")
    wait_until(lambda: standin.service_image() == "testapp:2")
    standin.replay("26-deploy-apptoken-attached", "27-deploy-apptoken-detached")
    standin.replay("28-apptoken-get-status", "29-apptoken-get-appdefs", "30-apptoken-get-logs", "31-apptoken-update")
    standin.replay("32-apptoken-deploy-unknown-app", "33-apptoken-wrong", "34-apptoken-plus-bad-session")
    standin.replay("35-session-deploy-unknown-app", "36-session-status-unknown-app", "37-session-logs-unknown-app")
    standin.wait_until_built()
    standin.replay("38-deploy-no-body", "40-deploy-bad-schema", "41-deploy-object-not-string")


def test_standin__failing_pulls(standin: Replay) -> None:
    """A pull that fails leaves the service and deployedVersion as they were, and a version without an image."""
    standin.ready_app()
    standin.replay("50-deploy-missing-image-attached", "51-status-after-failed")
    standin.replay("52-deploy-missing-image-hub-attached", "53-status-after-failed-hub")
    standin.engine.private["127.0.0.1:5001/priv:1"] = "another"
    standin.replay("54-deploy-private-no-registry")
    standin.control(hold_builds=True)
    standin.replay("55-deploy-missing-detached")
    standin.wait_until_started()
    standin.replay("56-poll-missing-0")
    standin.control(hold_builds=False)
    wait_until(lambda: standin.build_status("web")["isBuildFailed"])
    standin.replay("56-poll-missing-1", "56-poll-missing-2", "56-poll-missing-3")
    assert standin.service_image() == "testapp:1"
    assert standin.definition("web")["deployedVersion"] == 1
    assert standin.images()[2:] == [None] * 4


def test_standin__two_attached(standin: Replay) -> None:
    """One lock for the whole server: the second of two attached deploys gets 429."""
    standin.ready_app("testapp:2")
    standin.control(hold_builds=True)
    first = standin.replay_meanwhile("57-two-attached-a")
    wait_until(lambda: standin.build_status("web")["isAppBuilding"])
    standin.replay("58-two-attached-b")
    standin.control(hold_builds=False)
    standin.check("57-two-attached-a", first.result(PATIENCE))
    assert standin.images()[2:] == ["testapp:1"]


def test_standin__newer_queued_build_replaces_older(standin: Replay) -> None:
    """Of three detached deploys of one app, the first and the last are built."""
    standin.ready_app()
    standin.control(hold_builds=True)
    standin.replay("59-two-detached-a", "60-two-detached-b", "61-two-detached-c")
    assert "it's now being replaced with a new build" in json.dumps(standin.build_status("web"))
    standin.control(hold_builds=False)
    wait_until(lambda: standin.service_image() == "testapp:3")
    assert standin.images()[2:] == ["testapp:1", "testapp:3"]


def test_standin__answer_to_queued_attached_deploy_never_comes(standin: Replay) -> None:
    """It is deployed, but the answer never comes and the lock is held until the client gives up."""
    standin.ready_app("testapp:3")
    standin.control(hold_builds=True)
    standin.replay("62-detached-then-attached-a")
    body = json.dumps({"captainDefinitionContent": '{"schemaVersion": 2, "imageName": "testapp:2"}'})
    hung = http.client.HTTPConnection(standin.url.removeprefix("http://"), timeout=PATIENCE)
    hung.request("POST", "/api/v2/user/apps/appData/web", body, {"x-captain-auth": standin.fresh_session()})
    wait_until(lambda: "queued" in json.dumps(standin.build_status("web")))
    standin.control(hold_builds=False)
    wait_until(lambda: standin.service_image() == "testapp:2")
    standin.replay("63b-status-while-hung", "63c-post-while-hung-429", "63d-deploy-while-hung-429")
    hung.close()
    wait_until(lambda: standin.send("181-lock-released-after-nginx-timeout").status_code == 200)


def test_standin__attached_queued_through_nginx(standin: Replay) -> None:
    """Through CapRover's nginx the answer is a 504, and then the lock is free."""
    standin.ready_app()
    standin.control(hold_builds=True, gateway_timeout=0.3)
    standin.deploy("web", "testapp:3", detached=True)
    standin.replay("180-attached-queued-through-nginx", "181-lock-released-after-nginx-timeout")


def test_standin__building_ends_before_the_service_is_updated(standin: Replay) -> None:
    """isAppBuilding is false, the answer is not there, and the service still runs the old image."""
    standin.ready_app("testapp:2")
    standin.engine.service_updates_pass.clear()
    answer = standin.replay_meanwhile("64-attached-long")
    wait_until(lambda: "testapp:1" in standin.images())
    standin.wait_until_built()
    standin.replay("66-status-while-attached")
    assert standin.service_image() == "testapp:2"
    assert not answer.done()
    standin.engine.service_updates_pass.set()
    standin.check("64-attached-long", answer.result(PATIENCE))


def test_standin__save_and_update(standin: Replay) -> None:
    """Refusals, overrides, and a service update that fails after deployedVersion has advanced."""
    standin.ready_app("testapp:1")
    standin.control(hold_builds=True)
    standin.replay("67-detached", "68-update-while-detached-building")
    standin.control(hold_builds=False)
    standin.wait_until_built()
    wait_until(lambda: standin.service_image() == "testapp:2")
    standin.replay("70-update-bad-override-yaml", "71-update-bad-override-mount")
    standin.control(hold_builds=True)
    standin.replay("72-deploy-svc-update-fails-detached")
    standin.wait_until_started()
    standin.replay("73-poll-svc-update-fails-0")
    standin.control(hold_builds=False)
    wait_until(lambda: standin.build_status("web")["isBuildFailed"])
    standin.replay("73-poll-svc-update-fails-1", "73-poll-svc-update-fails-2", "73-poll-svc-update-fails-3")
    assert standin.service_image() == "testapp:2"
    assert standin.images()[standin.definition("web")["deployedVersion"]] == "testapp:3"
    standin.replay("75-update-override-cleared")
    assert standin.service_image() == "testapp:3"
    standin.replay("76-deploy-with-githash", "77-update-with-older-deployedVersion")
    assert standin.service_image() == "testapp:1"
    assert standin.definition("web")["versions"][-1]["gitHash"] == "0123456789abcdef0123456789abcdef01234567"


def test_standin__patch_merges_and_post_wipes(standin: Replay) -> None:
    """PATCH changes one field; POST of a name alone wipes the rest, the token too."""
    standin.ready_app()
    standin.replay("78-patch-instanceCount")
    assert standin.definition("web")["instanceCount"] == 1
    standin.replay("79-patch-back")
    assert standin.replicas() == 2
    assert standin.definition("web")["appDeployTokenConfig"]["appDeployToken"] == standin.app_token
    standin.replay("80-register-scratch", "81-update-minimal")
    scratch = standin.definition("scratch")
    assert (scratch["instanceCount"], scratch["envVars"]) == (0, [])
    assert scratch["appDeployTokenConfig"] == {"enabled": False}
    standin.replay("82-update-unknown-app", "83-delete-scratch")
    assert set(standin.engine.services) == {"web"}


def test_standin__registries(standin: Replay) -> None:
    """Credentials are checked when they come, shown in clear, and used for images of their domain and prefix."""
    standin.ready_app()
    standin.replay("90-private-before-registry", "91-registry-insert-bad", "92-registry-insert", "93-registries")
    standin.replay("94-private-deploy")
    standin.registry_id = standin.api("GET", "/user/registries")["registries"][0]["id"]
    standin.replay("95-registry-delete-default")
    standin.api("POST", "/user/registries/setpush", {"registryId": ""})
    standin.api("POST", "/user/registries/delete", {"registryId": standin.registry_id})
    assert standin.api("GET", "/user/registries") == {"registries": []}


def scale_to_zero(standin: Replay) -> None:
    standin.engine.services["web"]["Spec"]["Mode"]["Replicated"]["Replicas"] = 0


def test_standin__deploys_in_the_zero_window(standin: Replay) -> None:
    """A deploy or a Save & Update writes the instance count; a failed pull leaves 0 at 0; prunes follow updates."""
    standin.ready_app("testapp:1")
    scale_to_zero(standin)
    standin.replay("100-deploy-from-zero")
    assert (standin.replicas(), standin.service_image()) == (2, "testapp:2")
    scale_to_zero(standin)
    standin.replay("101-failed-deploy-from-zero")
    assert (standin.replicas(), standin.service_image()) == (0, "testapp:2")
    standin.replay("102-save-and-update-in-zero-window")
    assert (standin.replicas(), standin.service_image()) == (2, "testapp:2")
    standin.replay("110-deploy-crashing", "111-status-crashing", "112-deploy-crashing-from-zero", "115-deploy-prune")
    standin.replay("190-deploy-local-only-image")
    # register, save, deploy; then five deploys and one save that reached the service
    wait_until(lambda: standin.engine.prunes == 8)


def test_standin__login_back_off(standin: Replay) -> None:
    """After five wrong passwords nobody gets in, whoever is right."""
    standin.replay(*(f"120-login-wrong-{i}" for i in range(5)), "121-login-backoff-wrong", "122-login-backoff-right")


def test_standin__one_time_password(standin: Replay) -> None:
    """A login with a second factor, which may be missing, right, wrong, or impossible to check."""
    standin.control(otp="unreachable")
    standin.replay("123-login-otp-required", "124-login-otp-given-pro-api-unreachable")
    standin.control(otp="123456")
    login = f"{standin.url}/api/v2/login"
    statuses = [
        requests.post(login, json={"password": "captain42", "otpToken": otp}, timeout=PATIENCE).json()["status"]
        for otp in ("654321", "123456")
    ]
    assert statuses == [1105, 100]


def test_standin__restart(standin: Replay) -> None:
    """A restart ends sessions and queued builds; app tokens survive it."""
    standin.ready_app()
    standin.control(hold_builds=True)
    standin.deploy("web", "testapp:3", detached=True)
    old = standin.fresh_session()
    standin.restart(refused=0.5, failing=0.0, starting=0.0)
    standin.wait_until_up()
    standin._session = old
    standin.replay("130-old-session-after-restart")
    standin.control(hold_builds=False)
    standin._session = ""
    assert standin.build_status("web") == {
        "isAppBuilding": False,
        "isBuildFailed": False,
        "logs": {"lines": [""] * 50, "firstLineNumber": -50},
    }
    standin.replay("131-app-token-survives-restart")
    assert standin.engine.pulls.count("testapp:3") == 0
    standin.expire_sessions()
    standin._session = standin._session or "gone"
    standin.replay("132-session-jwt-expired")


def test_standin__phases_of_a_restart(standin: Replay) -> None:
    """Refused, then HTTP 500, then 1001, then itself again; behind a gateway 502 instead of refused."""

    def look() -> int | str:
        try:
            response = requests.post(f"{standin.url}/api/v2/login", json={"password": "captain42"}, timeout=PATIENCE)
        except requests.ConnectionError:
            return "refused"
        return int(response.json()["status"]) if response.status_code == 200 else response.status_code

    for gateway_timeout, first in ((0, "refused"), (60, 502)):
        seen: list[int | str] = []
        standin.control(gateway_timeout=gateway_timeout)
        standin.restart(refused=1.5, failing=1.5, starting=1.5)
        while 100 not in seen:
            if (now := look()) not in seen[-1:]:
                seen.append(now)
        assert seen == [first, 500, 1001, 100]


def test_standin__hook_is_stored_and_refused(standin: Replay) -> None:
    """A preDeployFunction is kept, and every service update of its app fails as if it had thrown."""
    standin.ready_app("testapp:2")
    standin.replay("140-install-predeploy", "141-seed-as-is-deploy")
    assert "setServiceInstances" in standin.definition("web")["preDeployFunction"]
    wait_until(lambda: standin.build_status("web")["isBuildFailed"])
    standin.replay("143-seed-fixed-migration-fails")


def test_standin__service_with_volumes_and_override(standin: Replay) -> None:
    """Mounts pin the service to its node and stop first; the override is merged in. The spec is CapRover's."""
    standin.replay("150-register-persistent", "151-update-persistent", "152-deploy-persistent")
    service_like(standin.engine.services["pers"]["Spec"], "pers")


def test_standin__queued_build_that_fails_crashes_caprover(standin: Replay) -> None:
    """Behind another app's build a deploy waits; if it then fails, CapRover goes down and forgets."""
    standin.ready_app()
    standin.control(hold_builds=True, crash=[0.5, 0.0, 0.0])
    standin.replay("160-register-slow", "161-slow-build-detached", "162-deploy-queued-behind-other-apps-build")
    standin.replay("163-status-while-queued")
    standin.control(hold_builds=False)
    wait_until(lambda: standin.images()[2:] == ["testapp:1"])
    standin.control(hold_builds=True)
    standin.deploy("slow", "testapp:2", detached=True)
    standin.replay("165-queued-build-that-fails")
    ended = standin.fresh_session()

    def is_back() -> bool:
        url = f"{standin.url}/api/v2/user/system/info"
        try:
            return "no longer valid" in requests.get(url, headers={"x-captain-auth": ended}, timeout=PATIENCE).text
        except requests.ConnectionError:
            return False

    standin.control(hold_builds=False)
    wait_until(is_back)
    assert standin.images()[3:] == [None]
    status = standin.build_status("web")
    assert (status["isAppBuilding"], status["isBuildFailed"]) == (False, False)
    assert set(status["logs"]["lines"]) == {""}


def test_standin__legacy_service_name(standin: Replay) -> None:
    """An app of before 1.15 has a prefixed service without an alias; definitions have the captured shape."""
    standin.create_app("web", "testapp:1")
    standin.create_app("pers", "testapp:1", volumes=[{"containerPath": "/data", "volumeName": "persdata"}])
    standin.api("POST", "/user/apps/appDefinitions/register", {"appName": "slow"})
    standin.control(legacy_apps=["old"])
    standin.replay("170-register-legacy")
    standin.update_app("old", instanceCount=2, envVars=[{"key": "DATABASE_URL", "value": "x"}])
    standin.replay("171-deploy-legacy")
    service_like(standin.engine.services["srv-captain--old"]["Spec"], "legacy")
    assert set(standin.engine.services) == {"web", "pers", "slow", "srv-captain--old"}
    wanted = capture("172-appdefs-with-legacy")["response"]["body"]["data"]["appDefinitions"]
    found = standin.send("172-appdefs-with-legacy").json()["data"]["appDefinitions"]
    assert [sorted(app) for app in found] == [sorted(app) for app in wanted]
    assert comparable(found[-1]) == comparable(wanted[-1])


def test_standin__every_capture_is_replayed() -> None:
    """No capture is left out but those named, so a new one cannot be forgotten."""
    requests_captured = {path.stem for path in CAPTURES.glob("*.json") if not path.stem.startswith("service-inspect")}
    source = Path(__file__).read_text()
    loops = {f"120-login-wrong-{i}" for i in range(5)}
    missing = {name for name in requests_captured - NOT_REPLAYED - loops if f'"{name}"' not in source}
    assert missing == set()
