"""Requests to one Docker engine over a unix socket, and what their failures mean."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlencode

import requests
from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnection, UnixHTTPConnectionPool
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError

from capmig.errors import Conflict, EngineRefused, FateUnknown, LinkLost
from capmig.ports import Clock

LIMIT = 15.0  # seconds for a call with its retries; the link's own last attempt may add a few
TRY = 5.0  # for one attempt to read
PAUSE = 0.3
_PIECE = 64 * 1024

# Words of a manager that has lost its quorum or its leader, before it proposed a change…
NO_LEADER = ("does not have a leader", "no elected primary cluster manager")
# …and after, when the change may still be agreed upon.
UNDECIDED = (
    *("context deadline exceeded", "deadlineexceeded", "context canceled", "code = canceled"),
    *("lost leadership", "lost leader status"),
)


class Link(Protocol):
    """Whatever carries the socket to the manager."""

    def ensure(self) -> None:
        """Re-establish the transport if it dropped; LinkLost if that fails."""
        ...


class Body:
    """What an engine answers, read as it comes: LinkLost when it breaks off."""

    def __init__(self, answer: requests.Response, what: str) -> None:
        self._answer = answer
        self._what = what

    def read(self, size: int) -> bytes:
        """So many bytes; fewer only at the end."""
        try:
            return bytes(self._answer.raw.read(size))
        except (HTTPError, OSError) as error:
            raise LinkLost(f"{self._what} broke off: {_cause(error)}.") from error


class EngineHttp:
    """One engine's API in the newest version it speaks: `unix:///path/to/socket`, revived by `link`."""

    # Not docker.APIClient: it sends along what ~/.docker/config.json says, which is meant for another engine, and asks
    # for the API version in its constructor, when nobody can restore a link that has dropped.
    def __init__(self, base_url: str, link: Link, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._api_version = ""
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.mount("http+docker://", _OnePool(base_url.removeprefix("unix://")))

    def close(self) -> None:
        self._session.close()

    def api_version(self) -> str:
        if not self._api_version:
            self._api_version = str(self._get("/version", {}, None, TRY)["ApiVersion"])
        return self._api_version

    def read(
        self,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = TRY,
    ) -> Any:
        """GET, tried again over a lost link, each time for at most `seconds`: the decoded answer.

        LinkLost, or EngineRefused (404: no such object).
        """
        return self._get(f"/v{self.api_version()}{path}", params or {}, headers, seconds)

    def read_stream(self, path: str, params: Mapping[str, str], *, seconds: float, most: int) -> bytes:
        """GET, once: what of a stream has arrived when it ends, breaks off, is too long, or `seconds` have passed."""
        url = self._url(f"/v{self.api_version()}{path}", params)
        deadline = self._clock.monotonic() + seconds
        received = bytearray()
        try:
            with self._session.get(url, stream=True, timeout=seconds) as answer:
                _check(answer, f"GET {path}")
                for piece in answer.iter_content(_PIECE):
                    received += piece
                    if len(received) >= most or self._clock.monotonic() > deadline:
                        break
        except requests.RequestException:
            return bytes(received)
        return bytes(received)

    @contextmanager
    def body(self, path: str, params: Mapping[str, str], *, seconds: float) -> Iterator[Body]:
        """GET, once: the answer's body. LinkLost when nothing comes for so many seconds; EngineRefused."""
        url = self._url(f"/v{self.api_version()}{path}", params)
        try:
            # The engine would pack what is packed already.
            headers = {"Accept-Encoding": "identity"}
            answer = self._session.get(url, stream=True, timeout=seconds, headers=headers)
        except requests.RequestException as error:
            raise LinkLost(f"No answer came to GET {path}: {_cause(error)}.") from error
        with answer:
            _check(answer, f"GET {path}")
            yield Body(answer, f"GET {path}")

    def write(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a mutation once; a link that has dropped is mended first.

        LinkLost: nothing was sent. FateUnknown: no answer came. Conflict: out of sequence. EngineRefused: all else.
        """
        url = self._url(f"/v{self.api_version()}{path}", params)
        mended = False
        seconds = LIMIT
        while True:
            try:
                answer = self._session.request(method, url, json=body, headers=headers, timeout=seconds)
                break
            except requests.RequestException as error:
                if not _nothing_sent(error):
                    raise FateUnknown(f"No answer came to {method} {path}: {_cause(error)}.") from error
                if mended:
                    raise LinkLost(f"{method} {path} was not sent: {_cause(error)}.") from error
                self._link.ensure()
                mended, seconds = True, TRY
        _check(answer, f"{method} {path}", mutation=True)

    def try_once(self, method: str, path: str, params: Mapping[str, str], *, seconds: float) -> bool:
        """Send something that only helps: whether it was answered in time. What becomes of it is no concern."""
        url = self._url(f"/v{self._api_version}{path}", params)
        try:
            return self._session.request(method, url, timeout=seconds).ok
        except requests.RequestException:
            return False

    def _url(self, path: str, params: Mapping[str, str] | None = None) -> str:
        return f"http+docker://localhost{path}" + (f"?{urlencode(params)}" if params else "")

    def _get(self, path: str, params: Mapping[str, str], headers: Mapping[str, str] | None, seconds: float) -> Any:
        url = self._url(path, params)
        deadline = self._clock.monotonic() + LIMIT
        while True:
            left = deadline - self._clock.monotonic()
            try:
                answer = self._session.get(url, headers=headers, timeout=max(1.0, min(seconds, left)))
                if not _says(answer, NO_LEADER):
                    _check(answer, f"GET {path}")
                    return answer.json()
                if left < TRY:
                    raise _leaderless("The swarm has no leader: too few of its managers are there to agree on one.")
            except requests.RequestException as error:
                if left < TRY:
                    raise LinkLost(f"The Docker engine does not answer: {_cause(error)}.") from error
                self._link.ensure()
            self._clock.sleep(PAUSE)


def _check(answer: requests.Response, what: str, *, mutation: bool = False) -> None:
    """Raise what an answer's status and words mean."""
    if answer.status_code < 400:
        return
    words = _words(answer)
    if "update out of sequence" in words:
        raise Conflict(f"{what}: it changed since it was read ({words}).")
    if mutation and _says(answer, UNDECIDED):
        raise FateUnknown(f"{what}: the swarm's managers did not agree in time ({words}).")
    if mutation and _says(answer, NO_LEADER):
        raise _leaderless(f"{what}: the swarm has no leader now; nothing was changed ({words}).")
    raise EngineRefused(f"{words} (the Docker engine's answer to {what})", status=answer.status_code)


def _leaderless(what: str) -> LinkLost:
    return LinkLost(
        what,
        todo="Start the managers that are down: more than half of all managers have to run. If they are lost for good, "
        "this makes the one it is run on go on alone, with all services: docker swarm init --force-new-cluster",
    )


def _words(answer: requests.Response) -> str:
    """The engine's own words, without the wrapping of its inner protocol."""
    try:
        words = str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        words = answer.text.strip() or answer.reason
    return words.split(" desc = ", 1)[1] if words.startswith("rpc error:") and " desc = " in words else words


def _says(answer: requests.Response, phrases: tuple[str, ...]) -> bool:
    return answer.status_code >= 500 and any(phrase in answer.text.lower() for phrase in phrases)


def _nothing_sent(error: requests.RequestException) -> bool:
    wrapped = error.args[0] if error.args else None
    return isinstance(wrapped, MaxRetryError) and isinstance(wrapped.reason, NewConnectionError)


def _cause(error: BaseException) -> str:
    """The innermost reason, in its own words."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return str(error) or type(error).__name__


class _Connection(UnixHTTPConnection):
    def connect(self) -> None:
        """As docker-py's, but a socket that cannot connect is closed, and the error says that nothing was sent."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            sock.connect(self.unix_socket)
        except OSError as error:
            sock.close()
            raise NewConnectionError(self, f"{self.unix_socket}: {error}") from error
        self.sock = sock


class _Pool(UnixHTTPConnectionPool):
    def _new_conn(self) -> HTTPConnection:
        return _Connection(self.base_url, self.socket_path)


class _OnePool(UnixHTTPAdapter):
    """One pool for all URLs; docker-py has one per URL, each with a forwarded channel of its own that stays open."""

    def __init__(self, socket_path: str) -> None:
        super().__init__(f"http+unix://{socket_path}")
        self._pool = _Pool("http+docker://localhost", socket_path)

    def get_connection(self, url: bytes | str, proxies: object = None) -> UnixHTTPConnectionPool:
        return self._pool

    def close(self) -> None:
        self._pool.close()
        super().close()
