from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capmig.masking import redact, secrets_in_env, worth_masking

ANY = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(str.strip)
PLAIN = st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1)


@pytest.mark.parametrize(
    "name",
    [
        *("PASSWORD", "DB_PASSWORD", "POSTGRES_PASSWORD", "PGPASSWORD", "MYSQL_PWD", "DB_PASS", "dbPassphrase"),
        *("SECRET_KEY_BASE", "APP_KEY", "APIKEY", "ApiKey", "Jwt__Key", "JWT_SECRET", "SECRETKEYBASE", "PASSWORD_HASH"),
        *("TOKEN", "GITHUB_TOKEN", "authToken", "AUTH", "SMTP_AUTH", "SENTRY_DSN", "CREDENTIALS", "PASSWORD_FILE"),
        *("ConnectionStrings__Default", "CONNECTION_STRING", "DB_CONNECTION", "PRIVATE_KEY", "MAIL.password", "salt"),
    ],
)
def test_secrets_in_env__secret_names(name: str) -> None:
    """A variable whose name tells of a secret gives its whole value."""
    assert secrets_in_env([f"{name}=v4lue"]) == ["v4lue"]


@pytest.mark.parametrize(
    "name", ["PATH", "PORT", "HOSTNAME", "KEYBOARD", "KEYCLOAK_REALM", "AUTHOR", "CONTACT", "LOG_LEVEL", "PINNED", ""]
)
def test_secrets_in_env__plain_names(name: str) -> None:
    """An ordinary variable gives nothing, or logs would turn black."""
    assert secrets_in_env([f"{name}=v4lue"]) == []


@pytest.mark.parametrize(
    "value",
    [
        "postgres://shop:s3cret-pw@srv-captain--db:5432/shop",
        "postgres://:s3cret-pw@db/shop?sslmode=require",
        "redis://default:s3cret-pw@cache",
        "amqp://one:other1@h,amqp://two:s3cret-pw@h",
        "jdbc:postgresql://db/shop?user=shop&password=s3cret-pw&ssl=true",
        "jdbc:postgresql://db/shop?password=s3cret-pw",
        "Host=db;Database=shop;Username=shop;Password=s3cret-pw;Pooling=true",
        "Server=db;Uid=shop;Pwd = 's3cret-pw'",
        'Data Source=db;PASSWORD="s3cret-pw";',
        "host=db user=shop password=s3cret-pw dbname=shop",
        "host=db password=other1 sslpassword=s3cret-pw",
        "cache:6379,password=s3cret-pw,ssl=True",
        "AccountName=shop;AccountKey=s3cret-pw;EndpointSuffix=core",
        "shop:s3cret-pw@tcp(db:3306)/shop?parseTime=true",
        "https://s3cret-pw@sentry.example.com/3",
        "https://api.example.com/hook?api_key=s3cret-pw",
    ],
)
def test_secrets_in_env__within_values(value: str) -> None:
    """A password is found inside the connection strings of the usual drivers, whatever the variable is called."""
    assert "s3cret-pw" in secrets_in_env([f"X={value}"])


@given(ANY)
def test_secrets_in_env__any_value(value: str) -> None:
    """The value of a secret-looking variable is found whatever it is made of, `=` and line breaks included."""
    assert value in secrets_in_env([f"DB_PASSWORD={value}"])


@given(ANY, PLAIN)
def test_secrets_in_env__percent_encoded_url(password: str, user: str) -> None:
    """A password in a URL is found as it stands there and as the program will print it."""
    encoded = quote(password, safe="")
    found = secrets_in_env([f"X=postgres://{user}:{encoded}@db/shop"])
    assert encoded in found
    assert password in found


def test_secrets_in_env__plus_in_url() -> None:
    """Some programs read `+` in a URL as a space, others do not: both readings are found."""
    assert {"a+b@c", "a b@c"} <= set(secrets_in_env(["X=postgres://shop:a+b%40c@db/shop"]))


@given(st.text(st.characters(codec="utf-8", categories=["L", "N", "P"]), min_size=1), PLAIN)
def test_secrets_in_env__raw_url(password: str, user: str) -> None:
    """A password that should have been percent-encoded and was not (`@`, `/`, `#`) is found all the same."""
    assert password in secrets_in_env([f"X=postgres://{user}:{password}@db/shop?contact=a@b"])


@given(ANY)
def test_secrets_in_env__quoted_ado(password: str) -> None:
    """A quoted connection-string value may hold anything; a quote in it is doubled."""
    doubled = password.replace('"', '""')
    assert password in secrets_in_env([f'X=Host=db;Password="{doubled}";Database=shop'])


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0;'\""), min_size=1).filter(str.strip))
def test_secrets_in_env__plain_ado(password: str) -> None:
    """An unquoted one ends at the semicolon; spaces around it are not part of it."""
    assert password.strip() in secrets_in_env([f"X=Host=db;Password={password};Database=shop"])


@given(st.lists(st.text()))
def test_secrets_in_env__any_environment(env: list[str]) -> None:
    """No environment is too odd, and no empty secret comes of it."""
    assert all(secret.strip() for secret in secrets_in_env(env))


@pytest.mark.parametrize("value", ["", "   ", "abc", "true", "True", "postgres", "5432", "86400", " root\n"])
def test_worth_masking__boring(value: str) -> None:
    """What hides nothing is not masked: it would black out ordinary words of every log."""
    assert not worth_masking(value)


@pytest.mark.parametrize("value", ["s3cr", "postgres1", "123456", "hunter2", "trueblue"])
def test_worth_masking__secret(value: str) -> None:
    """A weak password is still one, and a six-digit one-time password too."""
    assert worth_masking(value)


@given(st.text("abc"), st.lists(st.text("abc", min_size=1), min_size=1))
def test_redact__nothing_left(text: str, secrets: list[str]) -> None:
    """Every character of every occurrence of a secret is gone; the rest stays, in order."""
    covered = {
        at + offset
        for secret in secrets
        for at in range(len(text))
        if text.startswith(secret, at)
        for offset in range(len(secret))
    }
    kept = "".join(character for at, character in enumerate(text) if at not in covered)
    assert redact(text, secrets).replace("*", "") == kept


def test_redact__overlapping() -> None:
    """Two occurrences that overlap leave no rest of either."""
    assert redact("see abcdefgh.", ["abcdef", "defgh"]) == "see ***."
    assert redact("see ababab.", ["abab"]) == "see ***."
