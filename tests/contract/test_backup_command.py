"""The script for the user's own commands: what one writes the other gets, and every failure is found out."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.databases import Backups, interrupting, small_disk

PATH = os.environ["PATH"]
ID = "shop/20260102T030405Z-shop-1.data.gz"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    place = tmp_path / "it's data"
    place.write_bytes(bytes(range(256)) * 999)
    return place


@pytest.fixture
def backup(data: Path, tmp_path: Path) -> Backups:
    commands = (("sh", "-c", 'echo dumping >&2; cat "$0"', str(data)), ("sh", "-c", 'echo loading >&2; cat > "$DATA"'))
    env = {"DATA": str(data)}
    return Backups(engine="command", folder=tmp_path / "backups", env=env, path=PATH, id=ID, commands=commands)


def dumping(backup: Backups, *words: str) -> Backups:
    return replace(backup, commands=(words, backup.commands[1]))


def loading(backup: Backups, *words: str) -> Backups:
    return replace(backup, commands=(backup.commands[0], words))


def test_restore__gets_what_the_dump_wrote(backup: Backups, data: Path) -> None:
    """Byte for byte; what the commands print is in the output, and the failed state is kept."""
    before = data.read_bytes()
    assert backup.works("check").told == {"method": "command"}
    made = backup.works("dump")
    assert int(made.told["bytes"]) == backup.file.stat().st_size < len(before)
    assert "dumping" in made.output
    assert backup.file.stat().st_mode & 0o777 == 0o600
    data.write_bytes(b"ruined")
    assert "loading" in backup.works("restore").output
    assert data.read_bytes() == before
    left = sorted(file.name for file in backup.file.parent.iterdir())
    assert left == [backup.file.name, f"{backup.file.name}.failed"]
    backup.file.with_name(left[1]).replace(backup.file)
    backup.works("restore")
    assert data.read_bytes() == b"ruined"


def test_restore__killed_at_each_step(backup: Backups, data: Path, tmp_path: Path) -> None:
    """Wherever a restore dies, the next one ends with what was; a half that it left is not kept as the failed state."""
    before = data.read_bytes()
    backup.works("dump")
    failed = backup.file.with_name(f"{backup.file.name}.failed")
    programs = {name: str(shutil.which(name)) for name in ("gzip", "rm", "mv", "sync", "head", "wc", "tr")}
    killing = replace(backup, path=f"{interrupting(tmp_path / 'programs', programs)}:{PATH}")
    for step in itertools.count(1):
        failed.unlink(missing_ok=True)
        data.write_bytes(b"ruined")
        ran = killing.run("restore", COUNT=str(tmp_path / f"count-{step}"), KILL_AT=str(step))
        if ran.exit_code == 0:
            break
        assert ran.exit_code == -signal.SIGKILL, ran.output
        backup.works("restore")
        assert data.read_bytes() == before, f"killed at step {step}"
        shutil.copy(failed, backup.file.with_name("20260102T030405Z-copy.data.gz"))
        replace(backup, id="shop/20260102T030405Z-copy.data.gz").works("restore")
        assert data.read_bytes() == b"ruined", f"killed at step {step}"
        for path in backup.file.parent.glob("*-copy*"):
            path.unlink()
    assert step > 8
    assert data.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("sh", "-c", "echo half; exit 3"), "backup-command failed (exit code 3)"),
        (("true",), "backup-command wrote nothing"),
        (("sh", "-c", "echo half; kill -KILL $$"), "backup-command failed (exit code 137)"),
        (("no-such-program",), "backup-command failed (exit code 127)"),
        (("fail", "x"), "backup-command failed (exit code 127)"),
    ],
)
def test_dump__that_fails(backup: Backups, words: tuple[str, ...], why: str) -> None:
    """A command that fails or writes nothing makes no backup, and nothing of it is left."""
    assert why in dumping(backup, *words).fails("dump")
    assert list(backup.file.parent.iterdir()) == []


def test_dump__disk_full(backup: Backups, data: Path, tmp_path: Path) -> None:
    """A disk that fills up: a clear end, and nothing of it is left."""
    data.write_bytes(os.urandom(3_000_000))
    with small_disk(tmp_path / "disk", "2m") as disk:
        full = replace(backup, folder=disk)
        assert full.fails("dump")
        assert list(full.file.parent.iterdir()) == []


def test_restore__half_of_one_is_no_failed_state(backup: Backups, data: Path) -> None:
    """Where the failed state could not be kept, what a restore left that broke off is not kept in its place."""
    backup.works("dump")
    data.write_bytes(b"ruined")
    broken = replace(backup, commands=(("false",), ("sh", "-c", 'head -c 9 > "$DATA"; exit 1')))
    ran = broken.run("restore")
    assert ran.exit_code == 1
    assert "the failed state could not be kept: backup-command failed" in ran.output
    backup.works("restore")
    assert [path.name for path in backup.file.parent.iterdir()] == [backup.file.name]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("sh", "-c", "cat > /dev/null; exit 4"), "restore-command failed (exit code 4)"),
        (("no-such-program",), "restore-command failed (exit code 127)"),
    ],
)
def test_restore__that_fails(backup: Backups, data: Path, words: tuple[str, ...], why: str) -> None:
    """A restore is done only when its command says so; the next one begins anew."""
    before = data.read_bytes()
    backup.works("dump")
    data.write_bytes(b"ruined")
    assert why in loading(backup, *words).fails("restore")
    backup.works("restore")
    assert data.read_bytes() == before


def test_restore__that_reads_no_more_than_it_needs(backup: Backups, data: Path) -> None:
    """A command may leave the rest unread; it has seen what it needs."""
    data.write_bytes(os.urandom(3_000_000))
    backup.works("dump")
    loading(backup, "sh", "-c", "head -c 1 > /dev/null").works("restore")


def test_restore__of_a_broken_backup(backup: Backups, data: Path, tmp_path: Path) -> None:
    """A backup that cannot be read to its end never reaches the command; nor is one done whose reading broke off."""
    backup.works("dump")
    whole = backup.file.read_bytes()
    data.write_bytes(b"ruined")
    backup.file.write_bytes(whole[:-9])
    assert "is broken" in backup.fails("restore")
    assert data.read_bytes() == b"ruined"
    backup.file.write_bytes(whole)
    gzip = tmp_path / "programs" / "gzip"
    gzip.parent.mkdir()
    gzip.write_text(f'#!/bin/sh\n{shutil.which("gzip")} "$@" || exit\n[ "$1" != -dc ] || exit 1\n')
    gzip.chmod(0o755)
    broken = replace(loading(backup, "sh", "-c", "cat > /dev/null"), path=f"{gzip.parent}:{PATH}")
    assert "could not be read to its end" in broken.fails("restore")


def test_check__no_such_program(backup: Backups) -> None:
    """A program that the image does not have is found out, of either command."""
    assert "the image has no program no-such" in dumping(backup, "no-such", "x").fails("check")
    assert "the image has no program no-such" in loading(backup, "no-such").fails("check")
