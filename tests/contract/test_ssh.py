"""The connection against a real OpenSSH server: every way in, every way it breaks, and what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import docker
import pytest

from capmig.errors import LinkLost, Refused
from capmig.inputs import SshManager
from capmig.ssh import Connection, Limits, answers, configuration, connect
from tests.contract.sshd import PATIENCE, FakeDocker, Key, Sshd, make_key, manager, processes, wait_until

PATIENT = Limits(login=PATIENCE, ping=30, ensure=PATIENCE)


class RealClock:
    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass
class Lines:
    """A Log that keeps its lines."""

    lines: list[str] = field(default_factory=list)

    def step(self, title: str) -> None:
        self.lines.append(title)

    def info(self, text: str) -> None:
        self.lines.append(text)

    def notice(self, text: str) -> None:
        self.lines.append(text)

    def warning(self, text: str) -> None:
        self.lines.append(text)

    def output_of(self, source: str, lines: object) -> None:
        self.lines.append(f"{source}: {lines}")


class Place:
    """A server, a key that it accepts, and connections that are closed in the end."""

    def __init__(self, folder: Path, docker: FakeDocker) -> None:
        self.folder = folder
        self.docker = docker
        self.key = make_key(folder, "key")
        self.log = Lines()
        self._stack = contextlib.ExitStack()

    def sshd(
        self, name: str = "sshd", *, options: str = "", config: tuple[str, ...] = (), key: Key | None = None
    ) -> Sshd:
        authorized = f"{options} {(key or self.key).public}".lstrip()
        server = Sshd(self.folder / name, self.docker, authorized=authorized, config=config)
        self._stack.callback(server.stop)
        return server

    def connect(self, to: SshManager, limits: Limits = PATIENT) -> Connection:
        limits = replace(limits, docker_socket=str(self.docker.socket))
        return self._stack.enter_context(connect(to, clock=RealClock(), log=self.log, limits=limits))

    def refusal(self, to: SshManager, limits: Limits = PATIENT) -> str:
        with pytest.raises(Refused) as refused:
            self.connect(to, limits)
        return str(refused.value)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A short folder (unix socket paths hold 107 bytes), checked in the end: no process and no private folder stays."""
    folder = Path(tempfile.mkdtemp(prefix="t-"))
    temporary = folder / "tmp"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    engine = FakeDocker(folder)
    place = Place(folder, engine)
    try:
        yield place
        place.close()
        assert list(temporary.iterdir()) == []
        assert processes(str(temporary)) == {}
    finally:
        place.close()
        engine.stop()
        shutil.rmtree(folder)


def folder_of(connection: Connection) -> str:
    return str(connection.socket.parent)


def kill_master(connection: Connection) -> None:
    (master,) = (pid for pid, command in processes(folder_of(connection)).items() if "-M" in command)
    os.kill(master, signal.SIGKILL)


@pytest.fixture(params=[pytest.param("", id="forwarded"), pytest.param("restrict", id="bridged")])
def way(request: pytest.FixtureRequest) -> str:
    """The options of the key in authorized_keys: they decide which way the socket is reached."""
    return str(request.param)


def test_connect__forwards_the_socket(place: Place) -> None:
    """The plain case: the local socket speaks the API of the engine behind the server."""
    connection = place.connect(manager(place.sshd(), place.key.private))
    assert answers(connection.socket, PATIENCE)
    assert "forwarded socket" in place.log.lines[-1]


def test_connect__needs_no_session_of_a_key_that_may_only_forward(place: Place) -> None:
    """The least-privilege key of the README works: it can run nothing."""
    server = place.sshd(options='restrict,port-forwarding,command="/bin/false"')
    connection = place.connect(manager(server, place.key.private))
    assert answers(connection.socket, PATIENCE)
    assert "forwarded socket" in place.log.lines[-1]


@pytest.mark.parametrize(
    ("options", "config"),
    [
        pytest.param("restrict", (), id="restrict"),
        pytest.param('restrict,command="docker system dial-stdio"', (), id="forced-command"),
        pytest.param("", ("AllowStreamLocalForwarding no",), id="AllowStreamLocalForwarding"),
        pytest.param("", ("AllowTcpForwarding no",), id="AllowTcpForwarding"),
        pytest.param("", ("DisableForwarding yes",), id="DisableForwarding"),
    ],
)
def test_connect__bridges_where_forwarding_is_forbidden(place: Place, options: str, config: tuple[str, ...]) -> None:
    """Whichever way forwarding is forbidden, `docker system dial-stdio` over the same login serves the API."""
    connection = place.connect(manager(place.sshd(options=options, config=config), place.key.private))
    assert answers(connection.socket, PATIENCE)
    assert "dial-stdio" in place.log.lines[-1]


