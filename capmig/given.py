"""What was given as inputs: their names and defaults, and reading them so that every problem is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import TypeVar

from capmig import parse as syntax

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

# Every input with its default, in the order of action.yml and the README.
DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "mode": "deploy",
        "server": "",
        "app": "",
        "token": "",
        "password": "",
        "otp": "",
        "image": "",
        "git-hash": "",
        "service": "",
        "ssh-host": "",
        "ssh-user": "root",
        "ssh-port": "22",
        "ssh-key": "",
        "ssh-key-passphrase": "",
        "ssh-known-hosts": "",
        "ssh-jump": "",
        "docker-host": "",
        "migrate-command": "",
        "migrate-entrypoint": "",
        "migrate-image": "",
        "migrate-env": "",
        "migrate-timeout": "10m",
        "backup": "none",
        "backup-source": "",
        "backup-image": "",
        "backup-command": "",
        "restore-command": "",
        "backup-timeout": "30m",
        "backup-keep": "5",
        "backup-verify": "read",
        "backup-download": "",
        "backup-download-key": "",
        "backup-id": "",
        "restore-on-failure": "true",
        "on-failure": "restore",
        "drain-timeout": "2m",
        "deploy-timeout": "5m",
        "stable-for": "10s",
        "lock-timeout": "15m",
        "verify-url": "",
        "verify-status": "200",
        "registry-username": "",
        "registry-password": "",
    }
)

SECRET = ("token", "password", "otp", "ssh-key", "ssh-key-passphrase", "registry-password")


class Given:
    """The raw texts in INPUT_* variables, and the problems found so far, one line each."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def raw(self, name: str) -> str:
        # act, Gitea and Forgejo write INPUT_SSH_HOST where GitHub's runner writes INPUT_SSH-HOST.
        key = f"INPUT_{name.upper()}"
        return self._environ.get(key) or self._environ.get(key.replace("-", "_")) or ""

    def text(self, name: str) -> str:
        return self.raw(name).strip() or DEFAULTS[name]

    def chosen(self, name: str) -> bool:
        """Whether it differs from its default: a runner fills in defaults, so more cannot be known."""
        return self.text(name) != DEFAULTS[name]

    def problem(self, name: str, what: str) -> None:
        self.problems.append(f"{name}: {what}")

    def need(self, name: str, why: str = "is required") -> str:
        text = self.text(name)
        if not text:
            self.problem(name, why)
        return text

    def required(self, name: str, parser: Callable[[str], str]) -> str:
        return self.read(name, parser, "") if self.need(name) else ""

    def read(self, name: str, parser: Callable[[str], T], empty: T) -> T:
        """The parsed text, or `empty` when there is none; after a problem too, which `parse` raises in the end."""
        text = self.text(name)
        try:
            return parser(text) if text else empty
        except ValueError as error:
            self.problem(name, str(error))
            return empty

    def choice(self, name: str, kind: type[E], otherwise: E) -> E:
        text = self.text(name)
        if text not in list(kind):
            self.problem(name, f"{syntax.shown(text)} must be one of {', '.join(kind)}")
            return otherwise
        return kind(text)

    def seconds(self, name: str, *, low: str, high: str) -> float:
        seconds = self.read(name, syntax.duration, syntax.duration(low))
        if not syntax.duration(low) <= seconds <= syntax.duration(high):
            self.problem(name, f"must be between {low} and {high}, and is {self.text(name)}")
        return seconds
