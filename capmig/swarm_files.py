"""A file in a volume of the connected engine, as a stream: through a container that is never started."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, cast

from capmig.errors import EngineRefused, LinkLost
from capmig.ports import RemoteFile
from capmig.swarm_http import Body, EngineHttp

KIND = {"capmig.kind": "download"}
FOLDER = "/backups"
LEFT_OVER = 86400.0  # seconds; no download takes longer
PAUSE_LIMIT = 30.0  # seconds without a byte; ssh itself notices a dead peer after 20
REMOVE_LIMIT = 10.0
PIECE = 64 * 1024


@contextmanager
def file_of_volume(http: EngineHttp, volume: str, path: str, *, image: str, name: str) -> Iterator[RemoteFile]:
    """As ports.Swarm.file_of_volume."""
    mount = {"Type": "volume", "Source": volume, "Target": FOLDER, "ReadOnly": True}
    body = {
        "Image": image,
        "Cmd": ["/capmig-is-never-started"],
        "Labels": KIND,
        "NetworkDisabled": True,
        "HostConfig": {"Mounts": [mount]},
    }
    _remove(http, name)
    try:
        http.write("POST", "/containers/create", params={"name": name}, body=body)
        url, where = f"/containers/{name}/archive", {"path": f"{FOLDER}/{path}"}
        with http.body(url, where, seconds=PAUSE_LIMIT) as archive, _only_file(archive, path) as file:
            yield file
    finally:
        http.try_once("DELETE", f"/containers/{name}", {"force": "true", "v": "true"}, seconds=REMOVE_LIMIT)


def remove_left_over(http: EngineHttp, now: float) -> None:
    """Remove the containers of downloads whose process died more than a day ago."""
    for found in http.read("/containers/json", {"all": "true", "filters": '{"label": ["capmig.kind=download"]}'}):
        if found["Created"] < now - LEFT_OVER:
            _remove(http, found["Id"])


def _remove(http: EngineHttp, name: str) -> None:
    try:
        http.write("DELETE", f"/containers/{name}", params={"force": "true", "v": "true"})
    except EngineRefused as error:
        if error.status != 404:
            raise


@contextmanager
def _only_file(archive: Body, path: str) -> Iterator[RemoteFile]:
    """The archive's one file. LinkLost when the archive breaks off, also while the pieces are read."""
    try:
        # A stream that is read once, from its front: nothing of it is kept.
        with tarfile.open(fileobj=cast(IO[bytes], archive), mode="r|", bufsize=PIECE) as tar:
            member = tar.next()
            body = tar.extractfile(member) if member is not None else None
            if member is None or body is None:
                raise EngineRefused(f"{path} is not a file.", status=404)
            yield RemoteFile(size=member.size, pieces=iter(partial(body.read, PIECE), b""))
    except tarfile.TarError as error:
        raise LinkLost(f"The archive of {path} broke off: {error}.") from error
