"""How the database is found in an app's environment."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capmig.backup import dialects
from capmig.backup.connection import Connection, find
from capmig.backup.subject import mongo_uri
from capmig.errors import Refused

# Whatever may stand in a variable and be a name or a password: no NUL, which no environment can hold.
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
names = texts.filter(lambda text: text == text.strip())
passwords = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


def connection(*env: str, engine: str = "auto", source: str = "") -> Connection:
    return find(env, engine=engine, source=source).connection


def is_(found: Connection, engine: str = "postgres", **fields: Any) -> bool:
    """Whether the connection is that of the examples, but for these fields."""
    wanted = {"host": "srv-captain--db", "port": "5432", "user": "shop", "password": "p@ss", "database": "shop"}
    wanted |= fields
    return found.engine == engine and all(getattr(found, name) == value for name, value in wanted.items())


@pytest.mark.parametrize(
    "line",
    [
        "DATABASE_URL=postgres://shop:p%40ss@srv-captain--db:5432/shop",
        "DATABASE_URL=postgresql+asyncpg://shop:p%40ss@srv-captain--db/shop",
        "ANY_NAME=postgresql://shop:p@ss@srv-captain--db/shop?sslmode=disable",
        "DATABASE_URL=postgresql:///shop?host=srv-captain--db&user=shop&password=p%40ss",
        "DATABASE_URL=postgis://shop:p%40ss@srv-captain--db:5432/shop",
        "JDBC_URL=jdbc:postgresql://srv-captain--db:5432/shop?user=shop&password=p%40ss&currentSchema=x",
        "DSN=host=srv-captain--db port=5432 dbname=shop user=shop password='p@ss' connect_timeout=3",
        "DSN=dbname = shop user = shop password = p@ss host = srv-captain--db",
        "ConnectionStrings__Default=Host=srv-captain--db;Database=shop;Username=shop;Password=p@ss",
        "ConnectionStrings__Db=Server=srv-captain--db;Port=5432;Database=shop;User Id=shop;Password='p@ss';",
        'ConnectionStrings__Db=host = srv-captain--db ; database="shop";User Name=shop; PASSWORD = "p@ss" ',
        "ConnectionStrings__Db=Host=srv-captain--db:5432;Database=shop;Username=shop;Password=p@ss",
    ],
)
def test_find__postgres_in_one_variable(line: str) -> None:
    """Each common way to write a PostgreSQL connection into one variable is understood."""
    assert is_(connection("PATH=/bin", line, "REDIS_URL=redis://:x@srv-captain--redis:6379/0"))


@pytest.mark.parametrize(
    "lines",
    [
        "PGHOST=srv-captain--db PGUSER=shop PGPASSWORD=p@ss PGDATABASE=shop",
        "PGHOST=srv-captain--db PGUSER=shop PGPASSWORD=p@ss",
        "DB_CONNECTION=pgsql DB_HOST=srv-captain--db DB_PORT=5432 DB_DATABASE=shop DB_USERNAME=shop DB_PASSWORD=p@ss",
        "DB_ENGINE=django.db.backends.postgresql DB_HOST=srv-captain--db DB_NAME=shop DB_USER=shop DB_PASSWORD=p@ss",
        "SQL_HOST=srv-captain--db SQL_PORT=5432 SQL_DATABASE=shop SQL_USER=shop SQL_PASSWORD=p@ss",
        "POSTGRES_HOST=srv-captain--db POSTGRES_DB=shop POSTGRES_USER=shop POSTGRES_PASSWORD=p@ss",
        "S_URL=jdbc:postgresql://srv-captain--db/shop S_USERNAME=shop S_PASSWORD=p@ss",
        "DATABASE_URL=postgres://shop:p@ss@srv-captain--db/shop PGHOST=srv-captain--db PGUSER=shop PGDATABASE=shop",
        "A_HOST=srv-captain--db A_NAME=shop A_USERNAME=shop A_PASSWORD=p@ss A_ADAPTER=postgresql M_HOST=m M_USER=x",
    ],
)
def test_find__postgres_in_several_variables(lines: str) -> None:
    """The split variables of libpq, Laravel, Django, Rails and Spring are put together; equal ones are one."""
    assert is_(connection(*lines.split()))


@pytest.mark.parametrize(
    ("line", "engine", "port"),
    [
        ("DATABASE_URL=mysql://shop:p%40ss@srv-captain--db/shop", "mysql", "3306"),
        ("DATABASE_URL=mysql2://shop:p%40ss@srv-captain--db:3307/shop?encoding=utf8mb4", "mysql", "3307"),
        ("DATABASE_URL=mariadb+mariadbconnector://shop:p%40ss@srv-captain--db/shop", "mariadb", "3306"),
        ("U=jdbc:mariadb://srv-captain--db:3306/shop?user=shop&password=p%40ss", "mariadb", "3306"),
        ("DSN=shop:p@ss@tcp(srv-captain--db:3306)/shop?parseTime=true", "mysql", "3306"),
        ("C=Server=srv-captain--db;Database=shop;Uid=shop;Pwd=p@ss;SslMode=None", "mysql", "3306"),
        ("C=server=srv-captain--db;port=3306;database=shop;user=shop;password=p@ss", "mysql", "3306"),
    ],
)
def test_find__mysql(line: str, engine: str, port: str) -> None:
    """MySQL and MariaDB are told apart where the text does, and MySqlConnector's strings are understood."""
    assert is_(connection(line), engine, port=port)


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("DATABASE_URL=sqlite:////data/app.db", "/data/app.db"),
        ("DATABASE_URL=sqlite+aiosqlite:////data/app%20x.db?mode=rw", "/data/app x.db"),
        ("DATABASE_URL=sqlite:///app.db", "app.db"),
        ("ConnectionStrings__Default=Data Source=/data/app.db", "/data/app.db"),
        ("ConnectionStrings__Default=Data Source=/data/app.db;Cache=Shared", "/data/app.db"),
        ("JDBC=jdbc:sqlite:/data/app.db", "/data/app.db"),
    ],
)
def test_find__sqlite(line: str, path: str) -> None:
    """A SQLite database is a file."""
    found = connection(line)
    assert (found.engine, found.database) == ("sqlite", path)


