"""Which values are secret, and how they are taken out of a text. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, unquote, unquote_plus

# Values that anyone would guess, and small numbers such as ports: masking them would black out ordinary words all over
# the log, and would hide nothing.
BORING = re.compile(
    "true|false|yes|no|on|off|none|null|undefined|default|enabled|disabled|auto|always|never"
    "|root|admin|administrator|user|username|guest|test|demo|example|secret|password|passwd|changeme|token|key"
    "|postgres|postgresql|pgsql|mysql|mariadb|mongo|mongodb|redis|sqlite|sqlserver|mssql|database"
    "|localhost|host|server|public|private|local|production|staging|development|debug|info|warning|error"
    "|require|required|prefer|disable|verify-full|verify-ca|session|cookie|file|basic|bearer"
    "|[0-9]{1,5}",
    re.IGNORECASE,
)
SHORTEST = 4

_HUMPS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+")
_SECRET_ANYWHERE = ("password", "passwd", "passphrase", "secret", "credential", "token", "apikey", "connectionstring")
_SECRET_END = ("pass", "pwd", "key", "keys", "dsn", "salt", "pepper", "cert", "signature", "license")
_SECRET_WORD = frozenset(
    ["auth", "private", "connection", "conn", "cookie", "webhook", "pat", "sas", "pin", "otp", "pw"]
)

# Both look ahead, so that a second one within what the first took for its password is found as well.
_KEY_VALUE = re.compile(
    r"""(?=(?:password|passwd|passphrase|pwd|pass|secret|token|api[-_ ]?key|access[-_ ]?key|account[-_ ]?key
        |sharedaccess(?:key|signature)|signature|sig)\s*=\s*(?:"((?:[^"]|"")*)"|'((?:[^'\\]|''|\\.)*)'|([^;]*)))""",
    re.IGNORECASE | re.VERBOSE,
)
_URL_USER = re.compile(r"://(?=([^\s/?#@:]*)(?::(\S*))?@)")


def secrets_in_env(env: Iterable[str]) -> list[str]:
    """The values in a container's `NAME=value` environment that must not be shown, longest first.

    Whole values of variables with a secret-looking name; passwords in URLs and in connection strings of any variable;
    each also percent-decoded and -encoded. Rather one too many: a value that looks like a password may be none.
    """
    found: set[str] = set()
    for entry in env:
        name, _, value = entry.partition("=")
        if _looks_secret(name):
            found.add(value)
        found.update(_passwords_within(value))
    found |= {variant for secret in found for variant in _variants(secret)}
    return sorted((secret for secret in found if secret.strip()), key=lambda secret: (-len(secret), secret))


def worth_masking(value: str) -> bool:
    """False for what is shorter than 4 characters, a common word, or a number of at most 5 digits."""
    word = value.strip()
    return len(word) >= SHORTEST and not BORING.fullmatch(word)


def redact(text: str, secrets: Iterable[str]) -> str:
    """The text with every occurrence of a secret, overlapping ones too, replaced by `***`."""
    spans = sorted((at, at + len(secret)) for secret in secrets for at in _occurrences(secret, text))
    shown, end = [], 0
    for start, stop in spans:
        if start >= end:
            shown += [text[end:start], "***"]
        end = max(end, stop)
    return "".join([*shown, text[end:]])


def _occurrences(secret: str, text: str) -> Iterator[int]:
    at = text.find(secret) if secret else -1
    while at >= 0:
        yield at
        at = text.find(secret, at + 1)


def _looks_secret(name: str) -> bool:
    words = [word.lower() for word in _HUMPS.split(name) if word]
    joined = "".join(words)
    return any(part in joined for part in _SECRET_ANYWHERE) or any(
        word.endswith(_SECRET_END) or word in _SECRET_WORD for word in words
    )


def _passwords_within(value: str) -> Iterator[str]:
    for found in _KEY_VALUE.finditer(value):
        double, single, plain = found.groups()
        if double is not None:
            yield from (double, double.replace('""', '"'))
        elif single is not None:
            yield from (single, single.replace("''", "'"), re.sub(r"\\(.)", r"\1", single))
        else:
            # ADO.NET's value ends at `;` only, a URL query's at `&`, StackExchange.Redis's at `,`, libpq's at a space.
            yield from (
                plain.strip(),
                *(re.split(ends, plain.strip())[0] for ends in ("[&]", "[&,]", r"[&\s]", r"[&,\s]")),
            )
    for found in _URL_USER.finditer(value):
        user, password = found.groups()
        if password is None:
            yield user  # a token alone, such as in a Sentry DSN
            continue
        # Written without percent-encoding, a password may hold `@`, and others may follow it in the URL.
        parts = password.split("@")
        yield from ("@".join(parts[:count]) for count in range(1, len(parts) + 1))
    # Go's MySQL driver: user:password@tcp(host)/database
    yield from re.findall(r"^[^:/\s]+:(.+)@(?:tcp|unix)\(", value)


def _variants(secret: str) -> set[str]:
    return {unquote(secret), unquote_plus(secret), quote(secret, safe="")}
