"""The tools that other tests rely on: the runner's and the prober's word can be trusted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.app import DemoApp
from tests.sandbox.caprover.store import NETWORK
from tests.sandbox.engine import wait_for
from tests.sandbox.runner import Action, Step
from tests.sandbox.sandbox import Sandbox

pytestmark = pytest.mark.sandbox_only("it is about the sandbox")

METADATA = """
name: tiny
description: an action that does what the test wants
inputs:
  script: {description: a script for bash}
  by-default: {description: has a default, default: "7"}
runs:
  using: docker
  image: Dockerfile
  post-entrypoint: /post
"""
DOCKERFILE = """
FROM debian:bookworm-slim
RUN printf '#!/bin/bash\\necho "post: $STATE_kept, $(printenv INPUT_BY-DEFAULT)"\\n' > /post && chmod 755 /post
ENTRYPOINT ["bash", "-c", "eval \\"$INPUT_SCRIPT\\""]
"""


@pytest.fixture(scope="module")
def tiny(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Action]:
    folder: Path = tmp_path_factory.mktemp("tiny")
    (folder / "action.yml").write_text(METADATA)
    (folder / "Dockerfile").write_text(DOCKERFILE)
    action = Action.build(folder)
    yield action
    action.remove()


@pytest.fixture
def tiny_step(tiny: Action, sandbox: Sandbox) -> Iterator[Step]:
    with Step(tiny, sandbox.name) as step:
        yield step


def test_step__files_and_masks(tiny_step: Step) -> None:
    """Outputs, state and summary come out of their files; the log hides what was masked; post gets state and inputs."""
    script = r"""
        printf 'one=1\nmany<<END\nfirst\nsecond\nEND\n' >> $GITHUB_OUTPUT
        echo kept=here >> $GITHUB_STATE
        echo '# Done' >> $GITHUB_STEP_SUMMARY
        echo ::add-mask::hush%25
        echo "it is hush%, at $HOME in $PWD"
        exit 3
    """
    result = tiny_step.run({"script": script})
    assert result.exit_code == 3
    assert result.outputs == {"one": "1", "many": "first\nsecond"}
    assert result.state == {"kept": "here"}
    assert result.summary == "# Done\n"
    assert result.log == "it is ***, at /github/home in /github/workspace"
    assert "hush%" in result.raw
    assert tiny_step.post().log == "post: here, 7"


def test_cancel__signal_reaches_the_first_process(tiny_step: Step) -> None:
    """SIGINT comes first, and a program that ends upon it ends the step with its own exit code."""
    tiny_step.start({"script": "trap 'echo interrupted; exit 5' INT; echo ready; while :; do sleep 0.1; done"})
    tiny_step.wait_for_log("ready")
    result = tiny_step.cancel()
    assert (result.exit_code, result.log) == (5, "ready\ninterrupted")
    wait_for("the container to be gone", lambda: not tiny_step.container_runs())


def test_cancel__stubborn_container_outlives_its_client(tiny_step: Step) -> None:
    """A program that ignores both signals loses only the docker client; its container runs on beside the post step."""
    tiny_step.start({"script": "trap '' INT TERM; echo ready; while :; do sleep 0.1; done"})
    tiny_step.wait_for_log("ready")
    assert tiny_step.cancel().exit_code == -9
    assert tiny_step.container_runs()


def test_prober__sees_code_and_schema_apart(sandbox: Sandbox, app: DemoApp) -> None:
    """Code deployed without its migration answers with an error to every user, and well once the migration ran."""
    with app.prober() as prober:
        prober.wait_for("v1", lambda sample: (sample.status, sample.version, sample.rows) == (200, "v1", 1000))
        wait_for("both instances", lambda: len({sample.instance for sample in prober.samples() if sample.status}) == 2)
        sandbox.caprover.deploy(app.name, sandbox.image("v2"))
        prober.wait_for("v2", lambda sample: (sample.status, sample.version) == (500, "v2"), count=10)
        url = f"--env=DATABASE_URL={sandbox.database_url(app.database)}"
        command = ["docker", "run", "--rm", f"--network={NETWORK}", url, sandbox.image("v2"), "--migrate-database"]
        sandbox.nodes[0].execute(*command)
        prober.wait_for("schema 2", lambda sample: (sample.status, sample.schema) == (200, "2"), count=10)


def test_up__refuses_a_sandbox_in_use(sandbox: Sandbox) -> None:
    """Two test runs at once would remove each other's apps: the second is told so."""
    with pytest.raises(RuntimeError, match="in use by another process"):
        Sandbox.up(name=sandbox.name)
