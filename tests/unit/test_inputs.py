from __future__ import annotations

import shlex
from ipaddress import IPv6Address

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from capmig import parse as syntax
from capmig.errors import Refused
from capmig.given import DEFAULTS
from capmig.inputs import LocalManager, Migration, Mode, OnFailure, Owner, Probe, SshManager, parse
from capmig.ports import Credentials

# The same examples in every run, and no limit that a loaded machine could miss.
steady = settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])

DIGEST = "sha256:" + "0123456789abcdef" * 4


def environ(**changes: str) -> dict[str, str]:
    """The least that a deploy over SSH needs, as GitHub's runner passes it; `_` in a keyword stands for a hyphen."""
    inputs = dict(DEFAULTS) | {
        "server": "https://captain.apps.example.com",
        "app": "shop",
        "token": "t0ken",
        "image": "ghcr.io/acme/shop:1.4.0",
        "ssh-host": "swarm.example.com",
        "ssh-key": "-----BEGIN KEY-----\nabc\n-----END KEY-----\n",
        "ssh-known-hosts": "swarm.example.com ssh-ed25519 AAAA\n",
    }
    inputs |= {name.replace("_", "-"): value for name, value in changes.items()}
    return {f"INPUT_{name.upper()}": value for name, value in inputs.items()}


def problems(**changes: str) -> tuple[str, ...]:
    with pytest.raises(Refused) as refused:
        parse(environ(**changes))
    return refused.value.problems


def ssh(**changes: str) -> SshManager:
    manager = parse(environ(**changes)).manager
    assert isinstance(manager, SshManager)
    return manager


def migration(**changes: str) -> Migration:
    found = parse(environ(**changes)).migration
    assert found is not None
    return found


def test_parse__least_inputs() -> None:
    """The required inputs alone make an ordinary deploy with every default."""
    inputs = parse(environ())
    assert (inputs.mode, inputs.app, inputs.token, inputs.password) == (Mode.DEPLOY, "shop", "t0ken", "")
    assert inputs.image == "ghcr.io/acme/shop:1.4.0"
    assert inputs.migration is None
    assert inputs.probe is None
    assert inputs.registry is None
    assert inputs.on_failure is OnFailure.RESTORE
    assert (inputs.drain_timeout, inputs.deploy_timeout, inputs.stable_for, inputs.lock_timeout) == (120, 300, 10, 900)
    assert ssh() == SshManager(
        host="swarm.example.com",
        user="root",
        port=22,
        key="-----BEGIN KEY-----\nabc\n-----END KEY-----\n",
        passphrase="",
        known_hosts="swarm.example.com ssh-ed25519 AAAA\n",
        jump="",
    )


def test_parse__underscores_instead_of_hyphens() -> None:
    """Runners that turn hyphens into underscores, and ones that leave them, are understood alike."""
    given = environ(migrate_command="migrate", ssh_user="deploy")
    assert parse({key.replace("-", "_"): value for key, value in given.items()}) == parse(given)


def test_parse__defaults_left_out() -> None:
    """A container started by hand, without the defaults that a runner fills in, gets the same inputs."""
    given = environ()
    assert parse({key: value for key, value in given.items() if value not in ("root", "22", "10m", "")}) == parse(given)


def test_parse__nothing_given() -> None:
    """Everything that is missing is told at once, one line each, led by the input's name."""
    with pytest.raises(Refused) as refused:
        parse({})
    assert [line.split(": ")[0] for line in refused.value.problems] == ["app", "token", "image", "server", "ssh-host"]
    assert refused.value.exit_code == 2
    assert all("\n" not in line for line in refused.value.problems)


def test_parse__several_problems() -> None:
    """One wrong input does not hide another."""
    found = problems(app="Shop_1", migrate_timeout="soon", on_failure="explode", verify_status="99", mode="fly")
    assert [line.split(": ")[0] for line in found] == [
        "mode", "app", "migrate-timeout", "on-failure", "verify-status", "verify-status",
    ]  # fmt: skip


@steady
@given(st.dictionaries(st.sampled_from(sorted(DEFAULTS)), st.text() | st.sampled_from(["[a", "'", "a: {b: c}", "::1"])))
@example({"migrate-env": 'A: "\\UFFFFFFFF"', "migrate-command": "x"})
@example({"migrate-env": "[" * 3000, "migrate-command": "x"})
def test_parse__any_text(texts: dict[str, str]) -> None:
    """No text makes it raise anything but Refused, and each problem is one line with an input's name."""
    try:
        parse({f"INPUT_{name.upper()}": text for name, text in texts.items()})
    except Refused as refused:
        for line in refused.problems:
            assert line.split(": ")[0] in DEFAULTS
            assert len(line.splitlines()) == 1


