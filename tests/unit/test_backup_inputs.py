"""The inputs that concern backups."""

from __future__ import annotations

from pathlib import Path

import pytest

from capmig.backup.inputs import Backup, Download, Engine, Verify
from capmig.errors import Refused
from capmig.inputs import Inputs, parse

GIVEN = {
    "server": "https://captain.example.com",
    "app": "shop",
    "token": "t",
    "image": "shop:2",
    "docker-host": "unix:///var/run/docker.sock",
    "migrate-command": "migrate",
}


def inputs(workspace: Path | str = "", **more: str) -> Inputs:
    given = GIVEN | {name.replace("_", "-"): value for name, value in more.items()}
    return parse(
        {f"INPUT_{name.upper()}": value for name, value in given.items()} | {"GITHUB_WORKSPACE": str(workspace)}
    )


def problems(workspace: Path | str = "", **more: str) -> list[str]:
    with pytest.raises(Refused) as caught:
        inputs(workspace, **more)
    return list(caught.value.problems)


def test_backup__is_off_by_default() -> None:
    """Nobody's database is dumped unasked."""
    assert inputs().backup is None


def test_backup__what_is_given() -> None:
    """Each input has its place."""
    given = inputs(
        backup="postgres",
        backup_source="DATABASE_URL",
        backup_image="postgres:16",
        backup_timeout="1h",
        backup_keep="2",
        restore_on_failure="false",
    )
    assert given.backup == Backup(
        engine=Engine.POSTGRES, source="DATABASE_URL", image="postgres:16", timeout=3600, keep=2, restore=False
    )


def test_backup__problems() -> None:
    """Each problem is told by its input's name."""
    found = problems(backup="oracle", backup_timeout="0s", backup_keep="0", restore_on_failure="maybe")
    assert [line.split(":")[0] for line in found] == ["backup", "backup-timeout", "backup-keep", "restore-on-failure"]


def test_backup__needs_a_migration() -> None:
    """Without a migration nothing stops, and nothing is backed up; without a backup its inputs have no use."""
    assert "has no use without migrate-command" in problems(backup="auto", migrate_command="")[0]
    assert problems(backup_source="X") == ["backup-source: has no use without backup"]


def test_backup__commands() -> None:
    """Both are words as those of migrate-command are, and go with `backup: command` in every mode that needs them."""
    both = {"backup": "command", "backup_command": "sh -c 'dump | x'", "restore_command": "- load\n- ''"}
    for mode in ({}, {"mode": "restore", "backup_id": "shop/20260102T030405Z-x.data.gz", "image": ""}):
        given = inputs(**both, **mode)
        assert given.backup is not None
        assert given.backup.commands == (("sh", "-c", "dump | x"), ("load", ""))


def test_backup__commands_that_are_wrong() -> None:
    """One without the other, both without their engine, and what no shell would run: all told at once."""
    found = problems(backup="command", backup_keep="0")
    assert [line.split(":")[0] for line in found] == ["backup-command", "restore-command", "backup-keep"]
    assert problems(backup="command", backup_command="a | b", restore_command="x")[0].startswith(
        "backup-command: is run"
    )
    found = problems(backup="postgres", backup_command="a", restore_command="b")
    assert found == ["backup-command: goes with backup: command", "restore-command: goes with backup: command"]
    assert problems(backup="command", backup_command="a", restore_command="''") == [
        "restore-command: begins with an empty word, which names no program"
    ]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("dump postgres://u:hush@h/d", "has a password in a URL"),
        ("sh -c 'dump \"mongodb://u:hush@h/d\"'", "has a password in a URL"),
        ("dump --key t0ken-of-app", "holds the value of token"),
    ],
)
def test_backup__commands_with_a_secret(command: str, words: str) -> None:
    """The journal keeps the commands readable; what the app's environment holds can be named there."""
    (found,) = problems(token="t0ken-of-app", backup="command", backup_command=command, restore_command="load")
    assert words in found
    assert "hush" not in found
    by_name = {"backup_command": """sh -c 'dump "postgres://u:$PASSWORD@h/d"'""", "restore_command": "load u@h:/x"}
    assert inputs(backup="command", **by_name).backup is not None


@pytest.mark.parametrize("mode", ["backup", "list-backups"])
def test_modes__find_the_database_by_themselves(mode: str) -> None:
    """They need neither an image nor a migration."""
    given = inputs(mode=mode, image="", migrate_command="", backup_source="X")
    assert given.backup is not None
    assert (given.backup.engine, given.backup.source, given.migration) == (Engine.AUTO, "X", None)


