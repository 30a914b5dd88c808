"""The configuration that ssh is given, as text; everything else about ssh is tested against a server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from capmig.inputs import SshManager
from capmig.ssh import Limits, configuration

MANAGER = SshManager(
    host="m.example.com", user="deploy", port=2222, key="secret-key", passphrase="secret-pass", known_hosts="", jump=""
)


def blocks(manager: SshManager) -> tuple[str, str]:
    own, _, others = configuration(manager, Path("/private"), Limits()).partition("Host *\n")
    return own, others


def test_configuration__of_an_ipv6_host() -> None:
    """The address stands without brackets, and the % of a zone is doubled as ssh_config wants it."""
    own, _ = blocks(replace(MANAGER, host="fe80::1%eth0"))
    assert "  HostName fe80::1%%eth0\n" in own


def test_configuration__keeps_the_managers_own_from_jump_hosts() -> None:
    """Host, port and the jump itself concern the manager alone; key, user and host key checks concern every hop."""
    own, others = blocks(replace(MANAGER, jump="a@j.example.com:22"))
    assert "  Port 2222\n" in own
    assert "  ProxyJump a@j.example.com:22\n" in own
    for option in ("HostName", "Port", "ProxyJump"):
        assert f"  {option} " not in others
    for option in ("User deploy", 'IdentityFile "/private/key"', "StrictHostKeyChecking yes"):
        assert f"  {option}\n" in others


def test_configuration__without_a_jump_has_none() -> None:
    """An empty input leaves no half-written option behind."""
    assert "ProxyJump" not in "".join(blocks(MANAGER))


def test_configuration__holds_no_secret() -> None:
    """The key and the passphrase are not in it."""
    assert "secret" not in "".join(blocks(MANAGER))
