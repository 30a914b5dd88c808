"""The inputs that concern backups."""

from __future__ import annotations

import pytest

from capmig.errors import Refused
from capmig.inputs import Backup, Engine, Inputs, parse

GIVEN = {
    "server": "https://captain.example.com",
    "app": "shop",
    "token": "t",
    "image": "shop:2",
    "docker-host": "unix:///var/run/docker.sock",
    "migrate-command": "migrate",
}


def inputs(**more: str) -> Inputs:
    given = GIVEN | {name.replace("_", "-"): value for name, value in more.items()}
    return parse({f"INPUT_{name.upper()}": value for name, value in given.items()})


def problems(**more: str) -> list[str]:
    with pytest.raises(Refused) as caught:
        inputs(**more)
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
