"""The action's inputs: from the environment to one frozen `Inputs`, or every problem at once."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from capmig import parse as syntax
from capmig.backup.inputs import Backup, Download, read_backup, read_download
from capmig.errors import Refused
from capmig.given import DEFAULTS, Given
from capmig.ports import Credentials


class Mode(StrEnum):
    DEPLOY = "deploy"
    BACKUP = "backup"
    LIST_BACKUPS = "list-backups"
    RESTORE = "restore"
    RECOVER = "recover"
    UNLOCK = "unlock"


MAKE_BACKUPS = (Mode.DEPLOY, Mode.BACKUP, Mode.RESTORE)


class OnFailure(StrEnum):
    RESTORE = "restore"
    STAY_DOWN = "stay-down"


@dataclass(frozen=True, kw_only=True)
class SshManager:
    """A swarm manager behind SSH. `host` is without brackets; `jump` is as ProxyJump takes it, or empty."""

    host: str
    user: str
    port: int
    key: str = field(repr=False)
    passphrase: str = field(repr=False)
    known_hosts: str
    jump: str


@dataclass(frozen=True, kw_only=True)
class LocalManager:
    """A swarm manager whose Docker socket is on this machine. `socket` is its absolute path."""

    socket: str


@dataclass(frozen=True, kw_only=True)
class Migration:
    """What is run between the two versions. An empty `entrypoint` is the image's own; `timeout` in seconds."""

    command: tuple[str, ...]
    entrypoint: tuple[str, ...]
    image: str
    env: Mapping[str, str] = field(repr=False)
    timeout: float


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A URL that must answer with `status` once the new version runs."""

    url: str
    status: int


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Who runs this deploy: a job of a workflow, or a person by hand on `host`."""

    server_url: str
    repository: str
    run_id: str
    attempt: str
    job: str
    host: str

    @property
    def id(self) -> str:
        """One line for people. Jobs of one matrix share it: it tells no two processes apart."""
        if not self.run_id:
            return f"by hand on {self.host}"
        return f"{self.repository} run {self.run_id}, attempt {self.attempt}, job {self.job}"

    @property
    def url(self) -> str:
        """Link to the run; empty when not on a runner."""
        return f"{self.server_url}/{self.repository}/actions/runs/{self.run_id}" if self.run_id else ""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What was asked for. Durations in seconds. Exactly one of `token` and `password` is set."""

    mode: Mode
    server: str
    app: str
    token: str = field(repr=False)
    password: str = field(repr=False)
    otp: str = field(repr=False)
    image: str
    git_hash: str
    service: str
    manager: SshManager | LocalManager
    migration: Migration | None
    backup: Backup | None
    backup_id: str  # what mode restore restores
    on_failure: OnFailure
    drain_timeout: float
    deploy_timeout: float
    stable_for: float
    lock_timeout: float
    probe: Probe | None
    registry: Credentials | None
    owner: Owner
    download: Download | None = None

    @property
    def manager_input(self) -> str:
        """The input that names the swarm manager."""
        return "docker-host" if isinstance(self.manager, LocalManager) else "ssh-host"


def parse(environ: Mapping[str, str]) -> Inputs:
    """The inputs in INPUT_* variables; Refused with all problems, one line each, that begins with the input's name.

    Outside mode deploy, `image` and what concerns the migration are not read: the journal knows them. In the modes of
    backups the database is found as with `backup: auto` unless an engine is given.
    """
    given = Given(environ)
    mode = given.choice("mode", Mode, Mode.DEPLOY)
    app = given.required("app", syntax.app_name)
    token, password, otp = _login(given)
    image = given.required("image", syntax.image) if mode is Mode.DEPLOY else ""
    inputs = Inputs(
        mode=mode,
        server=given.required("server", syntax.server),
        app=app,
        token=token,
        password=password,
        otp=otp,
        image=image,
        git_hash=given.read("git-hash", syntax.word, "") or environ.get("GITHUB_SHA", ""),
        service=_service(given, app),
        manager=_manager(given),
        migration=_migration(given, image) if mode is Mode.DEPLOY else None,
        backup=None if mode in (Mode.RECOVER, Mode.UNLOCK) else read_backup(given, deploys=mode is Mode.DEPLOY),
        download=read_download(given, environ.get("GITHUB_WORKSPACE", "")) if mode in MAKE_BACKUPS else None,
        backup_id=given.required("backup-id", syntax.backup_id) if mode is Mode.RESTORE else "",
        on_failure=given.choice("on-failure", OnFailure, OnFailure.RESTORE),
        drain_timeout=given.seconds("drain-timeout", low="1s", high="1h"),
        deploy_timeout=given.seconds("deploy-timeout", low="1s", high="2h"),
        stable_for=given.seconds("stable-for", low="1s", high="10m"),
        lock_timeout=given.seconds("lock-timeout", low="0s", high="24h"),
        probe=_probe(given),
        registry=_registry(given),
        owner=_owner(environ),
    )
    if given.problems:
        raise Refused(given.problems, todo="The inputs are described in the README of capmig, under Inputs.")
    return inputs


def _login(given: Given) -> tuple[str, str, str]:
    token = given.read("token", syntax.word, "")
    # Of a password only line ends are taken off: blanks may belong to it.
    password = given.raw("password").strip("\r\n")
    otp = given.read("otp", syntax.word, "")
    if token and password:
        given.problem("token", "give token or password, not both")
    elif not token and not password and not given.text("token"):
        given.problem("token", "is required: the app token from the app's Deployment tab (or give password)")
    # CapRover answers a longer one with "bad request" (status 1000), as it does an empty one.
    if len(password) > 29:
        given.problem("password", "is over 29 characters, which CapRover does not accept")
    if otp and not password:
        given.problem("otp", "goes with password, which is not given")
    return token, password, otp


def _service(given: Given, app: str) -> str:
    service = given.text("service")
    if service and app and service not in (app, f"srv-captain--{app}"):
        given.problem("service", f"{syntax.shown(service)} must be {app} or srv-captain--{app}")
    return service


def _manager(given: Given) -> SshManager | LocalManager:
    ssh = [name for name in DEFAULTS if name.startswith("ssh-") and given.chosen(name)]
    if given.text("docker-host"):
        if ssh:
            given.problem("docker-host", f"give docker-host or the ssh- inputs, not both ({', '.join(ssh)})")
        return LocalManager(socket=given.read("docker-host", syntax.unix_socket, ""))
    to = syntax.Destination(host="")
    if given.need("ssh-host", "is required: the swarm manager, as host or user@host (or give docker-host)"):
        to = given.read("ssh-host", syntax.destination, to)
        given.need("ssh-key", "is required with ssh-host: the private key, as text")
        given.need("ssh-known-hosts", "is required with ssh-host: the lines that ssh-keyscan prints for it, compared")
    user = given.read("ssh-user", syntax.user, "")
    port = given.read("ssh-port", syntax.port, 22)
    if to.user and given.chosen("ssh-user") and to.user != user:
        given.problem("ssh-user", f"{syntax.shown(user)} contradicts the user in ssh-host: give it in one place")
    if to.port and given.chosen("ssh-port") and to.port != port:
        given.problem("ssh-port", f"{port} contradicts the port in ssh-host: give it in one place")
    return SshManager(
        host=to.host,
        user=to.user or user,
        port=to.port or port,
        key=given.raw("ssh-key"),
        passphrase=given.raw("ssh-key-passphrase").strip("\r\n"),
        known_hosts=given.raw("ssh-known-hosts"),
        jump=given.read("ssh-jump", syntax.jumps, ""),
    )


def _migration(given: Given, image: str) -> Migration | None:
    no_words: tuple[str, ...] = ()
    command = given.read("migrate-command", syntax.command, no_words)
    entrypoint = given.read("migrate-entrypoint", syntax.command, no_words)
    if entrypoint and not entrypoint[0]:
        given.problem("migrate-entrypoint", "begins with an empty word, which names no program")
    migrate_image = given.read("migrate-image", syntax.image, "")
    no_env: Mapping[str, str] = {}
    env = given.read("migrate-env", syntax.env, no_env)
    timeout = given.seconds("migrate-timeout", low="1s", high="24h")
    if not given.text("migrate-command") and not given.text("migrate-entrypoint"):
        for name in ("migrate-image", "migrate-env"):
            if given.text(name):
                given.problem(name, "has no use without migrate-command or migrate-entrypoint")
        return None
    return Migration(
        command=command, entrypoint=entrypoint, image=migrate_image or image, env=MappingProxyType(env), timeout=timeout
    )


def _probe(given: Given) -> Probe | None:
    url = given.read("verify-url", syntax.http_url, "")
    status = given.read("verify-status", syntax.http_status, 200)
    if given.chosen("verify-status") and not given.text("verify-url"):
        given.problem("verify-status", "has no use without verify-url")
    return Probe(url=url, status=status) if url else None


def _registry(given: Given) -> Credentials | None:
    username = given.read("registry-username", syntax.word, "")
    password = given.raw("registry-password").strip("\r\n")
    if given.text("registry-username") and not password:
        given.problem("registry-password", "is required with registry-username")
    if password and not given.text("registry-username"):
        given.problem("registry-username", "is required with registry-password")
    return Credentials(username=username, password=password) if username and password else None


def _owner(environ: Mapping[str, str]) -> Owner:
    on_runner = environ.get("GITHUB_ACTIONS") == "true"
    return Owner(
        server_url=environ.get("GITHUB_SERVER_URL", "").rstrip("/") if on_runner else "",
        repository=environ.get("GITHUB_REPOSITORY", "") if on_runner else "",
        run_id=environ.get("GITHUB_RUN_ID", "") if on_runner else "",
        attempt=environ.get("GITHUB_RUN_ATTEMPT") or "1" if on_runner else "",
        job=environ.get("GITHUB_JOB", "") if on_runner else "",
        host=environ.get("HOSTNAME") or socket.gethostname(),
    )
