"""The ways in which one variable says where a database is: URLs, JDBC, libpq DSNs, ADO.NET strings. Pure.

A parser returns None for a text that is not written in its way, and raises ValueError, without repeating any of the
text, for one that is and has a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import unquote

# engine, host, port, user, password, database, and options by the names that libpq, MySQL or MongoDB has for them
Fields = dict[str, str]

SCHEMES: Mapping[str, str] = {
    "postgres": "postgres",
    "postgresql": "postgres",
    "postgis": "postgres",
    "pgsql": "postgres",
    "psql": "postgres",
    "cockroachdb": "",
    "mysql": "mysql",
    "mysql2": "mysql",
    "mariadb": "mariadb",
    "sqlite": "sqlite",
    "sqlite3": "sqlite",
}
# How keys are spelled elsewhere → our name; compared in lower case without blanks, hyphens and underscores.
KEYS: Mapping[str, str] = {
    **dict.fromkeys(("host", "server", "addr", "address", "networkaddress", "hostaddr"), "host"),
    **dict.fromkeys(("port",), "port"),
    **dict.fromkeys(("user", "username", "userid", "uid"), "user"),
    **dict.fromkeys(("password", "pwd"), "password"),
    **dict.fromkeys(("database", "dbname", "initialcatalog", "db"), "database"),
    **dict.fromkeys(("sslmode",), "sslmode"),
    **dict.fromkeys(("sslrootcert", "rootcertificate", "sslca", "certificateauthorityfile"), "sslrootcert"),
    **dict.fromkeys(("sslcert", "sslcertificate"), "sslcert"),
    **dict.fromkeys(("sslkey",), "sslkey"),
    **dict.fromkeys(("targetsessionattrs", "targetsessionattributes", "targetservertype"), "target_session_attrs"),
    **dict.fromkeys(("channelbinding",), "channel_binding"),
    **dict.fromkeys(("options",), "options"),
    **dict.fromkeys(("unixsocket", "socket"), "socket"),
    **dict.fromkeys(("usessl", "requiressl"), "requiressl"),
}
SSL_MODES: Mapping[str, str] = {
    **{mode: mode for mode in ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")},
    **dict.fromkeys(("disabled", "none", "false"), "disable"),
    **dict.fromkeys(("preferred",), "prefer"),
    **dict.fromkeys(("required", "trust", "true"), "require"),
    **dict.fromkeys(("verifyca", "verify_ca"), "verify-ca"),
    **dict.fromkeys(("verifyfull", "verifyidentity", "verify_identity"), "verify-full"),
}
SESSIONS: Mapping[str, str] = {
    **{attrs: attrs for attrs in ("any", "read-write", "read-only", "primary", "standby", "prefer-standby")},
    **dict.fromkeys(("master",), "primary"),
    **dict.fromkeys(("readwrite",), "read-write"),
    **dict.fromkeys(("readonly",), "read-only"),
    **dict.fromkeys(("secondary",), "standby"),
    **dict.fromkeys(("preferstandby",), "prefer-standby"),
}
# Of MongoDB's URLs, what concerns the connection. A certificate's passphrase is not among it: that is a secret.
MONGO_OPTIONS = (
    *("authSource", "authMechanism", "authMechanismProperties", "replicaSet", "directConnection", "loadBalanced"),
    *("tls", "tlsInsecure", "tlsAllowInvalidCertificates", "tlsAllowInvalidHostnames", "tlsCAFile"),
    *("tlsCertificateKeyFile", "srvServiceName", "srvMaxHosts"),
)
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9]*)(?:\+[A-Za-z0-9_]+)?://(?P<rest>.*)", re.DOTALL)
_HOST = re.compile(r"(?:\[(?P<six>[^\]]*)\]|(?P<name>[^:\[\]]*))(?::(?P<port>[0-9]*))?")
_GO_MYSQL = re.compile(
    r"""(?P<user>[^:@/]*)(?::(?P<password>.*))?@(?:tcp\((?P<host>[^)]*)\)|unix\((?P<socket>[^)]*)\))
        /(?P<database>[^?/]*)(?:\?.*)?""",
    re.DOTALL | re.VERBOSE,
)
_DSN_PAIR = re.compile(
    r"""\s*(?P<key>[A-Za-z_]+)\s*=\s*
        (?:'(?P<quoted>(?:[^'\\]|\\.)*)'|(?P<bare>(?:[^\s'\\]|\\.)*))(?=\s|$)""",
    re.DOTALL | re.VERBOSE,
)
_ADO_PAIR = re.compile(
    r"""\s*(?P<key>(?:[^=;]|==)+?)\s*=(?!=)\s*
        (?:"(?P<double>(?:[^"]|"")*)"|'(?P<single>(?:[^']|'')*)'|(?P<bare>[^;"'][^;]*|))\s*(?:;|$)""",
    re.DOTALL | re.VERBOSE,
)