@pytest.mark.parametrize(
    ("lines", "uri", "database"),
    [
        (
            "MONGO_URL=mongodb://shop:p%40ss@srv-captain--db/shop",
            "mongodb://shop:p%40ss@srv-captain--db:27017/?authSource=shop",
            "shop",
        ),
        (
            "MONGODB_URI=mongodb://root:p@ss@a:1,[::1],b:2/shop?authSource=admin&replicaSet=rs0&w=majority",
            "mongodb://root:p%40ss@a:1,[::1]:27017,b:2/?authSource=admin&replicaSet=rs0",
            "shop",
        ),
        (
            "X=mongodb+srv://shop:p%40ss@cluster0.abc.mongodb.net/shop?retryWrites=true",
            "mongodb+srv://shop:p%40ss@cluster0.abc.mongodb.net/",
            "shop",
        ),
        (
            "X=mongodb://h/shop?ssl=true&tlscafile=/run/ca%20x.pem&directconnection=true&readPreference=secondary",
            "mongodb://h:27017/?directConnection=true&tls=true&tlsCAFile=%2Frun%2Fca%20x.pem",
            "shop",
        ),
        (
            "X=mongodb://CN=me@h/shop?authMechanism=MONGODB-X509&tls=true&tlsCertificateKeyFile=/run/me.pem",
            "mongodb://CN%3Dme@h:27017/?authMechanism=MONGODB-X509&tls=true&tlsCertificateKeyFile=%2Frun%2Fme.pem",
            "shop",
        ),
        (
            "MONGO_URL=mongodb://u:p@h:27017/ MONGO_DB=shop",
            "mongodb://u:p@h:27017/?authSource=admin",
            "shop",
        ),
        (
            "MONGO_URL=mongodb://h:27017 MONGO_USERNAME=u MONGO_PASSWORD=p MONGO_DATABASE=shop",
            "mongodb://u:p@h:27017/",
            "shop",
        ),
        (
            "MONGO_HOST=h MONGO_PORT=27018 MONGO_DB=shop MONGO_USER=u MONGO_PASSWORD=p@ss MONGO_SSLMODE=require",
            "mongodb://u:p%40ss@h:27018/?tls=true",
            "shop",
        ),
        ("DB_HOST=h DB_PORT=27017 DB_NAME=shop DB_USER=u", "mongodb://u@h:27017/", "shop"),
    ],
)
def test_find__mongodb(lines: str, uri: str, database: str) -> None:
    """Several hosts, TLS, replica sets, and where the user is known; other options are left out."""
    found = connection(*lines.split())
    assert (found.engine, found.database) == ("mongodb", database)
    assert mongo_uri(found) == uri


def test_find__mongodb_and_another() -> None:
    """An app with two databases has to say which one is meant."""
    env = ["DATABASE_URL=postgres://a@h/one", "MONGO_URL=mongodb://h/two"]
    with pytest.raises(Refused, match="DATABASE_URL, MONGO_URL"):
        connection(*env)
    assert connection(*env, engine="mongodb").database == "two"


