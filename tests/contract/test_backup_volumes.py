"""The script for volumes, with GNU's programs and with BusyBox's: what comes back is what was."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from struct import pack

import pytest

from tests.contract.databases import Backups, interrupting, small_disk

PATH = os.environ["PATH"]
ID = "shop/20260102T030405Z-shop-1.tar.gz"
PROGRAMS = (
    "awk cat cksum cut date dd df du find grep gzip head ls mkdir mktemp mv rm sed sha256sum sleep sort sync tail"
)
PROGRAMS += " tar tr wc"
LONG_AGO = 981173106_123456789  # ns


@dataclass(frozen=True, kw_only=True)
class Volumes:
    """An app's two volumes, and the script that backs them up with the programs of `kind`."""

    kind: str
    inside: Path
    backup: Backups

    @property
    def data(self) -> Path:
        return self.inside / "1-data"

    def whole(self) -> dict[str, tuple[object, ...]]:
        """All that is there, as exactly as this kind of tar can keep it."""
        return {str(path.relative_to(self.inside)): self._one(path) for path in sorted(self.inside.rglob("*"))}

    def _one(self, path: Path) -> tuple[object, ...]:
        found = path.lstat()
        what: object = ""
        if path.is_symlink():
            what = path.readlink()
        elif path.is_file():
            what = sha256(path.read_bytes()).hexdigest()
        kept = (oct(found.st_mode), found.st_uid, found.st_gid, found.st_nlink, found.st_rdev, what)
        if self.kind == "gnu":
            attributes = {
                name: os.getxattr(path, name, follow_symlinks=False)
                for name in os.listxattr(path, follow_symlinks=False)
            }
            return (*kept, found.st_mtime_ns, attributes, found.st_blocks * 512 < found.st_size)
        if path.is_symlink():  # of a link, BusyBox keeps where it leads
            return ("link", what)
        return (*kept, int(found.st_mtime) if path.is_file() else 0)


def busybox(folder: Path) -> str:
    """A PATH with nothing but BusyBox, and a shell that looks for programs there: BusyBox's own may not."""
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/dash")
    for name in PROGRAMS.split():
        (folder / name).symlink_to(str(shutil.which("busybox")))
    return str(folder)


@pytest.fixture(params=["gnu", "busybox"])
def volumes(request: pytest.FixtureRequest, tmp_path: Path) -> Volumes:
    inside = tmp_path / "volumes"
    for name in ("1-data", "2-uploads", "3-empty"):
        (inside / name).mkdir(parents=True)
    path = PATH if request.param == "gnu" else busybox(tmp_path / "busybox")
    env = {"CAPMIG_VOLUMES": "1-data 2-uploads 3-empty", "CAPMIG_INSIDE": str(inside), "CAPMIG_ATTEMPT": "1767323045"}
    backup = Backups(engine="volumes", folder=tmp_path / "backups", env=env, path=path, id=ID)
    found = Volumes(kind=request.param, inside=inside, backup=backup)
    fill(found)
    return found