def test_connect__passes_large_streams_and_half_closes(place: Place, way: str) -> None:
    """Bytes go both ways unchanged, and the client's end of input reaches the engine while its answer still comes."""
    connection = place.connect(manager(place.sshd(options=way), place.key.private))
    body = os.urandom(3_000_000)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(connection.socket))
        client.sendall(b"POST /echo HTTP/1.1\r\nHost: docker\r\n\r\n" + body)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while data := client.recv(65536):
            answer += data
    assert answer == body


def test_connect__serves_nine_clients_at_once(place: Place, way: str) -> None:
    """Containers are stopped eight at a time, and a ping must go through meanwhile: none of them is cut off."""
    connection = place.connect(manager(place.sshd(options=way), place.key.private))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(9)]
        for client in clients:
            client.settimeout(PATIENCE)
            client.connect(str(connection.socket))
        for client in clients * 2:
            client.sendall(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n")
            answer = b""
            while not answer.endswith(b"\r\n\r\nOK"):
                data = client.recv(4096)
                assert data, "the connection was ended"
                answer += data


def test_connect__survives_more_idle_connections_than_sshd_has_sessions(place: Place, way: str) -> None:
    """A client's pool keeps idle connections open; sshd permits 10 sessions, and the next request must still work."""
    connection = place.connect(manager(place.sshd(options=way), place.key.private))
    with contextlib.ExitStack() as stack:
        for _ in range(15):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(PATIENCE)
            client.connect(str(connection.socket))
            client.sendall(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n")
            assert client.recv(4) == b"HTTP"
        assert answers(connection.socket, PATIENCE)


def test_ensure__revives_the_same_client_after_a_drop(place: Place, way: str) -> None:
    """After the link died a docker-py client that was made before goes on working."""
    connection = place.connect(manager(place.sshd(options=way), place.key.private))
    with contextlib.closing(docker.APIClient(base_url=f"unix://{connection.socket}", version="1.41")) as client:
        assert client.ping()
        kill_master(connection)
        connection.ensure()
        assert client.ping()
    assert "again" in place.log.lines[-1]


def test_ensure__leaves_a_live_connection_alone(place: Place, way: str) -> None:
    """With all well nothing is started anew."""
    connection = place.connect(manager(place.sshd(options=way), place.key.private))
    before = [pid for pid, command in processes(folder_of(connection)).items() if "-M" in command]
    connection.ensure()
    assert [pid for pid, command in processes(folder_of(connection)).items() if "-M" in command] == before


def test_ensure__replaces_a_frozen_connection(place: Place, way: str) -> None:
    """A peer that is silent but not gone is noticed by the ping, long before the keepalive would."""
    server = place.sshd(options=way)
    connection = place.connect(manager(server, place.key.private), replace(PATIENT, ping=6))
    server.freeze()
    connection.ensure()
    assert "again" in place.log.lines[-1]


def test_ensure__ends_in_time_when_nothing_answers(place: Place, way: str) -> None:
    """With a server that accepts and says nothing, ensure keeps its bound and raises LinkLost."""
    server = place.sshd(options=way)
    connection = place.connect(manager(server, place.key.private), replace(PATIENT, ensure=8, ping=6))
    server.freeze(listener=True)
    began = time.monotonic()
    with pytest.raises(LinkLost):
        connection.ensure()
    assert time.monotonic() - began < 8 + 30  # 30: for a slow machine


def test_ensure__finds_a_server_that_comes_back(place: Place, way: str) -> None:
    """LinkLost while the server is away is not the end: the next call connects."""
    server = place.sshd(options=way)
    connection = place.connect(manager(server, place.key.private), replace(PATIENT, ensure=5))
    server.stop()
    with pytest.raises(LinkLost) as lost:
        connection.ensure()
    assert "Connection refused" in str(lost.value)
    server.start()

    def back() -> bool:
        with contextlib.suppress(LinkLost):
            connection.ensure()
            return True
        return False

    wait_until(back, "the connection is back")


def test_ensure__tells_of_an_engine_that_went_away(place: Place, way: str) -> None:
    """A manager whose Docker engine stopped is a lost link too, and the message says which part is missing."""
    connection = place.connect(manager(place.sshd(options=way), place.key.private), replace(PATIENT, ensure=8))
    place.docker.stop()
    with pytest.raises(LinkLost) as lost:
        connection.ensure()
    assert "Docker does not answer" in str(lost.value)


def test_bridge__never_logs_in_by_itself(place: Place) -> None:
    """Without the master a bridged connection ends at once: a login is the affair of ensure, which has a bound."""
    server = place.sshd(options="restrict")
    connection = place.connect(manager(server, place.key.private))
    kill_master(connection)
    assert not answers(connection.socket, PATIENCE)
    assert server.log().count("Accepted publickey") == 1


def test_keepalive__ends_the_streams_of_a_frozen_peer(place: Place, way: str) -> None:
    """A client that only reads would wait for ever: ssh notices the silence, and the read ends."""
    server = place.sshd(options=way)
    connection = place.connect(manager(server, place.key.private), replace(PATIENT, alive_interval=1, alive_count=5))
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(connection.socket))
        client.sendall(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n")
        assert client.recv(4) == b"HTTP"
        server.freeze()
        with contextlib.suppress(ConnectionResetError):
            while client.recv(65536):
                pass


def test_close__leaves_no_process_and_no_file(place: Place, way: str) -> None:
    """After close the key is gone from the disk and every ssh is gone, also with a client still connected."""
    connection = place.connect(manager(place.sshd(options=way), place.key.private))
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(connection.socket))
        assert processes(folder_of(connection))
        connection.close()
    assert not processes(folder_of(connection))
    assert not Path(folder_of(connection)).exists()
    connection.close()


def test_close__follows_an_exception(place: Place, way: str) -> None:
    """`with` cleans up when its body fails."""
    connection = place.connect(manager(place.sshd(options=way), place.key.private))
    with pytest.raises(ZeroDivisionError), connection:
        raise ZeroDivisionError
    assert not processes(folder_of(connection))
    assert not Path(folder_of(connection)).exists()


def test_close__is_not_held_up_by_a_frozen_peer(place: Place, way: str) -> None:
    """Nothing of the far side is needed to end."""
    server = place.sshd(options=way)
    connection = place.connect(manager(server, place.key.private))
    server.freeze()
    connection.close()
    assert not processes(folder_of(connection))


def test_secrets__are_in_no_command_line(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ssh programs are run, by us or by ssh: no passphrase and no line of the key is among their arguments."""
    passphrase = "correct horse battery staple"
    key = make_key(place.folder, "locked", "-N", passphrase)
    seen = place.folder / "seen"
    wrappers = place.folder / "wrappers"
    wrappers.mkdir()
    for name in ("ssh", "ssh-keygen"):
        wrapper = wrappers / name
        wrapper.write_text(f'#!/bin/sh\nprintf "%s\\n" "{name} $*" >>{seen}\nexec {shutil.which(name)} "$@"\n')
        wrapper.chmod(0o755)
    server = place.sshd(key=key, options="restrict")
    monkeypatch.setenv("PATH", f"{wrappers}:{os.environ['PATH']}")
    connection = place.connect(replace(manager(server, key.private), passphrase=passphrase))
    live = "\n".join(" ".join(command) for command in processes("").values())
    connection.close()
    recorded = seen.read_text()
    assert "ssh-keygen -p" in recorded
    assert "-O exit" in recorded
    for secret in (passphrase, *key.private.splitlines()[1:-1]):
        assert secret not in recorded
        assert secret not in live


def test_files__are_private(place: Place) -> None:
    """Nobody else can read the key while it is on the disk."""
    connection = place.connect(manager(place.sshd(), place.key.private))
    folder = Path(folder_of(connection))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "key").stat().st_mode & 0o777 == 0o600


def test_signals__of_our_process_group_do_not_reach_ssh(place: Place, way: str) -> None:
    """A SIGINT to the step must leave the connection, which recovery needs."""
    connection = place.connect(manager(place.sshd(options=way), place.key.private))
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(connection.socket))
        client.sendall(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n")
        assert client.recv(4) == b"HTTP"
        groups = {os.getpgid(pid) for pid in processes(folder_of(connection))}
    assert len(groups) == (2 if way else 1)  # the master, and the session of a bridged client
    assert os.getpgid(0) not in groups


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: text.replace("\n", "\r\n"), id="crlf"),
        pytest.param(lambda text: text.rstrip("\n"), id="no-final-newline"),
        pytest.param(lambda text: "\n".join("  " + line for line in text.splitlines()), id="indented"),
    ],
)
def test_key__is_made_whole(place: Place, change: Callable[[str], str]) -> None:
    """What copying through editors and secrets does to a key is undone."""
    connection = place.connect(manager(place.sshd(), change(place.key.private)))
    assert answers(connection.socket, PATIENCE)


@pytest.mark.parametrize("kind", [("-t", "ed25519"), ("-t", "rsa", "-m", "PEM"), ("-t", "ecdsa", "-m", "PKCS8")])
def test_key__is_unlocked(place: Place, kind: tuple[str, ...]) -> None:
    """A key with a passphrase works in each of the formats that OpenSSH writes."""
    passphrase = 'it\'s "quoted" $HOME \\ ü'
    key = make_key(place.folder, "locked", *kind, "-N", passphrase)
    connection = place.connect(replace(manager(place.sshd(key=key), key.private), passphrase=passphrase))
    assert answers(connection.socket, PATIENCE)


def test_known_hosts__may_be_hashed_and_have_crlf(place: Place) -> None:
    """known_hosts as other tools write it is understood."""
    server = place.sshd()
    file = place.folder / "hosts"
    file.write_text(server.known_hosts)
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(file)], check=True, capture_output=True)
    hashed = file.read_text()
    assert hashed.startswith("|1|")
    connection = place.connect(
        replace(manager(server, place.key.private), known_hosts=hashed.rstrip().replace("\n", "\r\n"))
    )
    assert answers(connection.socket, PATIENCE)


def test_jump__leads_to_the_manager(place: Place) -> None:
    """The manager is reached through another host with the same key, and both host keys are checked."""
    jump, server = place.sshd("jump"), place.sshd()
    to = replace(
        manager(server, place.key.private),
        jump=f"127.0.0.1:{jump.port}",
        known_hosts=jump.known_hosts + server.known_hosts,
    )
    connection = place.connect(to)
    assert answers(connection.socket, PATIENCE)
    assert "Accepted publickey" in jump.log()
    kill_master(connection)
    connection.ensure()
    assert answers(connection.socket, PATIENCE)


def test_jump__is_checked_too(place: Place) -> None:
    """A jump host whose key is not known is refused, and the line to run is for the jump host."""
    jump, server = place.sshd("jump"), place.sshd()
    said = place.refusal(replace(manager(server, place.key.private), jump=f"127.0.0.1:{jump.port}"))
    assert f"ssh-known-hosts: it holds no key of [127.0.0.1]:{jump.port}" in said
    assert f"`ssh-keyscan -p {jump.port} 127.0.0.1`" in said


def test_jump__that_cannot_reach_the_manager_says_so(place: Place) -> None:
    """The reason is the jump host's own word."""
    jump, server = place.sshd("jump"), place.sshd()
    known = jump.known_hosts + server.known_hosts
    server.stop()
    to = replace(manager(server, place.key.private), jump=f"127.0.0.1:{jump.port}", known_hosts=known)
    said = place.refusal(to)
    assert "ssh-host: the jump host cannot reach 127.0.0.1" in said
    assert "Connection refused" in said


def test_refusal__of_an_unknown_host_key(place: Place) -> None:
    """The message has the command that gives the line, and says to compare it."""
    server = place.sshd()
    said = place.refusal(replace(manager(server, place.key.private), known_hosts="elsewhere " + server.host_key.public))
    assert f"ssh-known-hosts: it holds no key of [127.0.0.1]:{server.port}" in said
    assert f"`ssh-keyscan -p {server.port} 127.0.0.1`" in said
    assert "compare" in said


def test_refusal__of_a_changed_host_key(place: Place) -> None:
    """The message shows the fingerprint that the server has now."""
    server = place.sshd()
    other = make_key(place.folder, "other")
    known = f"[127.0.0.1]:{server.port} {other.public}"
    said = place.refusal(replace(manager(server, place.key.private), known_hosts=known))
    assert "ssh-known-hosts: the host key of [127.0.0.1]" in said
    assert "ED25519 SHA256:" in said


def test_refusal__when_nothing_listens(place: Place) -> None:
    """Connection refused is a matter of the port."""
    server = place.sshd()
    server.stop()
    said = place.refusal(manager(server, place.key.private))
    assert "ssh-port: 127.0.0.1 answers, but nothing listens on port" in said


def test_refusal__when_what_listens_is_silent(place: Place) -> None:
    """A port that accepts and never greets ends in time, as a matter of the port."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = place.sshd()
        to = replace(manager(server, place.key.private), port=silent.getsockname()[1])
        said = place.refusal(to, replace(PATIENT, greeting=1))
    assert "ssh-port: 127.0.0.1" in said
    assert "timed out" in said


def test_refusal__when_the_login_hangs(place: Place) -> None:
    """A login that never ends is given up."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = place.sshd()
        to = replace(manager(server, place.key.private), port=silent.getsockname()[1])
        said = place.refusal(to, replace(PATIENT, greeting=60, login=0.5))
    assert "ssh-host: no login on 127.0.0.1" in said


def test_refusal__of_the_login(place: Place) -> None:
    """A key that the server does not accept: the line for authorized_keys is in the message."""
    server = place.sshd()
    other = make_key(place.folder, "other")
    said = place.refusal(manager(server, other.private))
    assert "ssh-key: 127.0.0.1 refuses this key for the user" in said
    assert " ".join(other.public.split()[:2]) in said


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param(
            "echo 'failed to open the raw stream connection: dial unix /var/run/docker.sock: connect: "
            "permission denied' >&2; exit 1",
            "ssh-user: ",
            id="no-permission",
        ),
        pytest.param("echo 'bash: docker: command not found' >&2; exit 127", "no docker command", id="no-client"),
        pytest.param("exit 1", "does not answer", id="silent"),
    ],
)
def test_refusal__for_the_reason_that_docker_gives(place: Place, way: str, script: str, expected: str) -> None:
    """A forwarded socket only closes; the reason comes from `docker system dial-stdio`."""
    server = place.sshd(options=way)
    place.docker.stop()
    place.docker.set_command(f"#!/bin/sh\n{script}\n")
    assert expected in place.refusal(manager(server, place.key.private))


