"""The action in a real workflow, run by act."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import REPOSITORY
from tests.e2e.world import Before, assert_nothing_left
from tests.sandbox.app import DemoApp
from tests.sandbox.engine import environment

ACT = Path(sys.executable).with_name("act")
FILES = ("action.yml", "Dockerfile", "entrypoint.py", "requirements.txt", "capmig")
SECRETS = ("token", "ssh-key")


@pytest.mark.sandbox_only("it is about the runner, and asks for no more of CapRover than others do")
def test_act__runs_the_action(app: DemoApp, tmp_path: Path) -> None:
    """A workflow with `uses: ./` deploys, and a later step reads the outputs."""
    before = Before.of(app)
    repository, home = tmp_path / "repository", tmp_path / "home"
    home.mkdir()
    for name in FILES:
        source, target = REPOSITORY / name, repository / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    inputs = app.inputs("v2", stable_for="1s")
    secrets = {name.replace("-", "_").upper(): inputs[name] for name in SECRETS}
    inputs |= {name: f"${{{{ secrets.{name.replace('-', '_').upper()} }}}}" for name in SECRETS}
    job = {
        "runs-on": "ubuntu-latest",
        "steps": [
            {"uses": "./", "id": "deploy", "with": inputs},
            {"run": 'echo "deployed: ${{ steps.deploy.outputs.deployed-image }}"', "shell": "bash"},
        ],
    }
    workflows = repository / ".github" / "workflows"
    workflows.mkdir(parents=True)
    (workflows / "deploy.yml").write_text(yaml.safe_dump({"name": "Deploy", "on": ["push"], "jobs": {"deploy": job}}))
    git = ["git", "-c", "user.name=someone", "-c", "user.email=someone@example.org", "-C", str(repository)]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=an app"]):
        subprocess.run([*git, *command], check=True)

    act = [str(ACT), "push", "--bind", "--pull=false", "--platform=ubuntu-latest=debian:bookworm-slim"]
    act += ["--action-offline-mode", *(f"--secret={name}" for name in secrets)]
    done = subprocess.run(
        act,
        cwd=repository,
        env=environment() | secrets | {"HOME": str(home), "XDG_CONFIG_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"deployed: {app.place.image('v2')}" in done.stdout
    assert "the database is at schema 2" in done.stdout
    assert app.token not in done.stdout
    assert (app.running(), app.schema()) == ([app.place.image("v2")] * 2, "2")
    before.assert_only_image_differs(app.place.image("v2"))
    assert_nothing_left(app)