def test_mode_restore__needs_a_name() -> None:
    """A backup's name is one that cannot lead out of the volume."""
    name = "shop/20260102T030405Z-shop-1.4.0.dump"
    assert inputs(mode="restore", backup_id=name).backup_id == name
    assert problems(mode="restore") == ["backup-id: is required"]
    for wrong in ("../x", "shop/../20260102T030405Z-x", "/etc/passwd", f"{name}/x", name.replace("shop-", "$x")):
        assert "is no backup such as" in problems(mode="restore", backup_id=wrong)[0]


def test_verify() -> None:
    """All of a backup is read, unless more is asked for; without a backup there is nothing to prove."""
    given = [inputs(backup="auto", backup_verify=how).backup for how in ("", "read", "restore")]
    assert [each.verify for each in given if each is not None] == [Verify.READ, Verify.READ, Verify.RESTORE]
    assert problems(backup="auto", backup_verify="list") == ["backup-verify: 'list' must be one of read, restore"]
    assert problems(backup_verify="restore") == ["backup-verify: has no use without backup"]


def test_download__what_is_given(tmp_path: Path) -> None:
    """A path relative to the workspace, or an absolute one within it."""
    for text in ("backups/shop.dump", "./backups//shop.dump", f"{tmp_path}/backups/shop.dump"):
        given = inputs(backup="auto", backup_download=text, workspace=tmp_path)
        assert given.download == Download(path=tmp_path / "backups/shop.dump", workspace=tmp_path)
        assert given.download.shown == "backups/shop.dump"


def test_download__must_stay_within_the_workspace(tmp_path: Path) -> None:
    """Nothing else of the runner can be overwritten: neither by name nor by a link that the repository holds."""
    (tmp_path / "out").symlink_to("/etc")
    (tmp_path / "folder").mkdir()
    wrong = {
        "/etc/shop.dump": "is not within the workspace",
        "../shop.dump": "is not within the workspace",
        "a/../../shop.dump": "is not within the workspace",
        f"{tmp_path}x/shop.dump": "is not within the workspace",
        "a\tb": "is not within the workspace",
        "out/shop.dump": "leads out of the workspace by a link",
        "folder": "is a folder",
        "backups/": "is a folder",
        ".": "is a folder",
    }
    for text, words in wrong.items():
        (problem,) = problems(backup="auto", backup_download=text, workspace=tmp_path)
        assert problem.startswith("backup-download: ")
        assert words in problem


def test_download__key(tmp_path: Path) -> None:
    """Public keys of age and OpenSSH, also several, and a certificate; a private one is not repeated in the message."""

    def key(text: str) -> str:
        given = inputs(backup="auto", backup_download="x", backup_download_key=text, workspace=tmp_path).download
        assert given is not None
        return given.key

    def wrong(text: str) -> str:
        (problem,) = problems(backup="auto", backup_download="x", backup_download_key=text, workspace=tmp_path)
        return problem.removeprefix("backup-download-key: ")

    assert key("# of Ann\nage1abc\n\nssh-ed25519 AAAA ann\n") == "age1abc\nssh-ed25519 AAAA ann"
    certificate = "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----"
    assert key(certificate) == certificate
    bare = "-----BEGIN PUBLIC KEY-----\nMII\n-----END PUBLIC KEY-----"
    assert key(bare) == bare
    assert "is no public key of age" in wrong("age1abc\nhello")
    for private in (
        "AGE-SECRET-KEY-1HUSH",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nHUSH",
        f"{certificate}\nPRIVATE KEY HUSH",
    ):
        assert wrong(private).startswith("is a private key")
        assert "HUSH" not in wrong(private)
    assert problems(backup="auto", backup_download_key="age1abc") == [
        "backup-download-key: has no use without backup-download"
    ]


def test_download__needs_a_backup_and_a_workspace(tmp_path: Path) -> None:
    """Without a backup there is nothing to copy; by hand a workspace has to be named."""
    assert problems(backup_download="x", workspace=tmp_path) == ["backup-download: has no use without backup"]
    assert "GITHUB_WORKSPACE" in problems(backup="auto", backup_download="x")[0]
    assert inputs(mode="backup", backup_download="x", workspace=tmp_path).download is not None
    assert inputs(mode="list-backups", backup_download="x", workspace=tmp_path).download is None