def fill(volumes: Volumes) -> None:
    """One of each kind of thing that a folder may hold."""
    data, root = volumes.data, os.geteuid() == 0
    (data / "sub" / ("l" * 200) / "deep").mkdir(parents=True)
    (data / "noughts").write_bytes(os.urandom(70000))
    (data / "hard").hardlink_to(data / "noughts")
    (data / "dangling").symlink_to("/nowhere/at all")
    (data / ".hidden").write_text("x")
    for name in ("new\nline", "-rf", " * $HOME '\"\\", "Zoë 客户 🙂", os.fsdecode(b"\xff\xfe"), "esc\x1b[1m", "[a]?"):
        (data / "sub" / name).write_text(name, errors="surrogateescape")
    (data / "sub" / ("l" * 200) / ("m" * 200)).write_text("a long path")
    os.mkfifo(data / "pipe")
    with closing(socket.socket(socket.AF_UNIX)) as listening:
        cwd = Path.cwd()
        os.chdir(data / "sub")  # the path of a socket must be short
        listening.bind("socket")
        os.chdir(cwd)
    with (data / "sparse").open("wb") as file:
        file.truncate(5_000_000)
    if root:
        os.mknod(data / "device", 0o640 | stat.S_IFCHR, os.makedev(1, 3))
        for path in (data / "noughts", data / "sub", data / "dangling", data):
            os.chown(path, 1234, 4321, follow_symlinks=False)
    (data / "noughts").chmod(0o4750)
    (data / "sub").chmod(0o1777)
    (data / "sub" / "-rf").chmod(0)
    (data / ".hidden").chmod(0o444)
    if volumes.kind == "gnu":
        os.setxattr(data / "noughts", "user.capmig", b"\x00\xff")
        if root:  # CAP_NET_BIND_SERVICE, for a web server
            os.setxattr(data / "noughts", "security.capability", pack("<5I", 0x02000001, 1 << 10, 0, 0, 0))
    for path in (data / "noughts", data / "dangling", data / "sub", data):
        os.utime(path, ns=(LONG_AGO, LONG_AGO), follow_symlinks=False)
    data.chmod(0o2770)
    (volumes.inside / "2-uploads" / "a").write_text("a")


def ruin(volumes: Volumes) -> None:
    """What a migration may do: remove, change and add."""
    shutil.rmtree(volumes.data / "sub")
    (volumes.data / "noughts").write_text("overwritten")
    (volumes.data / ".added").mkdir(exist_ok=True)
    (volumes.data / ".added" / "file").write_text("x")
    (volumes.inside / "3-empty" / "..x").write_text("x")
    volumes.data.chmod(0o700)


def without_sockets(found: dict[str, tuple[object, ...]]) -> dict[str, tuple[object, ...]]:
    """A tar has none: whoever listens makes his anew."""
    return {name: each for name, each in found.items() if not name.endswith("/socket")}


def test_restore__gives_back_exactly_what_was(volumes: Volumes) -> None:
    """Contents, owners, modes, links, times; what was added is gone; the failed state is kept."""
    before = without_sockets(volumes.whole())
    assert len(before) > 20
    backup = volumes.backup
    assert backup.works("check").told == {"method": "unpack", "tar": {"gnu": "GNU", "busybox": "BusyBox"}[volumes.kind]}
    made = backup.works("dump")
    assert int(made.told["bytes"]) == backup.file.stat().st_size > 70000
    assert backup.file.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in backup.file.parent.iterdir()] == [backup.file.name]
    assert without_sockets(volumes.whole()) == before, "a dump changes nothing"
    ruin(volumes)
    assert volumes.whole() != before
    backup.works("restore")
    assert volumes.whole() == before
    left = sorted(file.name for file in backup.file.parent.iterdir())
    assert left == [backup.file.name, f"{backup.file.name}.failed"]


def test_restore__keeps_the_failed_state(volumes: Volumes) -> None:
    """What the migration left can be looked at: the failed state is a backup like any other."""
    backup = volumes.backup
    backup.works("dump")
    ruin(volumes)
    failed = volumes.whole()
    backup.works("restore")
    assert volumes.whole() != failed
    backup.file.with_name(f"{backup.file.name}.failed").replace(backup.file)
    backup.works("restore")
    assert volumes.whole() == failed


def test_restore__killed_at_each_step(volumes: Volumes, tmp_path: Path) -> None:
    """Wherever a restore dies, the next one ends with what was; a half that it left is not kept as the failed state."""
    backup = volumes.backup
    before = without_sockets(volumes.whole())
    backup.works("dump")
    failed = backup.file.with_name(f"{backup.file.name}.failed")
    names = ("tar", "gzip", "find", "rm", "mv", "sync", "wc", "sed")
    programs = {name: str(shutil.which(name, path=backup.path)) for name in names}
    killing = replace(backup, path=f"{interrupting(tmp_path / 'programs', programs)}:{backup.path}")
    for step in itertools.count(1):
        failed.unlink(missing_ok=True)
        ruin_again(volumes)
        wrong = volumes.whole()
        ran = killing.run("restore", COUNT=str(tmp_path / f"count-{step}"), KILL_AT=str(step))
        if ran.exit_code == 0:
            break
        assert ran.exit_code == -signal.SIGKILL, ran.output
        backup.works("restore")
        assert volumes.whole() == before, f"killed at step {step}"
        assert unpacked(volumes, failed, tmp_path / f"failed-{step}") == wrong, f"killed at step {step}"
    assert step > 10
    assert volumes.whole() == before


