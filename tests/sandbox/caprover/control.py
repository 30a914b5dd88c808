"""What a test may switch while the stand-in runs, and the log of the requests that came."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

SECRET_KEYS = {"password", "otpToken", "registryPassword", "appDeployToken", "value"}

Counter = Literal["busy", "errors", "lost_requests", "lost_answers", "failing_service_updates"]


@dataclass
class Switches:
    """The defaults are the real CapRover. Counters count down, one for each call that they hit; times in seconds."""

    # the next N calls that would change something get 429
    busy: int = 0
    # the next N calls of any kind get this HTTP status
    errors: int = 0
    error_status: int = 502
    # the next N changing calls: the connection is closed without acting; after acting, without the answer
    lost_requests: int = 0
    lost_answers: int = 0
    # the next N service updates fail, after the definition was saved
    failing_service_updates: int = 0
    # builds wait this long, or until this is false again, before they pull
    build_delay: float = 0.0
    hold_builds: bool = False
    # every pull fails
    refuse_deploys: bool = False
    # above 0: as if behind CapRover's nginx, which answers 504 after this time, and 502 while CapRover is down
    gateway_timeout: float = 0.0
    # how long a connection without an answer stays open when there is no gateway
    hang_limit: float = 600.0
    # the one-time password that a login needs; "unreachable": needed, and cannot be checked
    otp: str = ""
    # apps that register with the service name of CapRover before 1.15
    legacy_apps: list[str] = field(default_factory=list)
    # a queued build that fails takes the whole of CapRover down
    queued_failure_crashes: bool = True
    # how long a crash takes: refused, then HTTP 500, then status 1001
    crash: list[float] = field(default_factory=lambda: [7.5, 1.5, 23.0])

    def __post_init__(self) -> None:
        self._changed = threading.Condition()

    def apply(self, changes: Mapping[str, Any]) -> None:
        """Set the named switches; ValueError for a name that is none."""
        unknown = set(changes) - {item.name for item in fields(self)}
        if unknown:
            raise ValueError(f"no such switch: {', '.join(sorted(unknown))}")
        with self._changed:
            for name, value in changes.items():
                setattr(self, name, value)
            self._changed.notify_all()

    def take(self, counter: Counter) -> bool:
        """Whether this call is one of those that the counter is to hit."""
        with self._changed:
            left = int(getattr(self, counter))
            if left:
                setattr(self, counter, left - 1)
            return left > 0

    def wait_to_build(self, stop: threading.Event) -> None:
        """Return when builds may go on, or when `stop` is set."""
        stop.wait(self.build_delay)
        with self._changed:
            while self.hold_builds and not stop.is_set():
                self._changed.wait(0.1)


class RequestLog:
    """Each request as it came: time, method, path, kind of authentication, body with its secrets masked."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._entries: list[dict[str, Any]] = []

    def add(self, *, method: str, path: str, auth: str, body: Any) -> dict[str, Any]:
        """The new entry; its `http` is to be set once the answer is known, and stays None without one."""
        entry = {"time": time.time(), "method": method, "path": path, "auth": auth, "body": mask(body), "http": None}
        with self._lock:
            self._entries.append(entry)
            if self._file:
                with self._file.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
        return entry

    def entries(self) -> list[dict[str, Any]]:
        with self._lock:
            return [dict(entry) for entry in self._entries]


def mask(value: Any) -> Any:
    """A copy without what nobody should read in a log."""
    if isinstance(value, dict):
        return {key: "***" if key in SECRET_KEYS and item else mask(item) for key, item in value.items()}
    if isinstance(value, list):
        return [mask(item) for item in value]
    return value
