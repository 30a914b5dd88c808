"""These tests themselves, pointed at a CapRover that runs already: the stand-in, which knows nothing of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import conftest
from tests.sandbox.caprover.client import Client, StandIn
from tests.sandbox.engine import run, wait_for
from tests.sandbox.external import PREFIX
from tests.sandbox.sandbox import REGISTRY_LOGIN, Sandbox
from tests.sandbox.variables import REPOSITORY, START

pytestmark = [
    pytest.mark.xdist_group("external"),
    pytest.mark.sandbox_only("it starts the server that it points tests at"),
]

DEPLOY = "test_deploy.py::test_deploy__migrates_while_nothing_runs"
FAILED = "test_failed.py::test_failed__migration_half_way"
BACKUP = "test_backup.py::test_backup__of_a_good_deploy"
ONLY_IN_THE_SANDBOX = "test_failed.py::test_failed__caprover_cannot_pull"
PASSWORD = "somebody's own"
UNNAMED = re.compile("[0-9a-f]{64}")


@pytest.fixture(scope="module")
def server(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Somebody's CapRover, with a registry's login, an app, the journal of a deploy of it, and a backup."""
    manager = sandbox.nodes[0]
    with StandIn.start(
        f"unix://{manager.socket}",
        host=sandbox.gateway,
        data=tmp_path_factory.mktemp("caprover") / "data.json",
        password=PASSWORD,
        placeholder_image=sandbox.image("placeholder"),
        settle=0.5,
    ) as caprover:
        try:
            username, password = REGISTRY_LOGIN
            registry = {"registryUser": username, "registryPassword": password}
            caprover.api("POST", "/user/registries/insert", registry | {"registryDomain": sandbox.private_registry})
            caprover.create_app("shop", sandbox.image("v1"), env={"DATABASE_URL": sandbox.database_url("shop")})
            manager.execute("docker", "config", "create", "--label=capmig.phase=down", "capmig-shop", __file__)
            # Until then swarm itself still changes the service.
            state = ["docker", "service", "inspect", "--format={{.UpdateStatus.State}}", "shop"]
            wait_for("the shop to run", lambda: manager.execute(*state).strip() == "completed")
            wait_for("the placeholder to be gone", lambda: len(containers(sandbox, "shop")) == 1)
            wait_for("earlier tests' containers to be gone", lambda: not of_removed_services(sandbox))
            backups(sandbox, "mkdir -p /backups/shop && echo all > /backups/shop/1.dump")
            yield caprover
        finally:
            backups(sandbox, "rm -rf /backups/shop")
            sandbox.clean()


def containers(sandbox: Sandbox, service: str) -> list[str]:
    command = ["docker", "ps", "--quiet", f"--filter=label=com.docker.swarm.service.name={service}"]
    return sandbox.manager.execute(*command).split()


def of_removed_services(sandbox: Sandbox) -> list[str]:
    """Containers that run on for a while after an earlier test has removed their service."""
    label = '{{.Label "com.docker.swarm.service.name"}}'
    running = sandbox.manager.execute("docker", "ps", f"--format={label}").split()
    services = sandbox.manager.execute("docker", "service", "ls", "--format={{.Name}}").split()
    return [service for service in running if service not in services]


def backups(sandbox: Sandbox, script: str) -> str:
    command = ["docker", "run", "--rm", "--volume=capmig-backups:/backups", "--entrypoint=sh", sandbox.image("v1")]
    return sandbox.manager.execute(*command, "-c", script)


def world(sandbox: Sandbox) -> dict[str, Any]:
    """All that is on the server, but for unnamed volumes; a service has another version after each change of it."""

    def listed(*command: str) -> list[str]:
        return sorted(sandbox.manager.execute("docker", *command).split())

    services = json.loads(sandbox.manager.execute("docker", "service", "inspect", *listed("service", "ls", "--quiet")))
    return {
        "services": {each["Spec"]["Name"]: (each["Version"], each["Spec"]) for each in services},
        "configs": listed("config", "ls", "--format={{.ID}}:{{.Name}}"),
        "secrets": listed("secret", "ls", "--format={{.ID}}:{{.Name}}"),
        # CapRover's prune leaves those of the containers that it removes, such as a backup job's.
        "volumes": [name for name in listed("volume", "ls", "--format={{.Name}}") if not UNNAMED.fullmatch(name)],
        "networks": listed("network", "ls", "--format={{.ID}}:{{.Name}}"),
        "images": listed("image", "ls", "--all", "--quiet"),
        "images of the tests": listed("image", "ls", "--format={{.ID}}", f"--filter=reference=*/{REPOSITORY}*"),
        "containers": listed("ps", "--format={{.ID}}:{{.Names}}"),
        "backups": backups(sandbox, "cd /backups && grep -r ."),
    }