def test_find__sqlite_of_laravel() -> None:
    """DB_CONNECTION=sqlite needs no host."""
    assert connection("DB_CONNECTION=sqlite", "DB_DATABASE=/data/app.db").database == "/data/app.db"


@pytest.mark.parametrize(
    ("line", "host", "port"),
    [
        ("U=postgres://shop:p@[::1]:5433/shop", "::1", "5433"),
        ("U=postgres://shop:p@a:1,[fe80::2]:2,c/shop", "a,fe80::2,c", "1,2,"),
        ("U=postgres://shop:p@%2Fvar%2Frun%2Fpostgresql/shop", "/var/run/postgresql", "5432"),
        ("U=postgresql://shop@/shop?host=/var/run/postgresql", "/var/run/postgresql", "5432"),
        ("U=Host=a:1,b:2;Database=shop;Username=shop", "a,b", "1,2"),
        ("U=Host=a,b;Port=6000;Database=shop;Username=shop", "a,b", "6000"),
        ("U=jdbc:postgresql:shop?user=shop", "localhost", "5432"),
    ],
)
def test_find__hosts(line: str, host: str, port: str) -> None:
    """IPv6, sockets and several hosts."""
    found = connection(line)
    assert (found.host, found.port) == (host, port)


@pytest.mark.parametrize(
    ("line", "options"),
    [
        (
            "U=postgres://u@h/d?sslmode=verify-full&sslrootcert=/run/ca.pem",
            {"sslmode": "verify-full", "sslrootcert": "/run/ca.pem"},
        ),
        (
            "U=Host=h;Database=d;Username=u;SSL Mode=VerifyFull;Root Certificate=/ca",
            {"sslmode": "verify-full", "sslrootcert": "/ca"},
        ),
        ("U=postgres://u@a,b/d?target_session_attrs=read-write", {"target_session_attrs": "read-write"}),
        ("U=jdbc:postgresql://a,b/d?user=u&targetServerType=master", {"target_session_attrs": "primary"}),
        ("U=jdbc:mysql://h/d?user=u&useSSL=true", {"sslmode": "require"}),
        ("U=postgres://u@h/d?application_name=x&pool=5", {}),
    ],
)
def test_find__options(line: str, options: dict[str, str]) -> None:
    """Options that concern the connection are kept under one name, others are not."""
    assert connection(line).options == options


def test_find__split_with_tls() -> None:
    """PGSSLMODE belongs to its group."""
    assert connection("PGHOST=h", "PGUSER=u", "PGSSLMODE=require").options == {"sslmode": "require"}


def test_find__several_are_ambiguous() -> None:
    """Two different databases: the error names the variables, the input that decides, and no value."""
    env = ["DATABASE_URL=postgres://a:hush@h/one", "REPORTS_URL=postgres://a:hush@h/two"]
    with pytest.raises(Refused, match=r"DATABASE_URL, REPORTS_URL\. .*backup-source") as caught:
        connection(*env)
    assert "hush" not in str(caught.value)
    assert connection(*env, source="REPORTS_URL").database == "two"


def test_find__engine_decides() -> None:
    """The input backup tells which of two engines is meant, and what a split group without a hint is."""
    env = ["A=postgres://a@h/one", "B=mysql://a@h/two"]
    assert connection(*env, engine="mysql").database == "two"
    assert connection(*env, engine="mariadb").engine == "mariadb"
    split = ["DB_HOST=h", "DB_NAME=one", "DB_USER=u"]
    with pytest.raises(Refused, match="DB_HOST does not tell which engine"):
        connection(*split)
    assert connection(*split, engine="mariadb").port == "3306"


def test_find__source_may_be_any_of_a_group() -> None:
    """Whichever variable of a group is named, the group is meant."""
    env = ["DB_HOST=h", "DB_NAME=one", "DB_USER=u", "DB_PORT=5432", "DATABASE_URL=postgres://a@h/two"]
    found = find(env, engine="postgres", source="DB_NAME")
    assert (found.source, found.connection.database) == ("DB_HOST", "one")


