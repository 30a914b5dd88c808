"""The CapRover API: the only module that knows its URLs, headers and status codes. Observed on CapRover 1.15.3."""

from __future__ import annotations

import difflib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import requests

from capmig.caprover_http import NotCapRover, Transport, Unreachable
from capmig.errors import CapmigError, CapRoverBusy, CapRoverRefused, Refused
from capmig.ports import BuildState, Clock, Credentials

T = TypeVar("T")

CALL = 15.0  # seconds for one call, a new login included
PATIENCE, PAUSE = 30.0, 2.0  # check() outlasts a restart of CapRover, which takes about 27 s

WRONG_PASSWORD, NO_SESSION, NO_CONTENT, BACK_OFF, OTP_REQUIRED = 1105, 1106, 1108, 1113, 1114
NOT_AUTHORIZED = (1102, NO_SESSION)


class LockedOut(CapRoverBusy):
    """Too many wrong passwords were sent: nobody can log in for 30 s."""


class CapRoverClient:
    """One app on one CapRover server (`ports.CapRover`).

    With a `token` it may only deploy; with a `password` it can also ask. With both, the token deploys: it outlives
    CapRover's restarts, and a session does not.
    """

    def __init__(
        self,
        server: str,
        app: str,
        *,
        token: str = "",
        password: str = "",
        otp: str = "",
        session: requests.Session | None = None,
        clock: Clock = time,
    ) -> None:
        self._app = app
        self._token = token
        self._password = password
        self._otp = otp
        self._http = session or requests.Session()
        self._transport = Transport(server, (token, password, otp), self._http)
        self._clock = clock
        self._session = ""  # of the logged-in user, as CapRover calls it
        self._may_log_in = bool(password)
        self._deadline = 0.0

    def close(self) -> None:
        self._http.close()

    def check(self) -> list[str]:
        """Preflight: prove server, credentials and app without changing anything; returns what to warn of.

        Waits up to 30 s for a busy or starting CapRover. Refused, naming the input at fault.
        """
        warnings = []
        if self._transport.where.startswith("http://"):
            warnings.append(f"`server` is {self._transport.where}: CapRover's credentials travel unencrypted.")
        if self._token:
            self._patiently(self._check_token)
        if self._password:
            warnings += self._patiently(self._check_app)
        return warnings

    def deploy(self, image: str, git_hash: str) -> None:
        """Ask for a detached deploy of `image`, once; returns when it is queued. Errors: see `ports.CapRover`."""
        definition = json.dumps({"schemaVersion": 2, "imageName": image})
        self._begin()
        self._post_app_data({"captainDefinitionContent": definition, "gitHash": git_hash}, acts=True)

    def build(self) -> BuildState | None:
        """CapRover's word on the app's build; None without a password, or once its session is lost for good."""
        self._begin()
        try:
            data = self._as_user("GET", self._app_data) if self._may_log_in or self._session else None
        except CapRoverRefused as error:
            if not self._may_log_in:
                return None
            raise CapRoverBusy(error.what) from error
        if data is None:
            return None
        lines = [str(line).rstrip() for line in (data.get("logs") or {}).get("lines") or []]
        # While ours waits behind another build of the same app, the state is that one's. A queued build that fails
        # itself takes CapRover down, and its log with it.
        queued = any(f"An active build ({self._app}) is in progress" in line for line in lines)
        return BuildState(
            building=bool(data.get("isAppBuilding")),
            failed=bool(data.get("isBuildFailed")) and not queued,
            lines=tuple(line for line in lines if line),
        )

    def registry_credentials(self, image: str) -> Credentials | None:
        """What CapRover itself would pull `image` with; None if it has nothing, or without a password.

        Waits and refuses as `check` does.
        """
        if not self._password:
            return None
        answer = self._patiently(lambda: self._as_user("GET", "/user/registries"))
        found = _registry_of(image, answer.get("registries") or [])
        return Credentials(username=found["registryUser"], password=found["registryPassword"]) if found else None

    # Preflight

    def _check_token(self) -> list[str]:
        if not (self._token.isascii() and self._token.isprintable()):
            raise Refused(["token: it holds characters that no app token has, such as a line break"])
        try:
            # Without content a right token is told 1108 and a wrong one 1106, both before anything is queued.
            self._post_app_data({}, acts=False)
        except CapRoverRefused as error:
            if error.status in NOT_AUTHORIZED:
                raise Refused(
                    [f"token: CapRover does not accept it for the app {self._app!r} (`app`): {error.what}"],
                    todo=f"In CapRover, open {self._app!r}, tab Deployment, enable its app token and copy it.",
                ) from error
            if error.status != NO_CONTENT:
                raise
        return []

    def _check_app(self) -> list[str]:
        if not self._session:
            self._log_in_for_check()
        apps = {str(app["appName"]): app for app in self._apps()}
        app = apps.get(self._app)
        if app is None:
            near = difflib.get_close_matches(self._app, apps, n=3, cutoff=0.5)
            hint = f"; near names: {', '.join(near)}" if near else ""
            raise Refused([f"app: CapRover has no app {self._app!r}{hint}"])
        warnings = []
        if int(app.get("instanceCount", 1)) == 0:
            warnings.append(f"CapRover has the instance count 0 stored for {self._app}: the deploy sets it to that.")
        if building := [name for name, other in apps.items() if other.get("isAppBuilding")]:
            warnings.append(f"CapRover is building {', '.join(building)} now: a deploy waits behind it.")
        if str(app.get("preDeployFunction") or "").strip():
            warnings.append(f"{self._app} has a preDeployFunction in CapRover: it will run too, during the deploy.")
        return warnings

    def _log_in_for_check(self) -> None:
        try:
            self._log_in()
        except CapRoverRefused as error:
            if isinstance(error, NotCapRover):
                raise
            at_fault = "otp" if error.status == OTP_REQUIRED or (self._otp and error.status == 1000) else "password"
            raise Refused([f"{at_fault}: {error.what}"], todo=error.todo) from error

    def _patiently(self, check: Callable[[], T]) -> T:
        """Run a step of the preflight, waiting for a busy CapRover; what it cannot overcome is Refused."""
        give_up = self._clock.monotonic() + PATIENCE
        while True:
            self._begin()
            try:
                return check()
            except LockedOut as error:
                raise Refused([f"password: {error.what}"], todo=error.todo) from error
            except (Unreachable, CapRoverRefused) as error:
                raise Refused([f"server: {error.what}"], todo=error.todo) from error
            except CapRoverBusy as error:
                if self._clock.monotonic() + PAUSE > give_up:
                    raise Refused([f"server: {error.what}"], todo="Run this again later.") from error
            self._clock.sleep(PAUSE)

    # Requests

    @property
    def _app_data(self) -> str:
        return f"/user/apps/appData/{quote(self._app, safe='')}"

    def _apps(self) -> list[dict[str, Any]]:
        return list(self._as_user("GET", "/user/apps/appDefinitions").get("appDefinitions") or [])

    def _post_app_data(self, body: Mapping[str, str], *, acts: bool) -> None:
        # Attached deploys that get queued are never answered and hold the whole server's lock.
        path = self._app_data + "?detached=1"
        if self._token:
            self._send("POST", path, body, {"x-captain-app-token": self._token}, acts=acts)
        else:
            self._as_user("POST", path, body, acts=acts)

    def _as_user(
        self, method: str, path: str, body: Mapping[str, str] | None = None, *, acts: bool = False
    ) -> dict[str, Any]:
        """Send with the session; log in if there is none, or if it has ended meanwhile."""
        if self._session:
            try:
                return self._send(method, path, body, {"x-captain-auth": self._session}, acts=acts)
            except CapRoverRefused as error:
                if error.status not in NOT_AUTHORIZED:
                    raise
                self._session = ""
        self._log_in()
        return self._send(method, path, body, {"x-captain-auth": self._session}, acts=acts)

    def _log_in(self) -> None:
        if not self._may_log_in:
            raise CapRoverRefused(
                "CapRover's session has ended (it restarted), and a new login is not possible"
                + (": a one-time password works once" if self._otp else ""),
                status=NO_SESSION,
                todo="Deploy with an app token (`token`): it outlives CapRover's restarts.",
            )
        body = {"password": self._password} | ({"otpToken": self._otp} if self._otp else {})
        try:
            data = self._send("POST", "/login", body)
        except CapRoverRefused as error:
            raise self._login_error(error) from error
        self._session = str(data.get("token") or "")
        # A wrong second attempt would count towards the lock-out, which is for everyone.
        self._may_log_in = not self._otp

    def _login_error(self, error: CapRoverRefused) -> CapmigError:
        if error.status == BACK_OFF:
            return LockedOut(
                f"CapRover takes no login from anyone now, right password or not: {error.what}",
                todo="Somebody sent wrong passwords; this ends 30 s after the last one.",
            )
        if isinstance(error, NotCapRover):
            return error
        self._may_log_in = False
        if error.status == WRONG_PASSWORD:
            return CapRoverRefused("CapRover does not accept this password", status=error.status)
        if error.status == OTP_REQUIRED:
            return CapRoverRefused(
                f"CapRover {'did not accept the one-time password' if self._otp else 'asks for a one-time password'}: "
                f"{error.what}",
                status=error.status,
                todo="Use an app token (`token`): it needs none.",
            )
        return error

    def _begin(self) -> None:
        self._deadline = time.monotonic() + CALL

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, str] | None,
        headers: Mapping[str, str] | None = None,
        *,
        acts: bool = False,
    ) -> dict[str, Any]:
        return self._transport.send(method, path, deadline=self._deadline, body=body, headers=headers, acts=acts)


def _registry_of(image: str, registries: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The registry that CapRover takes for an image, where that is the image's own.

    Source: https://github.com/caprover/caprover/blob/master/src/user/DockerRegistryHelper.ts
    """
    for registry in registries:
        prefix = registry.get("registryImagePrefix")
        if image.startswith(f"{registry['registryDomain']}/{prefix + '/' if prefix else ''}"):
            return registry
    first, *rest = image.split("/")
    # CapRover takes every image with one slash for Docker Hub's; a login must not go to a registry it is not for.
    a_user = len(rest) == 1 and "." not in first and ":" not in first and first != "localhost"
    if a_user or first == "docker.io" or first.endswith((".docker.io", ".docker.com")):
        return next((one for one in registries if one["registryDomain"] == "registry-1.docker.io"), None)
    return None