def url(text: str) -> Fields | None:
    """`postgresql://user:password@host:port/database?option=…`, with several hosts, IPv6, sockets; and the others'."""
    match = _URL.fullmatch(text)
    engine = SCHEMES.get(match["scheme"].lower(), "") if match else ""
    if match is None or not engine:
        return None
    if engine == "sqlite":
        return {"engine": engine, "database": _sqlite_path(match["rest"])}
    return _authority(engine, match["rest"], unquote)


def jdbc(text: str) -> Fields | None:
    """`jdbc:postgresql://host:port/database?user=…&password=…`, of MySQL and MariaDB too; `jdbc:sqlite:path`."""
    if not text.lower().startswith("jdbc:"):
        return None
    rest = text[5:]
    if rest.lower().startswith("sqlite:"):
        return {"engine": "sqlite", "database": rest[7:].partition("?")[0].removeprefix("file:")}
    short = re.fullmatch(r"postgresql:(?!//)(?P<database>[^?]*)(?P<query>\?.*)?", rest, re.DOTALL)
    if short:  # the host left out: localhost
        rest = f"postgresql://localhost/{short['database']}{short['query'] or ''}"
    match = _URL.fullmatch(rest.replace(":loadbalance://", "://").replace(":replication://", "://"))
    engine = SCHEMES.get(match["scheme"].lower(), "") if match else ""
    if match is None or not engine:
        return None
    return _authority(engine, match["rest"], lambda part: unquote(part.replace("+", " ")))


def mongodb(text: str) -> Fields | None:
    """`mongodb://user:password@host:port,host:port/database?authSource=…`, and `mongodb+srv://host/…`.

    Who logs in does so at the database that the URL names, unless it says otherwise.
    """
    match = re.fullmatch(r"(mongodb(?:\+srv)?)://(.*)", text, re.DOTALL | re.IGNORECASE)
    if match is None:
        return None
    place, _, query = match[2].partition("?")
    authority, _, database = place.partition("/")
    userinfo, _, hosts = authority.rpartition("@")
    user, _, password = userinfo.partition(":")
    if not hosts:
        raise ValueError("it names no host")
    spelled = {name.lower(): name for name in MONGO_OPTIONS} | {"ssl": "tls"}
    pairs = [(key.lower(), unquote(value)) for key, _, value in (part.partition("=") for part in query.split("&"))]
    fields = {spelled[key]: value for key, value in pairs if key in spelled}
    fields |= {"engine": "mongodb", "scheme": match[1].lower(), **_hosts(hosts)}
    fields |= {"user": unquote(user), "password": unquote(password), "database": unquote(database)}
    if user and match[1].lower() == "mongodb" and fields.get("authMechanism", "SCRAM").startswith("SCRAM"):
        fields.setdefault("authSource", fields["database"] or "admin")
    return fields


def go_mysql(text: str) -> Fields | None:
    """`user:password@tcp(host:port)/database?…`, as Go's driver takes it; nothing in it is encoded."""
    match = _GO_MYSQL.fullmatch(text)
    if match is None:
        return None
    fields = {"engine": "mysql", **{key: match[key] or "" for key in ("user", "password", "database")}}
    if match["socket"]:
        return fields | {"socket": match["socket"]}
    return fields | _hosts(match["host"])


def libpq_dsn(text: str) -> Fields | None:
    """`host=… port=… dbname=… user=… password='…'`."""
    pairs, at = [], 0
    while at < len(text.rstrip()):
        match = _DSN_PAIR.match(text, at)
        if match is None:
            return None
        value = match["quoted"] if match["quoted"] is not None else match["bare"]
        pairs.append((match["key"], re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)))
        at = match.end()
    keys = {key for key, _ in pairs}
    if not keys & {"host", "hostaddr", "service"} or not keys & {"dbname", "user"}:
        return None
    return {"engine": "postgres", **_named(pairs)}