@pytest.mark.parametrize(
    ("env", "source", "words"),
    [
        (["A=1", "B=2"], "", "names no database. The app's variables are: A, B."),
        ([], "", "The app's variables are: none."),
        ([], "", "with the input backup-source. For data in files there is backup: volumes."),
        (["A=1"], "C", "the app has no variable C. It has: A."),
        (["A=hush"], "A", "the value of A is no way to name a database"),
        (["A=postgres://u:hush@h"], "", ""),
        (["A=postgres://h/d"], "", "A names no user"),
        (["A=postgres://u:hush@h:port/d"], "", "A cannot be read: its host is written wrong"),
        (["A=postgres://u:hush@h/d?sslmode=maybe"], "A", "A cannot be read: its TLS mode"),
        (["A=postgres://u:hush@h/d%0Ax"], "", "A has a control character in its database"),
        (["A=mysql://u:hush@h/"], "", "A names no database"),
        (["A=mongodb://u:hush@h"], "", "A names no database"),
        (["A=mongodb://u:hush@/d"], "", "A cannot be read: it names no host"),
        (["A=mongodb://u:hush@h:port/d"], "", "A cannot be read: its host is written wrong"),
    ],
)
def test_find__absent_or_wrong(env: list[str], source: str, words: str) -> None:
    """Each error names the variable and no value; PostgreSQL's database is named like the user if it has no name."""
    if not words:
        assert connection(*env).database == "u"
        return
    with pytest.raises(Refused) as caught:
        connection(*env, source=source)
    assert words in str(caught.value)
    assert "hush" not in str(caught.value)


def test_connection__hides_its_password() -> None:
    """Neither its text nor its target holds the password."""
    found = connection("A=postgres://u:hush@h/d")
    assert "hush" not in f"{found!r} {found.target}"
    assert found.target == "u@h:5432/d"


@given(user=names, password=passwords, database=names)
def test_url__round_trip(user: str, password: str, database: str) -> None:
    """Whatever is percent-encoded in a URL comes out as it was."""
    user_, password_, database_ = (quote(text, safe="") for text in (user, password, database))
    found = connection(f"A=postgres://{user_}:{password_}@h/{database_}")
    assert (found.user, found.password, found.database) == (user, password, database)
    found = connection(f"A=mysql://h/{database_}?user={user_}&password={password_}")
    assert (found.user, found.password, found.database) == (user, password, database)


@given(user=names, password=passwords, database=names, options=st.lists(texts, max_size=2))
def test_mongodb__round_trip(user: str, password: str, database: str, options: list[str]) -> None:
    """Whatever is percent-encoded in a URL comes out as it was, and the URI that the programs get says the same."""
    user_, password_, database_ = (quote(text, safe="") for text in (user, password, database))
    query = "&".join(f"replicaSet={quote(text, safe='')}" for text in options)
    found = connection(f"A=mongodb://{user_}:{password_}@h/{database_}?{query}")
    assert (found.user, found.password, found.database) == (user, password, database)
    assert found.options.get("replicaSet", "") == (options[-1] if options else "")
    uri = mongo_uri(found)
    assert re.fullmatch(r"[A-Za-z0-9%._~:/?@,=&\[\]+-]+", uri), "it needs no quoting anywhere"
    again = dialects.mongodb(uri)
    assert again is not None
    assert (again["user"], again["password"], again["authSource"]) == (user, password, database)


@given(user=names, password=passwords, database=names)
def test_jdbc__round_trip(user: str, password: str, database: str) -> None:
    """JDBC's properties are encoded as in forms, with + for a blank."""
    query = f"user={quote_plus(user)}&password={quote_plus(password)}"
    found = connection(f"A=jdbc:postgresql://h/{quote(database, safe='')}?{query}")
    assert (found.user, found.password, found.database) == (user, password, database)


@given(user=names, password=passwords, database=names)
def test_libpq_dsn__round_trip(user: str, password: str, database: str) -> None:
    """Quotes and backslashes are escaped with a backslash."""
    quoted = ["'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'" for text in (user, password, database)]
    found = connection("A=host=h user={} password={} dbname={}".format(*quoted))
    assert (found.user, found.password, found.database) == (user, password, database)


@given(user=names, password=passwords, database=names, quotes=st.sampled_from("\"'"))
def test_ado_net__round_trip(user: str, password: str, database: str, quotes: str) -> None:
    """A quoted value may hold anything, its quotes doubled."""
    quoted = [quotes + text.replace(quotes, 2 * quotes) + quotes for text in (user, password, database)]
    found = connection("A=Host=h;Username={};Password={};Database={}".format(*quoted))
    assert (found.user, found.password, found.database) == (user, password, database)


@given(value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60))
def test_find__never_breaks_and_never_tells(value: str) -> None:
    """Whatever a variable holds: a connection or a refusal, which does not show it."""
    secret = f"{value}:hush!"
    for begin in (
        "",
        "postgres://",
        "mongodb://",
        "jdbc:mysql://",
        "Host=h;Database=d;Password=",
        "host=h user=u password=",
    ):
        told = ""
        try:
            connection(f"A={begin}{secret}")
        except Refused as refused:
            told = str(refused)
        assert "hush!" not in told