def test_restore__half_of_one_is_no_failed_state(volumes: Volumes, tmp_path: Path) -> None:
    """Where the failed state could not be kept, what a killed restore left is not kept in its place."""
    volumes.backup.works("dump")
    ruin(volumes)
    dying = with_tar(volumes, tmp_path / "programs", after="exit 2", instead_of_unpacking="kill -KILL 0")
    ran = dying.run("restore")
    assert ran.exit_code == -signal.SIGKILL
    assert "the failed state could not be kept" in ran.output
    assert list(volumes.data.iterdir()) == []
    volumes.backup.works("restore")
    assert [path.name for path in volumes.backup.file.parent.iterdir()] == [volumes.backup.file.name]


def ruin_again(volumes: Volumes) -> None:
    if (volumes.data / "sub").exists():
        ruin(volumes)


def unpacked(volumes: Volumes, archive: Path, place: Path) -> dict[str, tuple[object, ...]]:
    """What an archive holds, by the same script."""
    for name in ("1-data", "2-uploads", "3-empty"):
        (place / name).mkdir(parents=True)
    there = replace(
        volumes, inside=place, backup=replace(volumes.backup, env={**volumes.backup.env, "CAPMIG_INSIDE": str(place)})
    )
    copy = archive.with_name("20260102T030405Z-copy.tar.gz")
    shutil.copy(archive, copy)
    replace(there.backup, id=f"shop/{copy.name}").works("restore")
    found = there.whole()
    shutil.rmtree(place)
    for path in copy.parent.glob(f"{copy.name}*"):
        path.unlink()
    return found


def test_restore__of_a_broken_backup(volumes: Volumes) -> None:
    """A backup that cannot be read to its end touches nothing."""
    backup = volumes.backup
    backup.works("dump")
    ruin(volumes)
    wrong = volumes.whole()
    with backup.file.open("r+b") as file:
        file.truncate(backup.file.stat().st_size - 9)
    assert "is broken" in backup.fails("restore")
    assert volumes.whole() == wrong


def test_restore__of_other_volumes(volumes: Volumes) -> None:
    """A backup of other volumes than the app has now touches nothing."""
    backup = volumes.backup
    backup.works("dump")
    before = volumes.whole()
    other = replace(backup, env={**backup.env, "CAPMIG_VOLUMES": "1-data 2-uploads"})
    assert "has the volumes 1-data 2-uploads 3-empty and the app has 1-data 2-uploads" in other.fails("restore")
    assert volumes.whole() == before


def test_restore__of_gnu_tar_by_busybox(volumes: Volumes, tmp_path: Path) -> None:
    """BusyBox's tar would not understand names and holes as GNU's writes them; the other way round works."""
    other = PATH if volumes.kind == "busybox" else busybox(tmp_path / "other")
    before = without_sockets(volumes.whole())
    volumes.backup.works("dump")
    ruin(volumes)
    wrong = volumes.whole()
    elsewhere = replace(volumes.backup, path=other)
    if volumes.kind == "gnu":
        assert "made by GNU tar" in elsewhere.fails("restore")
        assert volumes.whole() == wrong
    else:
        elsewhere.works("restore")
        assert volumes.whole() == before