def ado_net(text: str) -> Fields | None:
    """`Host=…;Database=…;Username=…;Password=…` (Npgsql), `Server=…;User ID=…` (MySqlConnector), `Data Source=…`.

    Npgsql takes Host and Server alike, so the engine is only told where a key belongs to one of them.
    """
    pairs, at = [], 0
    while at < len(text.rstrip("; \t\r\n")):
        match = _ADO_PAIR.match(text, at)
        if match is None:
            return None
        value = match["bare"].strip() if match["bare"] is not None else ""
        if match["double"] is not None:
            value = match["double"].replace('""', '"')
        if match["single"] is not None:
            value = match["single"].replace("''", "'")
        pairs.append((match["key"].replace("==", "=").strip(), value))
        at = match.end()
    keys = {_spelled(key) for key, _ in pairs}
    files = [value for key, value in pairs if _spelled(key) in ("datasource", "filename", "fulluri")]
    if files and not keys & {"host", "server", "initialcatalog", "userid", "uid", "user"}:
        return {"engine": "sqlite", "database": files[0].removeprefix("file:").partition("?")[0]}
    if len(pairs) < 2 or not keys & {"host", "server"} or not keys & {"database", "initialcatalog"}:
        return None
    if keys & {"integratedsecurity", "trustedconnection", "multipleactiveresultsets", "encrypt"}:
        return None  # SQL Server
    engine = "postgres" if "host" in keys or "searchpath" in keys else ""
    if keys & {"uid", "pwd", "allowuservariables", "sslca", "charset", "convertzerodatetime", "guidformat"}:
        engine = engine or "mysql"
    return {"engine": engine, **_ports_of_hosts(_named(pairs))}


def _authority(engine: str, rest: str, decode: Callable[[str], str]) -> Fields:
    place, _, query = rest.partition("?")
    authority, _, database = place.partition("/")
    userinfo, _, hosts = authority.rpartition("@")
    user, _, password = userinfo.partition(":")
    fields = {"engine": engine, "user": _decoded(user, decode), "password": _decoded(password, decode)}
    fields |= {"database": _decoded(database, decode), **_hosts(hosts, decode)}
    pairs = [part.partition("=") for part in query.split("&") if part]
    named = _named([(_decoded(key, decode), _decoded(value, decode)) for key, _, value in pairs])
    return fields | {key: value for key, value in named.items() if value}


def _decoded(text: str, decode: Callable[[str], str]) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        # A password that nobody encoded: clients that decode leave such a sign as it is.
        return re.sub(r"(?:%[0-9A-Fa-f]{2})+", lambda match: unquote(match[0], errors="strict"), text)
    return decode(text)


def _hosts(text: str, decode: Callable[[str], str] = unquote) -> Fields:
    """`a:1,[::1]:2` as two lists joined by commas, as libpq takes them."""
    hosts, ports = [], []
    for part in text.split(","):
        match = _HOST.fullmatch(part)
        if match is None:
            raise ValueError("its host is written wrong")
        hosts.append(match["six"] if match["six"] is not None else _decoded(match["name"], decode))
        ports.append(match["port"] or "")
    return {"host": ",".join(hosts), "port": ",".join(ports) if any(ports) else ""}


def _ports_of_hosts(fields: Fields) -> Fields:
    """Npgsql takes `Host=a:1,b:2` too."""
    host = fields.get("host", "")
    if host.startswith(("/", "tcp:")) or host.count(":") > host.count(",") + 1:
        return fields
    found = _hosts(host)
    return fields | {"host": found["host"], "port": found["port"] or fields.get("port", "")}


def _sqlite_path(rest: str) -> str:
    """`sqlite:////data/app.db` is absolute, `sqlite:///app.db` is not; some write `sqlite://app.db`."""
    path = rest.partition("?")[0]
    return unquote(path.removeprefix("/") if path.startswith("/") else path)


def _spelled(key: str) -> str:
    return re.sub(r"[\s_-]", "", key).lower()


def _named(pairs: list[tuple[str, str]]) -> Fields:
    """The pairs that matter, under our names; the last one of several wins, as it does in all of these."""
    fields = {KEYS[_spelled(key)]: value for key, value in pairs if _spelled(key) in KEYS}
    if "sslmode" in fields:
        mode = SSL_MODES.get(fields["sslmode"].lower())
        if mode is None:
            raise ValueError("its TLS mode (sslmode) is none that is known")
        fields["sslmode"] = mode
    if fields.pop("requiressl", "").lower() in ("true", "1", "yes"):
        fields.setdefault("sslmode", "require")
    if "target_session_attrs" in fields:
        attrs = fields["target_session_attrs"].lower()
        fields["target_session_attrs"] = SESSIONS.get(attrs, SESSIONS.get(attrs.replace("-", ""), "any"))
    return fields


PARSERS: tuple[Callable[[str], Fields | None], ...] = (jdbc, mongodb, url, go_mysql, ado_net, libpq_dsn)


def parse(text: str) -> Fields | None:
    """The fields of a text in any of these ways; None if it is in none. ValueError says what is wrong with it."""
    for parser in PARSERS:
        fields = parser(text.strip())
        if fields is not None:
            return fields
    return None