def test_parse__secrets() -> None:
    """No secret shows in the representation of the inputs."""
    secrets = {
        "ssh_key": "SECRET-1",
        "ssh_key_passphrase": "SECRET-2",
        "registry_username": "ann",
        "registry_password": "SECRET-3",
        "migrate_command": "migrate",
        "migrate_env": "DB: SECRET-4",
    }
    for login in ({"token": "SECRET-5"}, {"token": "", "password": "SECRET-6", "otp": "SECRET-7"}):
        assert "SECRET" not in repr(parse(environ(**secrets, **login)))


def test_parse__secrets_in_problems() -> None:
    """No problem repeats a value that may be secret."""
    found = problems(
        token="SECRET one",
        otp="SECRET two",
        server="https://ann:SECRET@captain.example.com",
        verify_url="https://:SECRET@example.com/",
        ssh_host="ssh://root:SECRET@swarm",
        migrate_command="run 'SECRET",
        migrate_env="A: *SECRET",
        registry_password="SECRET",
    )
    names = ["token", "otp", "server", "ssh-host", "migrate-command", "migrate-env", "verify-url"]
    assert [line.split(": ")[0] for line in found] == [*names, "registry-username"]
    assert "SECRET" not in str(found)


@pytest.mark.parametrize("mode", ["recover", "unlock"])
def test_parse__modes_without_an_image(mode: str) -> None:
    """To recover or unlock, the image and the migration are not needed, nor in the way when they are wrong."""
    inputs = parse(environ(mode=mode, image="", migrate_command="'", migrate_env="- x"))
    assert (inputs.mode, inputs.image, inputs.migration) == (Mode(mode), "", None)


def test_parse__git_hash() -> None:
    """The commit of the run stands in for one that is not given."""
    runner = {"GITHUB_SHA": "abc123"}
    assert parse(environ() | runner).git_hash == "abc123"
    assert parse(environ(git_hash="def456") | runner).git_hash == "def456"
    assert parse(environ()).git_hash == ""


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://captain.apps.example.com", "https://captain.apps.example.com"),
        ("captain.apps.example.com", "https://captain.apps.example.com"),
        ("captain.apps.example.com:3000/", "https://captain.apps.example.com:3000"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("https://Captain.Apps.Example.com/#/login", "https://captain.apps.example.com"),
        ("https://captain.apps.example.com/api/v2/", "https://captain.apps.example.com"),
        ("  https://captain.apps.example.com/#/apps/details/shop\n", "https://captain.apps.example.com"),
    ],
)
def test_server__accepted(text: str, url: str) -> None:
    """What people paste from the dashboard becomes CapRover's root URL."""
    assert parse(environ(server=text)).server == url


@pytest.mark.parametrize(
    "text",
    ["ftp://captain.example.com", "https://", "http://:3000", "https://captain example.com", "https://a:99999", "://x"],
)
def test_server__refused(text: str) -> None:
    """What is no http or https URL is refused."""
    assert [line.split(": ")[0] for line in problems(server=text)] == ["server"]


@pytest.mark.parametrize("text", ["Shop", "shop_1", "-shop", "shop-", "my--shop", "shop.web", "srv-captain--shop"])
def test_app__refused(text: str) -> None:
    """CapRover allows lower-case letters, digits and single hyphens."""
    assert [line.split(": ")[0] for line in problems(app=text)] == ["app"]


def test_login__token_and_password() -> None:
    """One way to log in, and only one."""
    assert problems(password="secret") == ("token: give token or password, not both",)
    assert problems(token="")[0].startswith("token: is required")
    assert problems(token="two words") == ("token: has a blank, a line break or a control character in it",)
    assert problems(otp="123456") == ("otp: goes with password, which is not given",)


def test_login__password() -> None:
    """Only line ends are taken off a password, and CapRover's limit is told before it is met."""
    inputs = parse(environ(token="", password=" pass word \n", otp="123456"))
    assert (inputs.token, inputs.password, inputs.otp) == ("", " pass word ", "123456")
    assert problems(token="", password="x" * 30)[0].startswith("password: is over 29 characters")


