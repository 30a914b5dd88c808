"""One request to CapRover and its answer, or the one error that says whether it may have taken effect."""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import requests
from urllib3.exceptions import HTTPError, NewConnectionError

from capmig.errors import CapmigError, CapRoverBusy, CapRoverRefused, FateUnknown

CONNECT, READ = 5.0, 10.0  # seconds
LEAST = 3.0  # do not send what has less time than this to be answered
LARGEST = 32 * 2**20  # bytes of an answer; the definitions of hundreds of apps stay far below

OK = (100, 101)
STARTING = (1001, 1101)

# HTTP statuses after which a request had no effect. 500 is among them: a detached deploy is answered with 101 in the
# same turn in which it is queued, so a failed build can no longer show here; what can is CapRover starting, or failing
# before it queued anything. Every other 5xx (504: a proxy lost patience) leaves it open.
# https://github.com/caprover/caprover/blob/master/src/routes/user/apps/appdata/AppDataRouter.ts
NOT_ACTED = (429, 500, 502, 503)

ADDRESS = "Set `server` to the address of CapRover's dashboard, such as https://captain.example.com"


class Unreachable(CapRoverBusy):
    """No connection could be made, so nothing was sent."""


class NotCapRover(CapRoverRefused):
    """Something answers at this address, but not CapRover's API."""


class Transport:
    """Requests to one CapRover; no text of its errors holds any of `secrets`."""

    def __init__(self, server: str, secrets: Sequence[str], session: requests.Session, *, read: float = READ) -> None:
        self._base = server.rstrip("/") + "/api/v2"
        self.where = re.sub("//.*@", "//", server.rstrip("/"))  # a proxy's user and password may stand in it
        self._secrets = [secret for secret in secrets if secret]
        self._session = session
        self._read_timeout = read

    def send(
        self,
        method: str,
        path: str,
        *,
        deadline: float,
        body: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        acts: bool = False,
    ) -> dict[str, Any]:
        """Send once and return the answer's `data`; done by `deadline`, in `time.monotonic` seconds.

        CapRoverBusy: it had no effect. CapRoverRefused: CapRover's own words. A lost answer is FateUnknown if the
        request `acts`, else CapRoverBusy.
        """
        lost = FateUnknown if acts else CapRoverBusy
        left = deadline - time.monotonic()
        if left < LEAST:
            raise CapRoverBusy(f"CapRover at {self.where} answers too slowly")
        try:
            with self._session.request(
                method,
                self._base + path,
                json=body,
                # An idle connection that the server closes just as it is used again would look like a lost answer.
                headers={"x-namespace": "captain", "Connection": "close", **(headers or {})},
                timeout=(min(CONNECT, left), min(self._read_timeout, left)),
                allow_redirects=False,  # followed, a POST would silently become a GET
                stream=True,
            ) as response:
                text = _read(response, deadline)
        except (requests.RequestException, HTTPError, TimeoutError) as error:
            # Not chained: the address may hold a password, and requests repeats it in some of its errors.
            raise self._transport_error(error, lost) from None
        return self._data(response, text, lost)

    def _transport_error(self, error: Exception, lost: type[CapmigError]) -> CapmigError:
        causes = list(_causes(error))
        reason = getattr(causes[-1], "strerror", None) or type(causes[-1]).__name__
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return Unreachable(f"the certificate of {self.where} is not trusted: {cause.verify_message}")
            if isinstance(cause, ssl.SSLError) and lost is CapRoverBusy:
                return Unreachable(f"no TLS connection to {self.where}: {cause.reason}")
            if isinstance(cause, requests.ConnectTimeout | requests.exceptions.ProxyError | NewConnectionError):
                return Unreachable(f"cannot connect to {self.where}: {reason}")
        if isinstance(error, ValueError):
            return NotCapRover("this is no web address", status=0, todo=ADDRESS)
        return lost(f"no answer from CapRover at {self.where}: {reason}")

    def _data(self, response: requests.Response, text: str, lost: type[CapmigError]) -> dict[str, Any]:
        code = response.status_code
        if 300 <= code < 400:
            target = re.match(r"(https?://)(?:[^/]*@)?([^/?#]+)", response.headers.get("location", ""))
            address = "".join(target.groups()) if target else "another page"
            todo = f"Set `server` to {address}" if target else ADDRESS
            raise NotCapRover(f"{self.where} redirects to {address}", status=code, todo=todo)
        said = self._excerpt(text)
        if code in NOT_ACTED:
            raise CapRoverBusy(f"CapRover is busy or starting (HTTP {code}): {said}")
        if code >= 500:
            raise lost(f"no answer from CapRover at {self.where} (HTTP {code}): {said}")
        try:
            answer = json.loads(text)
            status, data = int(answer["status"]), dict(answer.get("data") or {})
        except (ValueError, TypeError, KeyError):
            what = f"{self.where} does not answer like CapRover's API (HTTP {code}): {said}"
            if code < 300 and lost is FateUnknown:
                raise FateUnknown(what) from None
            raise NotCapRover(what, status=code, todo=ADDRESS) from None
        description = self._excerpt(str(answer.get("description", "")))
        if status in STARTING:
            raise CapRoverBusy(f"CapRover is starting: {description}")
        if status not in OK:
            raise CapRoverRefused(f"{description} (status {status})", status=status)
        return data

    def _excerpt(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        line = " ".join(text.split())
        return line if len(line) <= 300 else line[:299] + "…"


def _read(response: requests.Response, deadline: float) -> str:
    content = b""
    # Not iter_content: it waits until a chunk is full, and a byte now and then would hold it for hours.
    while chunk := response.raw.read1(65536, decode_content=True):
        content += chunk
        if len(content) > LARGEST or time.monotonic() > deadline:
            raise TimeoutError("the answer is too long or too slow")
    return content.decode("utf-8", "replace")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what lies beneath it: requests and urllib3 hide that in `args`, `reason`, or the context."""
    seen: list[BaseException] = []
    current: object = error
    while isinstance(current, BaseException) and current not in seen:
        seen.append(current)
        yield current
        inner = [getattr(current, "reason", None), *reversed(current.args), current.__cause__, current.__context__]
        current = next((one for one in inner if isinstance(one, BaseException)), None)