def with_tar(
    volumes: Volumes, folder: Path, *, before: str = "", after: str = "", instead_of_unpacking: str = ""
) -> Backups:
    """The same, with a tar that does something before or after it has packed, or in place of unpacking."""
    folder.mkdir()
    tar = folder / "tar"
    tar.write_text(
        f"""#!/bin/sh
        [ "$1" != -c ] || {{ {before or ":"}; }}
        [ "$1" != -x ] || {{ {instead_of_unpacking or ":"}; }}
        {shutil.which("tar", path=volumes.backup.path)} "$@" || exit
        [ "$1" != -c ] || {{ {after or ":"}; }}
        """
    )
    tar.chmod(0o755)
    return replace(volumes.backup, path=f"{folder}:{volumes.backup.path}")


def test_dump__while_somebody_writes(volumes: Volumes, tmp_path: Path) -> None:
    """With the app stopped, a file more than there was at the beginning is somebody else's: that is no backup."""
    backup = with_tar(volumes, tmp_path / "programs", before=f"echo x > {volumes.data}/new")
    assert "something else writes into the volumes" in backup.fails("dump")
    assert list(backup.file.parent.iterdir()) == []
    (volumes.data / "new").unlink()
    backup.works("dump", CAPMIG_ATTEMPT="0")


@pytest.mark.parametrize("exit_code", [1, 2])
def test_dump__tar_that_fails(volumes: Volumes, tmp_path: Path, exit_code: int) -> None:
    """A tar that fails makes no backup, though gzip has packed what it wrote.

    GNU's 1, for files that change meanwhile, is none but while the app runs.
    """
    backup = with_tar(volumes, tmp_path / "programs", after=f"echo cannot read x >&2; exit {exit_code}")
    assert "cannot read x" in backup.fails("dump")
    assert list(backup.file.parent.iterdir()) == []
    ran = backup.run("dump", CAPMIG_ATTEMPT="0")
    assert ran.exit_code == (0 if (volumes.kind, exit_code) == ("gnu", 1) else 1), ran.output
    assert "cannot read x" in ran.output


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "2m") as place:
        yield place


def test_check__too_little_space(volumes: Volumes, disk: Path) -> None:
    """Space is looked for before anything stops, and once more before the dump."""
    (volumes.data / "big").write_bytes(os.urandom(3_000_000))
    backup = replace(volumes.backup, folder=disk)
    assert "too little space for a backup" in backup.fails("check")
    assert "too little space for a backup" in backup.fails("dump")


def test_restore__disk_full(volumes: Volumes, tmp_path: Path, disk: Path) -> None:
    """A restore that finds no space says so; once there is some, the next one ends with what was."""
    backup = volumes.backup
    (volumes.data / "big").write_bytes(os.urandom(3_000_000))
    backup.works("dump")
    before = without_sockets(volumes.whole())
    shutil.copytree(volumes.inside / "2-uploads", disk / "2-uploads")
    for name in ("1-data", "3-empty"):
        (disk / name).mkdir()
    small = replace(backup, env={**backup.env, "CAPMIG_INSIDE": str(disk)})
    assert "unpacking broke off half-way" in small.fails("restore")
    backup.works("restore")
    assert volumes.whole() == before


def test_check__what_cannot_be_restored(volumes: Volumes, tmp_path: Path) -> None:
    """A file that is mounted alone, no folder at all, and a file system within a volume are found out."""
    (volumes.inside / "4-file").write_text("x")
    single = replace(volumes.backup, env={**volumes.backup.env, "CAPMIG_VOLUMES": "1-data 4-file"})
    assert "the mount 4-file is a single file" in single.fails("check")
    os.mkfifo(volumes.inside / "5-pipe")
    none = replace(volumes.backup, env={**volumes.backup.env, "CAPMIG_VOLUMES": "5-pipe"})
    assert "none of the app's mounts is a folder" in none.fails("check")
    with small_disk(volumes.data / "inner", "1m"):
        assert "another file system is mounted within a volume" in volumes.backup.fails("check")


def test_check__no_tar(volumes: Volumes, tmp_path: Path) -> None:
    """An image without tar is found out."""
    folder = Path(busybox(tmp_path / "less"))
    (folder / "tar").unlink()
    assert "the image has no program tar" in replace(volumes.backup, path=str(folder)).fails("check")