def test_refusal__when_no_engine_runs(place: Place, way: str) -> None:
    """A host without a Docker engine is named as such."""
    server = place.sshd(options=way)
    place.docker.stop()
    assert "ssh-host: no Docker engine runs on 127.0.0.1" in place.refusal(manager(server, place.key.private))


def test_configuration__means_to_ssh_what_it_says(place: Place) -> None:
    """OpenSSH's own reading of the file: an IPv6 manager with a zone, behind two jump hosts."""
    server = place.sshd()
    to = replace(
        manager(server, place.key.private), host="fe80::1%eth0", user="deploy", jump="a@[::1]:2222,b.example.com"
    )
    config = place.folder / "config"
    config.write_text(configuration(to, Path("/private folder"), Limits()))

    def read(name: str) -> dict[str, str]:
        said = subprocess.run(["ssh", "-G", "-F", str(config), name], check=True, capture_output=True, text=True)
        return dict(line.split(" ", 1) for line in said.stdout.splitlines() if " " in line)

    own, jump = read("capmig-manager"), read("b.example.com")
    assert own["hostname"] == "fe80::1%eth0"
    assert own["port"] == str(server.port)
    assert own["proxyjump"] == "a@[::1]:2222,b.example.com"
    assert "proxyjump" not in jump
    assert jump["port"] == "22"
    for options in (own, jump):
        assert options["user"] == "deploy"
        assert options["identityfile"] == "/private folder/key"
        assert options["userknownhostsfile"] == "/private folder/known_hosts"
        assert options["globalknownhostsfile"] == "/dev/null"
        assert options["stricthostkeychecking"] in ("true", "yes")
        assert options["batchmode"] == "yes"
        assert (options["serveraliveinterval"], options["serveralivecountmax"]) == ("5", "3")
