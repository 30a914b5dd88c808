"""The CAPMIG_E2E_… variables: which CapRover that runs already the end-to-end tests are to use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from capmig.errors import Refused
from capmig.inputs import LocalManager, SshManager, parse
from capmig.ports import Credentials

START = "CAPMIG_E2E_"
# What most of them are to the action.
INPUTS = {
    "CAPROVER_URL": "server",
    "CAPROVER_PASSWORD": "password",
    "SSH_HOST": "ssh-host",
    "SSH_USER": "ssh-user",
    "SSH_PORT": "ssh-port",
    "SSH_KEY": "ssh-key",
    "SSH_KEY_PASSPHRASE": "ssh-key-passphrase",
    "SSH_KNOWN_HOSTS": "ssh-known-hosts",
    "SSH_JUMP": "ssh-jump",
    "DOCKER_HOST": "docker-host",
    "REGISTRY_USERNAME": "registry-username",
    "REGISTRY_PASSWORD": "registry-password",
}
REGISTRY, PUSH = "REGISTRY", "REGISTRY_PUSH"
NAMES = (*INPUTS, REGISTRY, PUSH)
FILES = {"SSH_KEY", "SSH_KNOWN_HOSTS"}  # given as text, or as the path of a file
# Of the tests' images; their tags are the versions.
REPOSITORY = "capmig-e2e"


@dataclass(frozen=True, kw_only=True)
class Server:
    """A CapRover that runs already. `access`: the action's inputs that reach its manager and the registry.

    `repository`: the images' as the swarm names it; `pushed_to`: the same as this machine does.
    """

    url: str
    password: str = field(repr=False)
    manager: SshManager | LocalManager
    login: Credentials | None
    access: Mapping[str, str] = field(repr=False)
    repository: str
    pushed_to: str


def given(environ: Mapping[str, str]) -> Server | None:
    """The server that the variables name; None if there are none. ValueError with all that is wrong, a line each."""
    values = {
        name.removeprefix(START): text for name, text in environ.items() if name.startswith(START) and text.strip()
    }
    if not values:
        return None
    problems = [f"{START}{name}: there is no such variable" for name in sorted(set(values) - set(NAMES))]
    for name in ("CAPROVER_PASSWORD", REGISTRY):
        if name not in values:
            problems.append(f"{START}{name}: is required")
    for name in sorted(values.keys() & FILES):
        try:
            values[name] = _text(values[name])
        except ValueError as error:
            problems.append(f"{START}{name}: {error}")
    registry = values.get(REGISTRY, "registry.invalid").strip().rstrip("/")
    pushed_to = values.get(PUSH, registry).strip().rstrip("/")
    inputs = {INPUTS[name]: text for name, text in values.items() if name in INPUTS}
    asked = inputs | {"app": "any", "password": inputs.get("password", "any"), "image": f"{registry}/{REPOSITORY}:v1"}
    if PUSH in values:
        # Which the action never learns: here it only has to be a name of the same kind.
        asked |= {"migrate-image": f"{pushed_to}/{REPOSITORY}:v1", "migrate-command": "any"}
    try:
        read = parse({f"INPUT_{name.upper()}": text for name, text in asked.items()})
    except Refused as refused:
        raise ValueError("\n".join([*problems, *map(by_variable, refused.problems)])) from None
    if problems:
        raise ValueError("\n".join(problems))
    return Server(
        url=read.server,
        password=read.password,
        manager=read.manager,
        login=read.registry,
        access={name: text for name, text in inputs.items() if name not in ("server", "password")},
        repository=f"{registry}/{REPOSITORY}",
        pushed_to=f"{pushed_to}/{REPOSITORY}",
    )


def by_variable(problem: str) -> str:
    """What the action says of an input, as said of the variable."""
    names = {text: name for name, text in INPUTS.items()} | {"image": REGISTRY, "migrate-image": PUSH}
    name, _, what = problem.partition(": ")
    return f"{START}{names[name]}: {what}" if name in names else problem


def _text(given: str) -> str:
    """The text that was given, or that of the file whose path was."""
    if "\n" in given:
        return given
    try:
        return Path(given).expanduser().read_text()
    except OSError as error:
        if " " in given:  # one line of known_hosts
            return given
        raise ValueError(f"is neither a text of several lines nor a file that can be read: {error.strerror}") from None
