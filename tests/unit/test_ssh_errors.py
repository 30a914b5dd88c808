"""What OpenSSH and Docker say, told in terms of the inputs. The texts were captured from OpenSSH 9.2 and Docker."""

from __future__ import annotations

import pytest

from capmig.ssh_errors import Failure, explain_docker, explain_ssh

CHANGED = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\r
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@\r
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!\r
Someone could be eavesdropping on you right now (man-in-the-middle attack)!\r
It is also possible that a host key has just been changed.\r
The fingerprint for the ED25519 key sent by the remote host is\r
SHA256:Zm9vYmFyYmF6.\r
Please contact your system administrator.\r
Offending ED25519 key in /tmp/x/known_hosts:1\r
Host key for m.example.com has changed and you have requested strict checking.\r
Host key verification failed.\r
"""
UNKNOWN = (
    "No ED25519 host key is known for {} and you have requested strict checking.\r\nHost key verification failed.\r\n"
)


def explain(stderr: str) -> Failure:
    return explain_ssh(stderr, host="m.example.com", port=22, public_key="ssh-ed25519 AAAA me")


@pytest.mark.parametrize(
    ("stderr", "problem", "passing"),
    [
        (
            "ssh: Could not resolve hostname m.example.com: Name or service not known\r\n",
            "ssh-host: the name m.example.com does not resolve (Name or service not known)",
            True,
        ),
        (
            (
                "ssh: Could not resolve hostname j.example.com: Temporary failure in name resolution\r\n"
                "kex_exchange_identification: Connection closed by remote host\r\n"
                "Connection closed by UNKNOWN port 65535\r\n"
            ),
            "ssh-jump: the name j.example.com does not resolve (Temporary failure in name resolution)",
            True,
        ),
        (
            "ssh: connect to host m.example.com port 22: Connection timed out\r\n",
            "ssh-host: m.example.com port 22 cannot be reached (Connection timed out)",
            True,
        ),
        (
            (
                "ssh: connect to host j.example.com port 22: No route to host\r\n"
                "Connection closed by UNKNOWN port 65535\r\n"
            ),
            "ssh-jump: j.example.com port 22 cannot be reached (No route to host)",
            True,
        ),
        (
            "ssh: connect to host m.example.com port 22: Connection refused\r\n",
            "ssh-port: m.example.com answers, but nothing listens on port 22 (Connection refused)",
            True,
        ),
        (
            (
                "channel 0: open failed: connect failed: Connection timed out\r\nstdio forwarding failed\r\n"
                "Connection closed by UNKNOWN port 65535\r\n"
            ),
            "ssh-host: the jump host cannot reach m.example.com port 22 (connect failed: Connection timed out)",
            True,
        ),
        (
            "kex_exchange_identification: Connection closed by remote host\r\nConnection closed by 1.2.3.4 port 22\r\n",
            "ssh-port: m.example.com port 22 gave no SSH session (Connection closed by 1.2.3.4 port 22)",
            True,
        ),
        (
            "deploy@m.example.com: Permission denied (publickey,password).\r\n",
            "ssh-key: m.example.com refuses this key for the user deploy (it takes: publickey,password)",
            False,
        ),
        (
            "deploy@j.example.com: Permission denied (publickey).\r\nConnection closed by UNKNOWN port 65535\r\n",
            "ssh-key: j.example.com (ssh-jump) refuses this key for the user deploy (it takes: publickey)",
            False,
        ),
        (UNKNOWN.format("m.example.com"), "ssh-known-hosts: it holds no key of m.example.com", False),
        (
            CHANGED,
            (
                "ssh-known-hosts: the host key of m.example.com is not the one given there; "
                "it now shows ED25519 SHA256:Zm9vYmFyYmF6"
            ),
            False,
        ),
        (
            "Unable to negotiate with 1.2.3.4 port 22: no matching host key type found. Their offer: ssh-dss\r\n",
            (
                "ssh-host: ssh gave up: Unable to negotiate with 1.2.3.4 port 22: no matching host key type found. "
                "Their offer: ssh-dss"
            ),
            False,
        ),
        ("", "ssh-host: ssh gave up: it said nothing", False),
    ],
)
def test_explain_ssh__names_the_input(stderr: str, problem: str, passing: bool) -> None:
    """Each failure begins with the input to change, and only what may go away by itself is tried again."""
    failure = explain(stderr)
    assert failure.problem == problem
    assert failure.passing is passing


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("m.example.com", "`ssh-keyscan m.example.com`"),
        ("[m.example.com]:2222", "`ssh-keyscan -p 2222 m.example.com`"),
        ("[::1]:2222", "`ssh-keyscan -p 2222 ::1`"),
        ("2001:db8::1", "`ssh-keyscan 2001:db8::1`"),
    ],
)
def test_explain_ssh__gives_the_line_to_run_for_an_unknown_host(name: str, command: str) -> None:
    """The command is ready to paste, whatever the host and port."""
    assert command in explain(UNKNOWN.format(name)).todo


def test_explain_ssh__shows_the_public_key_when_the_login_is_refused() -> None:
    """The line that authorized_keys must hold is in the advice."""
    assert "ssh-ed25519 AAAA me" in explain("deploy@m.example.com: Permission denied (publickey).").todo


@pytest.mark.parametrize(
    ("stderr", "problem"),
    [
        (
            "failed to open the raw stream connection: dial unix /var/run/docker.sock: connect: permission denied\n",
            "ssh-user: deploy may not use Docker on m.example.com (",
        ),
        (
            "Got permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock\n",
            "ssh-user: deploy may not use Docker on m.example.com (",
        ),
        (
            (
                "failed to open the raw stream connection: dial unix /var/run/docker.sock: connect: no such file or "
                "directory\n"
            ),
            "ssh-host: no Docker engine runs on m.example.com (",
        ),
        (
            "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?\n",
            "ssh-host: no Docker engine runs on m.example.com (",
        ),
        ("bash: line 1: docker: command not found\n", "ssh-host: there is no docker command on m.example.com ("),
        ("sh: 1: docker: not found\n", "ssh-host: there is no docker command on m.example.com ("),
        ("This account is restricted.\n", "ssh-host: the Docker engine of m.example.com cannot be reached (This acc"),
        ("", "ssh-host: the login on m.example.com works, but the Docker engine there does not answer"),
    ],
)
def test_explain_docker__tells_the_reasons_apart(stderr: str, problem: str) -> None:
    """No permission, no engine and no client have different remedies."""
    assert explain_docker(stderr, user="deploy", host="m.example.com").problem.startswith(problem)