@pytest.mark.parametrize(
    "text",
    [
        "shop",
        "acme/shop",
        "ghcr.io/acme/shop:1.4.0",
        "localhost:5000/shop",
        "registry.example.com:5000/a/b__c/d-e.f:V1_x",
        f"ghcr.io/acme/shop@{DIGEST}",
        f"localhost/acme/shop:1.4.0@{DIGEST}",
        "Registry.Example.com/acme/shop",
    ],
)
def test_image__accepted(text: str) -> None:
    """Tags, digests, ports and images without a registry pass unchanged."""
    assert parse(environ(image=f" {text}\n")).image == text


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("ghcr.io/Acme/Shop:V1", "write 'ghcr.io/acme/shop:V1'"),
        ("Acme/shop", "write 'acme/shop'"),
        ("https://ghcr.io/acme/shop", "leave out"),
        ("ghcr.io/acme/shop:", "tag"),
        ("ghcr.io/acme/shop:a b", "several"),
        ("ghcr.io/acme/shop:1\nghcr.io/acme/shop:latest", "several"),
        ("ghcr.io/acme/shop@sha256:abc", "digest"),
        ("--shop", "no image reference"),
        ("ghcr.io/", "no image reference"),
        ("/shop", "no image reference"),
    ],
)
def test_image__refused(text: str, hint: str) -> None:
    """A wrong reference is refused with what to write instead."""
    (problem,) = problems(image=text)
    assert problem.startswith("image: ")
    assert hint in problem


def test_service__only_of_this_app() -> None:
    """`service` chooses between the two names that an app's service can have."""
    assert parse(environ(service="srv-captain--shop")).service == "srv-captain--shop"
    assert problems(service="other") == ("service: 'other' must be shop or srv-captain--shop",)


@pytest.mark.parametrize(
    ("text", "host", "user", "port"),
    [
        ("swarm", "swarm", "root", 22),
        ("deploy@swarm", "swarm", "deploy", 22),
        ("10.0.0.7:2222", "10.0.0.7", "root", 2222),
        ("ssh://deploy@swarm.example.com:2222", "swarm.example.com", "deploy", 2222),
        ("ssh://swarm/", "swarm", "root", 22),
        ("2001:db8::7", "2001:db8::7", "root", 22),
        ("deploy@2001:db8::7", "2001:db8::7", "deploy", 22),
        ("[2001:db8::7]", "2001:db8::7", "root", 22),
        ("ssh://deploy@[2001:db8::7]:2222", "2001:db8::7", "deploy", 2222),
        ("fe80::1%eth0", "fe80::1%eth0", "root", 22),
    ],
)
def test_ssh_host__accepted(text: str, host: str, user: str, port: int) -> None:
    """Every common way to write where SSH goes."""
    manager = ssh(ssh_host=text)
    assert (manager.host, manager.user, manager.port) == (host, user, port)


@pytest.mark.parametrize(
    "text",
    [
        "-oProxyCommand=x",
        "root@-oProxyCommand=x",
        "-x@swarm",
        "@swarm",
        "a b",
        "swarm:",
        "swarm:0",
        "swarm:65536",
        "swarm:ssh",
        "swarm:22:23",
        "[::1",
        "[swarm]:22",
        "[::1]22",
        "ssh://swarm/path",
        "https://swarm",
        "fe80::1%e h",
        "swarm\nevil",
    ],
)
def test_ssh_host__refused(text: str) -> None:
    """Nothing that ssh could take for an option, and nothing half-written, passes."""
    assert [line.split(": ")[0] for line in problems(ssh_host=text)] == ["ssh-host"]


HOSTS = st.one_of(
    st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,10}[a-z0-9])?", fullmatch=True),
    st.integers(0, 2**128 - 1).map(lambda number: str(IPv6Address(number))),
)


@steady
@given(HOSTS, st.from_regex(r"[a-z_][a-z0-9_.-]{0,8}", fullmatch=True) | st.just(""), st.integers(0, 65535))
def test_destination__round_trip(host: str, user: str, port: int) -> None:
    """A destination written out is read back as itself, with and without the scheme."""
    whole = syntax.Destination(host=host, user=user, port=port)
    assert syntax.destination(str(whole)) == whole
    assert syntax.destination(f"ssh://{whole}") == whole


def test_ssh__user_and_port_in_two_places() -> None:
    """The same fact in two places must agree; a default, which a runner fills in, contradicts nothing."""
    assert ssh(ssh_host="deploy@swarm:2222", ssh_user="deploy", ssh_port="2222").user == "deploy"
    assert ssh(ssh_host="swarm", ssh_user="deploy", ssh_port="2222").port == 2222
    found = problems(ssh_host="deploy@swarm:2222", ssh_user="other", ssh_port="23")
    assert [line.split(": ")[0] for line in found] == ["ssh-user", "ssh-port"]