def assert_as_before(sandbox: Sandbox, before: dict[str, Any]) -> None:
    found = world(sandbox)
    # CapRover may have pulled its placeholder again.
    assert set(before.pop("images")) <= set(found.pop("images"))
    for kind, there in found.items():
        assert there == before[kind], kind


def play(server: Client, sandbox: Sandbox, *tests: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run these tests as somebody does who has set the variables."""
    port = run("docker", "port", f"{sandbox.name}-registry", "5000/tcp").rpartition(":")[2].strip()
    variables = {
        "CAPROVER_URL": server.url,
        "CAPROVER_PASSWORD": PASSWORD,
        "REGISTRY": sandbox.registry,
        "REGISTRY_PUSH": f"127.0.0.1:{port}",
        **variables,
    }
    ours = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--timeout=600",
            *(f"tests/e2e/{test}" for test in tests),
        ],
        cwd=conftest.REPOSITORY,
        env=ours | {f"{START}{name}": text for name, text in variables.items()},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )


def counts(done: subprocess.CompletedProcess[str]) -> dict[str, int]:
    """How many tests ended how, as pytest's last line tells."""
    last = done.stdout.strip().splitlines()[-1]
    return {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|skipped|errors?)", last)}


def test_external__over_ssh(sandbox: Sandbox, server: Client, tmp_path: Path) -> None:
    """A good deploy and a failed one pass; what only the sandbox can do is skipped with its reason; nothing is left."""
    before = world(sandbox)
    (tmp_path / "key").write_text(sandbox.ssh.forwarding_key)
    ssh = {
        "SSH_HOST": sandbox.ssh.host,
        "SSH_KEY": str(tmp_path / "key"),
        "SSH_KNOWN_HOSTS": sandbox.ssh.known_hosts,
    }
    done = play(server, sandbox, DEPLOY, FAILED, ONLY_IN_THE_SANDBOX, **ssh)
    assert counts(done) == {"passed": 2, "skipped": 2}, done.stdout + done.stderr
    assert f"deploys go to {server.url}" in done.stdout
    assert "only in the sandbox: it uses the stand-in's switches" in done.stdout
    assert PASSWORD not in done.stdout + done.stderr
    assert_as_before(sandbox, before)


def test_external__by_the_managers_socket(sandbox: Sandbox, server: Client) -> None:
    """So does a deploy with a backup, images in a private registry; the backups of others stay, its own does not."""
    before = world(sandbox)
    username, password = REGISTRY_LOGIN
    private = {"REGISTRY": sandbox.private_registry, "REGISTRY_USERNAME": username, "REGISTRY_PASSWORD": password}
    done = play(server, sandbox, BACKUP, DOCKER_HOST=f"unix://{sandbox.nodes[0].socket}", **private)
    assert counts(done) == {"passed": 1}, done.stdout + done.stderr
    assert_as_before(sandbox, before)


def test_external__refuses_what_others_left(sandbox: Sandbox, server: Client) -> None:
    """Where other tests run, or were killed, none begins: the error names what is there, and nothing is changed."""
    left = f"{PREFIX}-of-others"
    sandbox.manager.execute("docker", "config", "create", left, __file__)
    try:
        before = world(sandbox)
        done = play(server, sandbox, DEPLOY, DOCKER_HOST=f"unix://{sandbox.nodes[0].socket}")
        assert_as_before(sandbox, before)
    finally:
        sandbox.manager.execute("docker", "config", "rm", left)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR, done.stdout + done.stderr
    assert f"left this: {left}." in done.stdout + done.stderr
