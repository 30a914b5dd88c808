"""No secret leaves the deploy: not by what it says, and not by what it runs or leaves behind."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import MakeApp
from tests.e2e.world import Before, assert_deployed, journal
from tests.sandbox.engine import run
from tests.sandbox.runner import Step
from tests.sandbox.sandbox import DATABASE_PASSWORD, REGISTRY_LOGIN, Sandbox

APP_SECRET = "c0rrect-horse-battery-staple"
MIGRATION_SECRET = "only-the-migration-kn0ws"
SHOWS_ALL_IT_KNOWS = "env; exec python -m demoapp.demo --migrate-database"


@pytest.mark.sandbox_only("it looks for the sandbox's own keys and passwords")
def test_secrets__stay_secret(sandbox: Sandbox, make_app: MakeApp, step: Step) -> None:
    """A migration that prints its whole environment gives nothing away, and no key outlives the step."""
    app = make_app(env={"API_SECRET": APP_SECRET})
    before = Before.of(app)
    username, password = REGISTRY_LOGIN
    inputs = app.inputs(
        "v2",
        stable_for="1s",
        migrate_entrypoint=f"sh -c '{SHOWS_ALL_IT_KNOWS}'",
        migrate_command="",
        migrate_env=f"EXTRA_PASSWORD: {MIGRATION_SECRET}\nDEMO_MIGRATION_SECONDS: 5",
        registry_username=username,
        registry_password=password,
    )
    key_lines = sandbox.ssh.key.splitlines()[1:-1]
    secrets = [app.token, password, APP_SECRET, MIGRATION_SECRET, DATABASE_PASSWORD, *key_lines]
    step.start(inputs)
    step.wait_for_log("second 1")
    processes = run("docker", "top", step.container, "-eo", "pid,args")
    assert "ssh" in processes
    (container,) = json.loads(run("docker", "inspect", step.container))
    command_line = json.dumps([container["Path"], container["Args"]])
    written = json.dumps(journal(app))
    files_meanwhile = list(_texts(step))
    result = step.wait()
    assert_deployed(result, before, "v2")
    assert "  migration │ API_SECRET=***" in result.log
    shown = [line for line in result.raw.splitlines() if not line.startswith("::add-mask::")]
    told = ["\n".join(shown), json.dumps(dict(result.outputs)), result.summary, processes, command_line, written]
    for text in [*told, *files_meanwhile, *_texts(step)]:
        assert [secret for secret in secrets if secret in text] == []
    # The container is gone, and the key with it.
    assert step.container not in run("docker", "ps", "--all", "--format={{.Names}}").split()


def _texts(step: Step) -> Iterator[str]:
    """The text of every file that the runner shares with the container."""
    for path in step.folder.rglob("*"):
        if path.is_file() and path.name != "log":
            yield path.read_text(errors="replace")