def test_ssh__wrong_user_or_port() -> None:
    """A user that ssh could take for an option, or a port out of range, is refused."""
    found = problems(ssh_user="-x", ssh_port="70000")
    assert [line.split(": ")[0] for line in found] == ["ssh-user", "ssh-port"]


def test_ssh__key_and_known_hosts() -> None:
    """SSH without a key, or without knowing the host's key, is refused."""
    found = problems(ssh_key=" \n", ssh_known_hosts="")
    assert [line.split(": ")[0] for line in found] == ["ssh-key", "ssh-known-hosts"]


def test_ssh__jump() -> None:
    """Jump hosts become one line for ProxyJump, each checked."""
    assert ssh(ssh_jump="ssh://a@one:23, 2001:db8::7").jump == "a@one:23,[2001:db8::7]"
    assert problems(ssh_jump="one,-oX")[0].startswith("ssh-jump: '-oX' is not like")


def test_docker_host() -> None:
    """A local socket stands in for SSH, and does not go with it."""
    local = {"ssh_host": "", "ssh_key": "", "ssh_known_hosts": "", "docker_host": "unix:///var/run/docker.sock"}
    assert parse(environ(**local)).manager == LocalManager(socket="/var/run/docker.sock")
    assert problems(docker_host="unix:///run/docker.sock") == (
        "docker-host: give docker-host or the ssh- inputs, not both (ssh-host, ssh-key, ssh-known-hosts)",
    )
    for wrong in ("tcp://10.0.0.7:2375", "/var/run/docker.sock", "unix://docker.sock"):
        assert problems(**local | {"docker_host": wrong})[0].startswith("docker-host: ")


def test_migration__whole() -> None:
    """Every migration input reaches the migration, and YAML values stay as they were typed."""
    assert migration(
        migrate_command="--migrate-database --name 'a b'",
        migrate_entrypoint="[dotnet, Shop.dll]",
        migrate_image="ghcr.io/acme/shop-migrations:1.4.0",
        migrate_env="LEVEL: 010\nON: yes\nEMPTY:\nKEY: 'a: b'\n",
        migrate_timeout="1h30m",
    ) == Migration(
        command=("--migrate-database", "--name", "a b"),
        entrypoint=("dotnet", "Shop.dll"),
        image="ghcr.io/acme/shop-migrations:1.4.0",
        env={"LEVEL": "010", "ON": "yes", "EMPTY": "", "KEY": "a: b"},
        timeout=5400,
    )


def test_migration__image_default() -> None:
    """The migration runs from the image to deploy unless told otherwise; an entrypoint alone is enough."""
    assert migration(migrate_entrypoint="/migrate").image == "ghcr.io/acme/shop:1.4.0"
    assert migration(migrate_entrypoint="/migrate").command == ()


def test_migration__inputs_without_one() -> None:
    """Inputs of a migration that is not asked for are a mistake."""
    assert [line.split(": ")[0] for line in problems(migrate_env="A: b", migrate_image="x")] == [
        "migrate-image",
        "migrate-env",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--migrate-database", ("--migrate-database",)),
        ("sh -c 'a && b; c'", ("sh", "-c", "a && b; c")),
        ("- dotnet\n- ef\n- '&&'\n- 007\n- null\n", ("dotnet", "ef", "&&", "007", "")),
        ("['sh', '-c', \"a\\nb\"]", ("sh", "-c", "a\nb")),
        ("run ''", ("run", "")),
    ],
)
def test_command__accepted(text: str, words: tuple[str, ...]) -> None:
    """A shell-quoted line, or a YAML list for words that need no quoting rules."""
    assert migration(migrate_command=text).command == words


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("migrate 'x", "quote"),
        ("a && b", "without a shell"),
        ("a; b", "without a shell"),
        ("a\nb", "more than one line"),
        ("[]", "YAML list"),
        ("[a, [b]]", "no lists or mappings"),
        ("- a\n- b: c", "no lists or mappings"),
        ("[a", "at its line 1"),
        ("- a\n- *x", "at its line 2"),
    ],
)
def test_command__refused(text: str, hint: str) -> None:
    """What a shell would have understood, or no one would, is refused with the reason."""
    (problem,) = problems(migrate_command=text)
    assert problem.startswith("migrate-command: ")
    assert hint in problem


OPERATORS = ["&&", "||", "|", ";", "&", ">", ">>", "<", "2>&1"]
WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1)


