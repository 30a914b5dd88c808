"""The small languages that inputs are written in. Each parser raises ValueError with one line that says what is wrong.

The lines never repeat what may be a secret.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import yaml

_DURATION = re.compile(r"(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s)?")
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?\.?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
# https://github.com/distribution/reference/blob/main/regexp.go
_REGISTRY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_BACKUP = re.compile(r"[a-z0-9-]+/[0-9]{8}T[0-9]{6}Z-[A-Za-z0-9._-]+")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_APP = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_SHELL_WORDS = frozenset({"&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1"})


def shown(text: str) -> str:
    """Text of an input in quotes, on one line, cut to a readable length; not for secrets."""
    return repr(text if len(text) <= 80 else text[:79] + "…")


def duration(text: str) -> float:
    """Seconds from `90s`, `10m` or `1h30m`."""
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise ValueError(f"{shown(text)} is not a duration: write it like 90s, 10m or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(hours * 3600 + minutes * 60 + seconds)


def number(text: str, *, low: int, high: int) -> int:
    """A whole number between `low` and `high`."""
    if re.fullmatch(r"[0-9]{1,9}", text) is None or not low <= int(text) <= high:
        raise ValueError(f"{shown(text)} is not a number from {low} to {high}")
    return int(text)


def yes_or_no(text: str) -> bool:
    """`true` or `false`."""
    if text not in ("true", "false"):
        raise ValueError(f"{shown(text)} must be true or false")
    return text == "true"


def word(text: str) -> str:
    """Text without blanks or control characters; for secrets too."""
    if any(character.isspace() or not character.isprintable() for character in text):
        raise ValueError("has a blank, a line break or a control character in it")
    return text


def backup_id(text: str) -> str:
    """A backup's name, as the output backup-id and mode list-backups give it."""
    if _BACKUP.fullmatch(text) is None:
        raise ValueError(f"{shown(text)} is no backup such as shop/20260102T030405Z-shop-1.4.0.dump")
    return text


def app_name(text: str) -> str:
    """A name that CapRover allows for an app."""
    if _APP.fullmatch(text) is None:
        raise ValueError(f"{shown(text)} is no CapRover app name: lower-case letters, digits and single hyphens only")
    return text


def image(text: str) -> str:
    """An image reference: `[REGISTRY/]REPOSITORY[:TAG][@sha256:…]`."""
    if len(text.split()) > 1 or "," in text:
        raise ValueError("holds several images: give one, such as the first line of what docker/metadata-action prints")
    if "://" in text:
        raise ValueError(f"{shown(text)} is no image reference: leave out what stands before ://")
    name, at, digest = text.partition("@")
    if at and _DIGEST.fullmatch(digest) is None:
        raise ValueError(f"{shown(text)} has a wrong digest: @sha256: and 64 hexadecimal digits are expected")
    if name.rfind(":") > name.rfind("/"):
        name, _, tag = name.rpartition(":")
        if _TAG.fullmatch(tag) is None:
            raise ValueError(f"{shown(text)} has an empty or wrong tag after the colon")
    registry, slash, repository = name.partition("/")
    if not slash or not (registry == "localhost" or "." in registry or ":" in registry):
        registry, repository = "", name
    if repository != repository.lower():
        right = text.replace(repository, repository.lower(), 1)
        raise ValueError(f"{shown(text)} has upper-case letters in the repository: write {shown(right)}")
    if _REPOSITORY.fullmatch(repository) is None or (registry and _REGISTRY.fullmatch(registry) is None):
        raise ValueError(f"{shown(text)} is no image reference such as ghcr.io/acme/shop:1.4.0")
    return text


def server(text: str) -> str:
    """The root URL of CapRover, without a slash at its end; a bare host means https, a dashboard path is dropped."""
    url = _http_url(text if "://" in text else f"https://{text}")
    return f"{url.scheme}://{url.netloc.lower()}"


def http_url(text: str) -> str:
    """A full http or https URL."""
    _http_url(text)
    return text


def _http_url(text: str) -> SplitResult:
    try:
        url = urlsplit(word(text))
        host, _ = url.hostname, url.port  # the port is checked only when it is read
    except ValueError:
        raise ValueError("is not a URL such as https://captain.apps.example.com") from None
    if "@" in url.netloc:
        raise ValueError("must not carry a user name or password: take out the part before @")
    if url.scheme not in ("http", "https") or not host or not (":" in host or _HOST.fullmatch(host)):
        raise ValueError("must be an http or https URL such as https://captain.apps.example.com")
    return url


@dataclass(frozen=True, kw_only=True)
class Destination:
    """Where SSH goes. An empty user and a port of 0 were not given; an IPv6 host is without brackets."""

    host: str
    user: str = ""
    port: int = 0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user}@{host}".removeprefix("@") + (f":{self.port}" if self.port else "")


def destination(text: str) -> Destination:
    """`host`, `user@host`, `host:port`, `ssh://user@host:port`; IPv6 bare, or in brackets when a port follows."""
    rest = text.removeprefix("ssh://").removesuffix("/" if text.startswith("ssh://") else "")
    name, at, rest = rest.rpartition("@")
    if ":" in name:
        raise ValueError("must not carry a password: use ssh-key")
    if at:
        user(name)
    if rest.startswith("["):
        host, bracket, tail = rest[1:].partition("]")
        if not bracket or not _is_ipv6(host) or (tail and not tail.startswith(":")):
            raise ValueError(f"{shown(text)} is not like [IPV6-ADDRESS]:port")
        return Destination(host=host, user=name, port=port(tail[1:]) if tail else 0)
    if _is_ipv6(rest):
        return Destination(host=rest, user=name)
    host, colon, tail = rest.partition(":")
    if _HOST.fullmatch(host) is None:
        raise ValueError(f"{shown(text)} is not like host, user@host, host:port or ssh://user@host:port")
    return Destination(host=host, user=name, port=port(tail) if colon else 0)


