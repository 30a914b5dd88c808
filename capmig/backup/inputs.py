"""The inputs that have to do with backups: what is backed up, how, and where a copy goes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from capmig import parse as syntax
from capmig.given import Given
from capmig.masking import worth_masking

# Inputs whose values must not stand in a command, which the journal keeps readable.
SECRETS = ("token", "password", "otp", "registry-password", "ssh-key-passphrase")


class Engine(StrEnum):
    NONE = "none"
    AUTO = "auto"
    POSTGRES = "postgres"
    MYSQL = "mysql"
    MARIADB = "mariadb"
    MONGODB = "mongodb"
    SQLITE = "sqlite"
    VOLUMES = "volumes"
    COMMAND = "command"


class Verify(StrEnum):
    """How it is proven that a backup can be restored: by reading all of it, or by doing it."""

    READ = "read"
    RESTORE = "restore"


@dataclass(frozen=True, kw_only=True)
class Backup:
    """What is backed up before the migration. `source`: the app's variable that names the database, or empty;
    `image`: that of the database's client, or empty; `timeout` in seconds; `keep`: how many backups stay;
    `command` and `restore_command`: the user's own, both or neither."""

    engine: Engine
    source: str
    image: str
    timeout: float
    keep: int
    restore: bool
    verify: Verify = Verify.READ
    command: tuple[str, ...] = ()
    restore_command: tuple[str, ...] = ()

    @property
    def commands(self) -> tuple[tuple[str, ...], ...]:
        """To back up and to restore; none if the user gave none."""
        return (self.command, self.restore_command) if self.command else ()


@dataclass(frozen=True, kw_only=True)
class Download:
    """Where the backup is copied to: an absolute path within `workspace`, which is the runner's. `key`: the public one
    that it is encrypted to, or empty."""

    path: Path
    workspace: Path
    key: str = ""

    @property
    def shown(self) -> str:
        """As the next steps know it: their workspace has another name outside of this container."""
        return str(self.path.relative_to(self.workspace))


def read_backup(given: Given, *, deploys: bool) -> Backup | None:
    """What is to be backed up; None for a deploy that asks for no backup."""
    engine = given.choice("backup", Engine, Engine.NONE)
    command, restore_command = _commands(given, engine)
    backup = Backup(
        engine=Engine.AUTO if engine is Engine.NONE else engine,
        source=given.read("backup-source", syntax.word, ""),
        image=given.read("backup-image", syntax.image, ""),
        timeout=given.seconds("backup-timeout", low="1s", high="24h"),
        keep=given.read("backup-keep", lambda text: syntax.number(text, low=1, high=1000), 1),
        verify=given.choice("backup-verify", Verify, Verify.READ),
        restore=given.read("restore-on-failure", syntax.yes_or_no, True),
        command=command,
        restore_command=restore_command,
    )
    if not deploys:
        return backup
    if engine is not Engine.NONE:
        if not given.text("migrate-command") and not given.text("migrate-entrypoint"):
            given.problem("backup", "has no use without migrate-command or migrate-entrypoint")
        return backup
    for name in ("backup-source", "backup-image", "backup-verify", "backup-download"):
        if given.chosen(name):
            given.problem(name, "has no use without backup")
    return None


def read_download(given: Given, workspace: str) -> Download | None:
    """Where the backup is to be copied to; None if it is not."""
    key = given.read("backup-download-key", syntax.public_key, "")
    if not given.text("backup-download"):
        if given.text("backup-download-key"):
            given.problem("backup-download-key", "has no use without backup-download")
        return None
    if not workspace:
        given.problem("backup-download", "needs the variable GITHUB_WORKSPACE, which names the folder it lies in")
        return None
    path = given.read("backup-download", lambda text: syntax.path_within(text, Path(workspace)), Path())
    return Download(path=path, workspace=Path(workspace), key=key)


def _commands(given: Given, engine: Engine) -> list[tuple[str, ...]]:
    """backup-command and restore-command: both with `backup: command`, and neither without."""
    found = []
    for name, what in (("backup-command", "writes the backup to its standard output"), ("restore-command", "reads it")):
        no_words: tuple[str, ...] = ()
        words = given.read(name, syntax.readable_command, no_words)
        shown = [each for each in SECRETS if worth_masking(given.text(each)) and given.text(each) in given.text(name)]
        if shown:
            given.problem(name, f"holds the value of {shown[0]}, and the journal keeps it readable")
        elif engine is Engine.COMMAND and not given.text(name):
            given.problem(name, f"is required with backup: command; it {what}")
        elif engine is not Engine.COMMAND and given.text(name):
            given.problem(name, "goes with backup: command")
        elif words and not words[0]:
            given.problem(name, "begins with an empty word, which names no program")
        found.append(words)
    return found