@steady
@given(st.lists(WORDS, min_size=1).map(tuple))
def test_command__round_trip(words: tuple[str, ...]) -> None:
    """Any words come through a YAML list whole, and through a quoted line when they are no shell operators."""
    assert syntax.command(yaml.safe_dump(list(words), default_style='"', allow_unicode=False)) == words
    line = shlex.join(words)
    if words[0] != "-" and not any(word.endswith(";") or word in OPERATORS for word in words):
        assert syntax.command(line) == words


def test_command__empty_entrypoint() -> None:
    """An entrypoint that begins with an empty word would start nothing."""
    assert problems(migrate_entrypoint="'' x")[0].startswith("migrate-entrypoint: begins with an empty word")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("A=b", "not a YAML mapping"),
        ("[A, b]", "not a YAML mapping"),
        ("A: [b]", "no lists or mappings"),
        ("A: b\nA: c", "'A' twice"),
        ("'A=B': c", "'A=B' cannot be the name"),
        ("A B: c", "'A B' cannot be the name"),
        ("A: b\n\tB: c", "at its line 2"),
        ('A: "\\0"', "NUL"),
    ],
)
def test_migrate_env__refused(text: str, hint: str) -> None:
    """A mapping of names to plain values, each name once."""
    (problem,) = problems(migrate_command="x", migrate_env=text)
    assert problem.startswith("migrate-env: ")
    assert hint in problem


@steady
@given(st.integers(0, 999), st.integers(0, 999), st.integers(0, 999))
def test_duration__sum(hours: int, minutes: int, seconds: int) -> None:
    """Hours, minutes and seconds add up, each of them optional."""
    assert syntax.duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds
    assert syntax.duration(f"{minutes}m") == minutes * 60
    assert syntax.duration(f"{hours}h{seconds}s") == hours * 3600 + seconds


@pytest.mark.parametrize("text", ["", "90", "1.5h", "10 m", "10M", "5s10m", "-5s", "m", "1d", "٣s", "9999999s"])
def test_duration__refused(text: str) -> None:
    """A number without its unit, and everything else that is not plain, is refused."""
    with pytest.raises(ValueError) as error:
        syntax.duration(text)
    assert "write it like 90s, 10m or 1h30m" in str(error.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("drain_timeout", "0s"),
        ("drain_timeout", "61m"),
        ("deploy_timeout", "3h"),
        ("stable_for", "0s"),
        ("lock_timeout", "25h"),
        ("migrate_timeout", "0m"),
    ],
)
def test_duration__bounds(name: str, text: str) -> None:
    """A duration that cannot be meant is refused with its bounds."""
    (problem,) = problems(**{name: text})
    assert problem.startswith(f"{name.replace('_', '-')}: must be between ")
    assert problem.endswith(f", and is {text}")


def test_lock_timeout__zero() -> None:
    """Not to wait for the lock at all is a choice."""
    assert parse(environ(lock_timeout="0s")).lock_timeout == 0


def test_probe() -> None:
    """A probe has a URL and the status it expects; a status alone is a mistake."""
    given = parse(environ(verify_url="https://shop.example.com/health?deep=1", verify_status="204"))
    assert given.probe == Probe(url="https://shop.example.com/health?deep=1", status=204)
    assert problems(verify_status="204") == ("verify-status: has no use without verify-url",)
    assert problems(verify_url="shop.example.com")[0].startswith("verify-url: ")


def test_registry() -> None:
    """Credentials of the registry are a pair, with or without a registry in the image."""
    pair = {"registry_username": "ann", "registry_password": "p w\n"}
    assert parse(environ(**pair, image="acme/shop")).registry == Credentials(username="ann", password="p w")
    assert problems(registry_username="ann") == ("registry-password: is required with registry-username",)
    assert problems(registry_password="x") == ("registry-username: is required with registry-password",)


def test_owner__on_a_runner() -> None:
    """On a runner the owner is the job, with a link to its run."""
    owner = parse(
        environ()
        | {
            "GITHUB_ACTIONS": "true",
            "GITHUB_SERVER_URL": "https://github.com/",
            "GITHUB_REPOSITORY": "acme/shop",
            "GITHUB_RUN_ID": "123",
            "GITHUB_RUN_ATTEMPT": "2",
            "GITHUB_JOB": "deploy",
        }
    ).owner
    assert owner.id == "acme/shop run 123, attempt 2, job deploy"
    assert owner.url == "https://github.com/acme/shop/actions/runs/123"


def test_owner__by_hand() -> None:
    """Elsewhere the owner is the host, without a link."""
    owner = parse(environ() | {"HOSTNAME": "laptop"}).owner
    assert owner == Owner(server_url="", repository="", run_id="", attempt="", job="", host="laptop")
    assert (owner.id, owner.url) == ("by hand on laptop", "")
