"""The variables that point the end-to-end tests at a CapRover that runs already, as docs/TESTING.md tells them."""

from __future__ import annotations

from pathlib import Path

import pytest

from capmig.inputs import LocalManager, SshManager
from capmig.ports import Credentials
from tests.sandbox.variables import NAMES, START, given

TESTING = (Path(__file__).parents[2] / "docs" / "TESTING.md").read_text(encoding="utf-8")
KEY = "-----BEGIN KEY-----\nabc\n-----END KEY-----\n"
SSH = {"SSH_HOST": "deploy@swarm.example.com:2222", "SSH_KEY": KEY, "SSH_KNOWN_HOSTS": "a line\nanother\n"}
HERE = {"DOCKER_HOST": "unix:///run/docker.sock"}


def environ(**variables: str) -> dict[str, str]:
    """With what every way to the manager needs."""
    least = {"CAPROVER_URL": "captain.apps.example.com", "CAPROVER_PASSWORD": "captain42", "REGISTRY": "ghcr.io/acme"}
    return {f"{START}{name}": text for name, text in (least | variables).items()}


def problems(environ: dict[str, str]) -> list[str]:
    with pytest.raises(ValueError) as error:
        given(environ)
    return [line.partition(":")[0].removeprefix(START) for line in str(error.value).splitlines()]


@pytest.mark.parametrize("environ", [{}, {"HOME": "/"}, {f"{START}CAPROVER_URL": "", f"{START}REGISTRY": " "}])
def test_given__nothing(environ: dict[str, str]) -> None:
    """Without any of the variables, or with empty ones, the sandbox is used."""
    assert given(environ) is None


def test_given__over_ssh() -> None:
    """The manager is given as it is to the action, which gets the same inputs."""
    server = given(environ(**SSH))
    assert server is not None
    assert (server.url, server.password) == ("https://captain.apps.example.com", "captain42")
    assert isinstance(server.manager, SshManager)
    assert (server.manager.user, server.manager.host, server.manager.port) == ("deploy", "swarm.example.com", 2222)
    assert (server.repository, server.pushed_to) == ("ghcr.io/acme/capmig-e2e", "ghcr.io/acme/capmig-e2e")
    assert server.login is None
    wanted = {"ssh-host": SSH["SSH_HOST"], "ssh-key": KEY, "ssh-known-hosts": SSH["SSH_KNOWN_HOSTS"]}
    assert server.access == wanted


def test_given__on_the_manager() -> None:
    """The manager's socket stands in for all of SSH; a registry may have another name here, and want a login."""
    login = {"REGISTRY_USERNAME": "reader", "REGISTRY_PASSWORD": "pass"}
    server = given(environ(**HERE, **login, REGISTRY="registry:5000/", REGISTRY_PUSH="127.0.0.1:5000"))
    assert server is not None
    assert server.manager == LocalManager(socket="/run/docker.sock")
    assert (server.repository, server.pushed_to) == ("registry:5000/capmig-e2e", "127.0.0.1:5000/capmig-e2e")
    assert server.login == Credentials(username="reader", password="pass")
    assert server.access["registry-password"] == "pass"
    assert "pass" not in repr(server)


def test_given__files(tmp_path: Path) -> None:
    """The key and the host keys may be the paths of files."""
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "hosts").write_text(SSH["SSH_KNOWN_HOSTS"])
    files = {"SSH_KEY": str(tmp_path / "key"), "SSH_KNOWN_HOSTS": str(tmp_path / "hosts")}
    assert given(environ(**SSH | files)) == given(environ(**SSH))
    one_line = given(environ(**SSH | {"SSH_KNOWN_HOSTS": "host ssh-ed25519 AAAA"}))
    assert one_line is not None
    assert one_line.access["ssh-known-hosts"] == "host ssh-ed25519 AAAA"


@pytest.mark.parametrize(
    ("variables", "wrong"),
    [
        ({}, ["SSH_HOST"]),
        ({"SSH_HOST": "swarm.example.com"}, ["SSH_KEY", "SSH_KNOWN_HOSTS"]),
        (HERE | SSH, ["DOCKER_HOST"]),
        ({"DOCKER_HOST": "tcp://swarm.example.com:2375"}, ["DOCKER_HOST"]),
        (SSH | {"SSH_KEY": "/no/such/file"}, ["SSH_KEY"]),
        (HERE | {"REGISTRY": "https://ghcr.io"}, ["REGISTRY"]),
        (HERE | {"REGISTRY_PUSH": "Ghcr.io/ACME"}, ["REGISTRY_PUSH"]),
        (HERE | {"REGISTRY_USERNAME": "reader"}, ["REGISTRY_PASSWORD"]),
        (HERE | {"CAPROVER_PASS": "captain42"}, ["CAPROVER_PASS"]),
        (HERE | {"CAPROVER_PASSWORD": ""}, ["CAPROVER_PASSWORD"]),
        (
            {"CAPROVER_URL": "ftp://x", "CAPROVER_PASSWORD": "", "REGISTRY": "", "SSH_PORT": "ssh", "SSH_KEY": "/none"},
            ["CAPROVER_PASSWORD", "REGISTRY", "SSH_KEY", "CAPROVER_URL", "SSH_HOST", "SSH_PORT"],
        ),
    ],
    ids=lambda value: ",".join(value),
)
def test_given__wrong(variables: dict[str, str], wrong: list[str]) -> None:
    """All that is wrong or missing is told at once, each by its variable."""
    assert problems(environ(**variables)) == wrong


def test_given__as_documented() -> None:
    """The table in docs/TESTING.md names just these variables."""
    rows = [line.split("`")[1] for line in TESTING.splitlines() if line.startswith(f"| `{START}")]
    assert sorted(rows) == sorted(f"{START}{name}" for name in NAMES)
