"""The CapRover stand-in under CapRover's own command line client, the real one from npm."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.caprover_replay import Replay, standin_on_fake_engine, wait_until

VERSION = "2.4.4"
CACHE = Path(__file__).parents[2] / ".sandbox" / "npm" / f"caprover-{VERSION}"
PROGRAM = CACHE / "node_modules" / ".bin" / "caprover"


@pytest.fixture(scope="session")
def program() -> Path:
    """The client, installed once into a cache folder; an error where npm is missing."""
    if not PROGRAM.exists():
        unfinished = CACHE.with_name(f"{CACHE.name}.{os.getpid()}")
        unfinished.mkdir(parents=True)
        package = {"private": True, "dependencies": {"caprover": VERSION}}
        (unfinished / "package.json").write_text(json.dumps(package))
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run(command, cwd=unfinished, check=True, timeout=300)
        shutil.rmtree(CACHE, ignore_errors=True)
        unfinished.rename(CACHE)
    return PROGRAM


class Cli:
    """Runs the client as a shell script would: all answers in the environment, no terminal, a home of its own."""

    def __init__(self, program: Path, home: Path, url: str) -> None:
        self._program = program
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "XDG_CONFIG_HOME": str(home),
            "NO_UPDATE_NOTIFIER": "1",
            # It takes no port and puts `captain.` before the name: as a proxy the stand-in is reached all the same.
            "http_proxy": url,
        }

    def __call__(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._program, *arguments],
            env=self._environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Replay]:
    with standin_on_fake_engine(tmp_path) as replay:
        replay.ready_app("testapp:1")
        yield replay


@pytest.fixture
def cli(program: Path, tmp_path: Path, standin: Replay) -> Cli:
    return Cli(program, tmp_path, standin.url)


URL = {"CAPROVER_URL": "http://captain.standin.test"}
DEPLOY = ("deploy", "--caproverApp", "web", "--imageName")


def test_cli__deploys_with_an_app_token(cli: Cli, standin: Replay) -> None:
    """One detached POST, and the image runs."""
    before = len(standin.requests())
    done = cli(*DEPLOY, "testapp:2", **URL, CAPROVER_APP_TOKEN=standin.app_token)
    assert done.returncode == 0, done.stdout + done.stderr
    wait_until(lambda: standin.service_image() == "testapp:2")
    [entry] = standin.requests()[before:]
    assert (entry["path"], entry["auth"]) == ("/api/v2/user/apps/appData/web?detached=1", "app-token")


def test_cli__follows_a_build_with_a_password(cli: Cli, standin: Replay) -> None:
    """It reads the build log and takes success and failure for what they are."""
    done = cli(*DEPLOY, "testapp:3", **URL, CAPROVER_PASSWORD=standin.password)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Build has finished successfully!" in done.stdout
    assert "Deployed successfully" in done.stdout
    failed = cli(*DEPLOY, "nosuchimage:1", **URL, CAPROVER_PASSWORD=standin.password)
    assert failed.returncode == 1
    assert "Build has failed!" in failed.stdout


def test_cli__logs_in_and_calls_the_api(cli: Cli, standin: Replay, tmp_path: Path) -> None:
    """A login is kept, and any call can be made with it."""
    login = cli("login", **URL, CAPROVER_PASSWORD=standin.password, CAPROVER_NAME="box")
    assert login.returncode == 0, login.stdout + login.stderr
    output = tmp_path / "answer.json"
    path = "/user/apps/appDefinitions"
    call = ("api", "--caproverName", "box", "--path", path, "--method", "GET", "--data", "{}", "--output", str(output))
    done = cli(*call)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [app["appName"] for app in json.loads(output.read_text())["appDefinitions"]] == ["web"]


def test_cli__refuses_a_wrong_password(cli: Cli) -> None:
    """The stand-in's refusal is one that the client understands."""
    done = cli("login", **URL, CAPROVER_PASSWORD="wrong-password", CAPROVER_NAME="box")
    assert "Invalid credentials" in done.stdout
    assert "Logged in" not in done.stdout
