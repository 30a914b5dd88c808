"""The backup's copy on the runner: streamed from the node into a file of the workspace, whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from capmig.backup.inputs import Download
from capmig.backup.sealing import sealed
from capmig.backup.tool import VOLUME
from capmig.errors import CapmigError, Conflict, DeployFailed, FateUnknown, LinkLost
from capmig.hand import Hand, Made
from capmig.ports import RemoteFile
from capmig.report import amount

TRIES = 3
PAUSE = 5.0
PROGRESS = 10.0  # seconds between two lines of the log
# What may pass by itself.
PASSING = (LinkLost, FateUnknown, Conflict)


@dataclass(frozen=True, kw_only=True)
class Copied:
    """What became of the copy. `file`: its path in the workspace; if that is empty, `error` says why, and where the
    backup is."""

    file: str = ""
    error: str = ""


def fetch(hand: Hand, wanted: Download, *, timeout: float, cancelled: Callable[[], bool]) -> Copied | None:
    """Copy the backup that this run made into the workspace; None if it made none. It raises nothing.

    The app is in its final state and the lock is given back: nothing waits for this.
    """
    if not hand.made:
        return None
    made = hand.made[-1]
    hand.timeline.step(f"Download the backup to {wanted.shown}")
    copy = _Copy(hand, wanted, made, give_up=hand.clock.monotonic() + timeout, cancelled=cancelled)
    try:
        copy.make()
        return Copied(file=wanted.shown)
    except OSError as error:
        why = f"{wanted.shown} cannot be written: {error.strerror or error}."
    except CapmigError as error:
        why = error.what
    where = f"It is in the volume {VOLUME} on the node {made.node}, as {made.id}."
    return Copied(error=f"The backup was not downloaded: {why} {where}")


class _Copy:
    def __init__(
        self, hand: Hand, wanted: Download, made: Made, *, give_up: float, cancelled: Callable[[], bool]
    ) -> None:
        self._hand = hand
        self._wanted = wanted
        self._made = made
        self._give_up = give_up
        self._cancelled = cancelled

    def make(self) -> None:
        """Begin again where the link breaks, so many times; DeployFailed, OSError or an edge's error otherwise."""
        clock = self._hand.clock
        began = clock.monotonic()
        for left in reversed(range(TRIES)):
            try:
                self._once()
                break
            except PASSING as error:
                self._heed()
                if not left:
                    raise
                self._hand.log.warning(f"The download begins again: {error.what}")
                clock.sleep(PAUSE)
        seconds = clock.monotonic() - began
        self._hand.log.info(f"{amount(self._made.bytes)} in {seconds:.0f} s; size and checksum are right.")

    def _once(self) -> None:
        made = self._made
        name = f"{self._hand.job_name}-download"
        with self._hand.swarm.file_of_volume(VOLUME, made.id, image=made.image, name=name) as remote:
            if remote.size != made.bytes:
                raise DeployFailed(f"The backup has {remote.size} bytes now, and had {made.bytes} when it was made.")
            with landing(self._wanted, remote.size) as file:
                if not self._wanted.key:
                    self._copy(remote, file)
                    return
                with sealed(self._wanted.key, file, size=remote.size) as pipe:
                    self._copy(remote, pipe)

    def _copy(self, remote: RemoteFile, file: IO[bytes]) -> None:
        clock, log = self._hand.clock, self._hand.log
        digest = hashlib.sha256()
        received = shown = 0
        told = clock.monotonic()
        for piece in remote.pieces:
            self._heed()
            digest.update(piece)
            file.write(piece)
            received += len(piece)
            since = clock.monotonic() - told
            if since >= PROGRESS:
                rate = (received - shown) / since / 1e6
                log.info(f"{received / 1e6:.0f} of {remote.size / 1e6:.0f} MB, {rate:.1f} MB/s")
                told, shown = clock.monotonic(), received
        if received != remote.size:
            raise LinkLost(f"{received} of {remote.size} bytes came.")
        if digest.hexdigest() != self._made.sha256:
            raise LinkLost("what came has another checksum than the backup.")

    def _heed(self) -> None:
        if self._cancelled():
            raise DeployFailed("The run was cancelled.")
        if self._hand.clock.monotonic() > self._give_up:
            raise DeployFailed("The download took longer than backup-timeout.")


@contextmanager
def landing(wanted: Download, size: int) -> Iterator[IO[bytes]]:
    """A file beside the wanted one, which takes its place once the block has ended well and all is on the disk.

    OSError when it cannot be written. It belongs to whom the workspace belongs: the next steps are not run by root.
    """
    folder = _make_folder(wanted)
    free = os.statvfs(folder)
    if free.f_bavail * free.f_frsize < size:
        raise DeployFailed(f"{free.f_bavail * free.f_frsize} bytes are free on the runner, and the backup has {size}.")
    part = folder / f".{wanted.path.name}.part"
    part.unlink(missing_ok=True)
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            _give_away(file.fileno(), wanted.workspace)
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.rename(wanted.path)
    finally:
        part.unlink(missing_ok=True)
    _flush(folder)


def _make_folder(wanted: Download) -> Path:
    """The wanted file's folder; what the workspace holds may have changed since the inputs were read."""
    folder = wanted.path.parent
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o755)
        _give_away(each, wanted.workspace)
    if not folder.resolve().is_relative_to(wanted.workspace.resolve()):
        raise DeployFailed(f"{wanted.shown} leads out of the workspace.")
    return folder


def _give_away(what: int | Path, workspace: Path) -> None:
    if os.geteuid() == 0:
        owner = workspace.stat()
        os.chown(what, owner.st_uid, owner.st_gid)


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
