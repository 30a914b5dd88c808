"""Logins and sessions."""

from __future__ import annotations

import hmac
import secrets
import threading
import time
from collections import deque
from typing import Any

from tests.sandbox.caprover.control import Switches
from tests.sandbox.caprover.store import Declined

CORRUPTED = Declined(1106, "Auth token corrupted")
TOO_LONG = (
    "password is too long - maximum 29 characters. If you had previously set a password longer than 29 characters, "
    "please use the first 29 characters."
)
BACK_OFF = 30.0


class Sessions:
    """Sessions of the one administrator. `end` is what a restart of CapRover does to them."""

    def __init__(self, password: str, switches: Switches) -> None:
        self._password = password
        self._switches = switches
        self._lock = threading.Lock()
        self._live: set[str] = set()
        self._ended: set[str] = set()
        self._wrong: deque[float] = deque(maxlen=5)

    def login(self, body: dict[str, Any]) -> str:
        """A new session's token; Declined in every other case."""
        password = str(body.get("password") or "")
        otp = str(body.get("otpToken") or "")
        if not password:
            raise Declined(1000, "password is empty.")
        if len(password) > 29:
            raise Declined(1000, TOO_LONG)
        if self._switches.otp and not otp:
            raise Declined(1114, "Enter OTP token as well")
        with self._lock:
            if len(self._wrong) == 5 and time.monotonic() - self._wrong[0] < BACK_OFF:
                raise Declined(1113, "Too many wrong passwords... Wait for 30 seconds and retry.")
            if self._switches.otp == "unreachable":
                raise Declined(1000, "Pro API failed")
            if not hmac.compare_digest(password, self._password) or otp != self._switches.otp:
                self._wrong.append(time.monotonic())
                raise Declined(1105, "Invalid credentials")
            token = secrets.token_urlsafe(48)
            self._live.add(token)
            return token

    def check(self, token: str) -> None:
        """Declined unless the session lives."""
        with self._lock:
            if token in self._ended:
                raise Declined(1106, "Auth token is no longer valid. Request for a new auth token")
            if token not in self._live:
                raise CORRUPTED

    def expire(self) -> None:
        """All sessions grow too old."""
        with self._lock:
            self._live.clear()

    def end(self) -> None:
        with self._lock:
            self._ended |= self._live
            self._live.clear()
            self._wrong.clear()