def user(text: str) -> str:
    """A user name that ssh cannot take for an option."""
    if _USER.fullmatch(text) is None:
        raise ValueError(f"{shown(text)} is not a user name")
    return text


def jumps(text: str) -> str:
    """One or more destinations joined by commas, as OpenSSH's ProxyJump takes them."""
    return ",".join(str(destination(hop.strip())) for hop in text.split(","))


def port(text: str) -> int:
    """A TCP port."""
    return number(text, low=1, high=65535)


def http_status(text: str) -> int:
    """A status code of HTTP."""
    return number(text, low=100, high=599)


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return re.fullmatch(r"[0-9A-Za-z:.%_-]+", text) is not None  # a zone, after %, may be any text to Python


def unix_socket(text: str) -> str:
    """The path in a `unix:///path` URL."""
    path = text.removeprefix("unix://")
    if path == text or not path.startswith("/"):
        raise ValueError(f"{shown(text)} is not like unix:///var/run/docker.sock; for another machine use ssh-host")
    return path


def path_within(text: str, folder: Path) -> Path:
    """The absolute path of a file within the folder, given relative to it or absolute; no link leads out of it."""
    path = folder / text
    if not text.isprintable() or ".." in path.parts or not path.is_relative_to(folder):
        raise ValueError(f"{shown(text)} is not within the workspace: give a path relative to it, without ..")
    if text.endswith("/") or path == folder or path.is_dir():
        raise ValueError(f"{shown(text)} is a folder: give the name of the file as well")
    if not path.parent.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{shown(text)} leads out of the workspace by a link")
    return path


def public_key(text: str) -> str:
    """What a file is encrypted to: lines of age's and of OpenSSH's public keys, or one for OpenSSL in PEM."""
    if "PRIVATE KEY" in text or "AGE-SECRET-KEY" in text:
        raise ValueError("is a private key: give its public half, and keep this one to yourself")
    if text.startswith(("-----BEGIN CERTIFICATE-----", "-----BEGIN PUBLIC KEY-----")):
        return text
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if odd := [line for line in lines if not line.startswith(("age1", "ssh-ed25519 ", "ssh-rsa "))]:
        raise ValueError(f"{shown(odd[0])} is no public key of age, OpenSSH or OpenSSL, nor a certificate in PEM")
    return "\n".join(lines)


def command(text: str) -> tuple[str, ...]:
    """Words of a command, written as one shell-quoted line or as a YAML list. No shell ever sees them."""
    if text.startswith("[") or re.match(r"-\s", text):
        return tuple(_strings(text))
    if "\n" in text:
        raise ValueError("has more than one line: write one command, or a YAML list with one word an item")
    try:
        words = tuple(shlex.split(text))
    except ValueError:
        raise ValueError("has a quote that is not closed, or a backslash at its end") from None
    if shell := [each for each in words if each in _SHELL_WORDS or each.endswith(";")]:
        raise ValueError(f"is run without a shell, so {shown(shell[0])} means nothing: write sh -c '…', or a YAML list")
    return _without_nul(words)


def readable_command(text: str) -> tuple[str, ...]:
    """Words of a command that are kept where others can read them: none may have a password in a URL."""
    words = command(text)
    if any(re.search(r"://[^\s/@:]*:[^\s/@$]+@", word) for word in words):
        raise ValueError(
            "has a password in a URL, and is kept readable: have a shell take it from the app's environment, "
            "as in sh -c 'dump \"$DATABASE_URL\"'"
        )
    return words


def _strings(text: str) -> tuple[str, ...]:
    node = _yaml(text)
    if not isinstance(node, yaml.SequenceNode) or not node.value:
        raise ValueError("is not a YAML list of words")
    return _without_nul(tuple(_scalar(item) for item in node.value))


def env(text: str) -> dict[str, str]:
    """Environment variables from a YAML mapping. Values are taken as typed: `yes` is the text yes."""
    node = _yaml(text)
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("is not a YAML mapping: write one NAME: value a line")
    found: dict[str, str] = {}
    for key, value in node.value:
        name = _scalar(key)
        if not name or "=" in name or any(character.isspace() or not character.isprintable() for character in name):
            raise ValueError(f"{shown(name)} cannot be the name of an environment variable")
        if name in found:
            raise ValueError(f"has {shown(name)} twice")
        found[name] = _scalar(value)
    _without_nul(tuple(found.values()))
    return found


def _yaml(text: str) -> yaml.Node | None:
    try:
        # The untyped tree, not values: 010, 1e3, yes and dates stay what was typed.
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        # PyYAML's own words quote the text, which may be a secret: only the place is told.
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ValueError(f"is not valid YAML, at its line {line}") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):  # escapes such as "\UFFFFFFFF"; many brackets
        raise ValueError("is not valid YAML") from None


def _scalar(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError("may hold plain texts and numbers only, no lists or mappings inside")
    return "" if node.tag == "tag:yaml.org,2002:null" else str(node.value)


def _without_nul(words: tuple[str, ...]) -> tuple[str, ...]:
    if any("\0" in each for each in words):
        raise ValueError("holds a NUL character")
    return words
