"""What OpenSSH and Docker said on stderr, told in terms of the inputs. Pure: text in, text out."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why there is no connection. `problem` names its input; `passing`: it may go away, so trying again is fair."""

    problem: str
    todo: str = ""
    passing: bool = False


def explain_ssh(stderr: str, *, host: str, port: int, public_key: str) -> Failure:
    """Translate the stderr of an `ssh` that ended; `host` and `port` are the manager's, other names are jump hosts."""
    if found := re.search(r"No (\S+) host key is known for (\S+) and you have requested strict checking", stderr):
        return _unknown_key(found[2])
    if "REMOTE HOST IDENTIFICATION HAS CHANGED" in stderr:
        return _changed_key(stderr, host)
    if found := re.search(r"(\S+)@(\S+): Permission denied \(([^)]*)\)", stderr):
        return _login_refused(found, host, public_key)
    if found := re.search(r"Could not resolve hostname (\S+): (.+)", stderr):
        name = found[1].strip("[]")
        return Failure(
            problem=f"{_host_input(name, host)}: the name {name} does not resolve ({found[2].strip()})", passing=True
        )
    if found := re.search(r"connect to host (\S+) port (\d+): (.+)", stderr):
        return _no_connection(found, host)
    if found := re.search(r"open failed: (.+)\s+stdio forwarding failed", stderr):
        return Failure(
            problem=f"ssh-host: the jump host cannot reach {host} port {port} ({found[1].strip()})",
            todo="Check ssh-host and ssh-port as seen from the jump host, and that it permits TCP forwarding.",
            passing=True,
        )
    last = _last_line(stderr)
    if re.search(r"kex_exchange_identification|banner exchange|Connection (closed|reset)|timed out", stderr):
        return Failure(
            problem=f"ssh-port: {host} port {port} gave no SSH session ({last})",
            todo="Check that an SSH server listens on this port, and that no firewall ends the connection.",
            passing=True,
        )
    return Failure(problem=f"ssh-host: ssh gave up: {last or 'it said nothing'}")


def explain_docker(stderr: str, *, user: str, host: str) -> Failure:
    """Translate the stderr of `docker system dial-stdio` on the manager; called when no way led to the Docker API."""
    last = _last_line(stderr)
    low = stderr.lower()
    if "permission denied" in low:
        return Failure(
            problem=f"ssh-user: {user} may not use Docker on {host} ({last})",
            todo=f"On the manager: `sudo usermod -aG docker {user}`, or name a user who may.",
        )
    if re.search(r"docker: (command )?not found|docker: no such file|not found: docker", low):
        return Failure(problem=f"ssh-host: there is no docker command on {host} ({last})", todo=_FORWARD)
    if re.search(r"cannot connect to the docker daemon|no such file or directory|connection refused", low):
        return Failure(
            problem=f"ssh-host: no Docker engine runs on {host} ({last})",
            todo="Name the host of a swarm manager, and check there with `docker info`.",
        )
    if last:
        return Failure(problem=f"ssh-host: the Docker engine of {host} cannot be reached ({last})", todo=_FORWARD)
    return Failure(
        problem=f"ssh-host: the login on {host} works, but the Docker engine there does not answer", todo=_FORWARD
    )


_FORWARD = (
    "The login must be allowed to forward to /var/run/docker.sock (AllowStreamLocalForwarding, AllowTcpForwarding; key "
    "option port-forwarding), or to run `docker system dial-stdio`."
)


def _unknown_key(name: str) -> Failure:
    host, port = _split(name)
    scan = f"ssh-keyscan -p {port} {host}" if port != 22 else f"ssh-keyscan {host}"
    return Failure(
        problem=f"ssh-known-hosts: it holds no key of {name}",
        todo=f"Run `{scan}`, compare the fingerprint (`{scan} | ssh-keygen -lf -`) "
        "with the one that the server itself shows (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`), "
        "and add the lines to ssh-known-hosts.",
    )


def _changed_key(stderr: str, host: str) -> Failure:
    name = re.search(r"[Hh]ost key for (\S+) has changed", stderr)
    shown = re.search(r"The fingerprint for the (\S+) key sent by the remote host is\s+(\S+?)\.?\s", stderr)
    now = f"; it now shows {shown[1]} {shown[2]}" if shown else ""
    return Failure(
        problem=f"ssh-known-hosts: the host key of {name[1] if name else host} is not the one given there{now}",
        todo="If the server was set up anew, compare this fingerprint on the server itself and replace the line. "
        "If not, someone may be listening: do not go on.",
    )


def _login_refused(found: re.Match[str], host: str, public_key: str) -> Failure:
    user, name, methods = found[1], found[2].strip("[]"), found[3]
    via = "" if name == host else " (ssh-jump)"
    return Failure(
        problem=f"ssh-key: {name}{via} refuses this key for the user {user} (it takes: {methods})",
        todo=f"Check ssh-user, and that ~{user}/.ssh/authorized_keys on {name} holds this line: {public_key}",
    )


def _no_connection(found: re.Match[str], host: str) -> Failure:
    name, port, reason = found[1].strip("[]"), found[2], found[3].strip()
    if "refused" in reason:
        label = "ssh-port" if name == host else "ssh-jump"
        return Failure(problem=f"{label}: {name} answers, but nothing listens on port {port} ({reason})", passing=True)
    return Failure(
        problem=f"{_host_input(name, host)}: {name} port {port} cannot be reached ({reason})",
        todo="Check the address, and that a firewall lets this runner in.",
        passing=True,
    )


def _host_input(name: str, host: str) -> str:
    return "ssh-host" if name == host else "ssh-jump"


def _split(name: str) -> tuple[str, int]:
    found = re.fullmatch(r"\[(.+)\]:(\d+)", name)
    return (found[1], int(found[2])) if found else (name, 22)


def _last_line(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1] if lines else ""
