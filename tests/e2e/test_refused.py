"""What cannot work is refused before anything is touched, in one error that names the inputs at fault."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.world import Before, assert_nothing_left, told
from tests.sandbox.app import DemoApp
from tests.sandbox.engine import run
from tests.sandbox.place import Place
from tests.sandbox.runner import Action, Step, StepResult
from tests.sandbox.sandbox import Sandbox

# With several workers all of these tests go to one of them, which makes the app once.
pytestmark = pytest.mark.xdist_group("refused")

WAY_THERE = "it depends on how the sandbox is reached"


@pytest.fixture(scope="module")
def one_app(place: Place) -> Iterator[DemoApp]:
    """One app for all of these tests: none of them may change it."""
    try:
        yield DemoApp.create(place)
    finally:
        place.clean()


def version_of(app: DemoApp) -> str:
    """The number that the swarm gives the service anew with each change."""
    command = ["docker", "service", "inspect", "--format={{.Version.Index}}", app.service]
    return app.place.manager.execute(*command).strip()


@pytest.fixture
def refuse(action: Action, one_app: DemoApp) -> Callable[..., StepResult]:
    """Runs a deploy that must be refused, proves that nothing was changed, and hands its result back."""

    def refused(inputs: dict[str, str]) -> StepResult:
        app = one_app
        version = version_of(app)
        with Step(action, app.place.network, socket=app.place.socket) as step:
            result = step.run(inputs)
            post = step.post()
        assert result.exit_code == 2, told(result)
        assert (result.outputs["result"], result.outputs["schema-state"]) == ("refused", "unchanged"), told(result)
        assert sum(line.startswith("::error") for line in result.raw.splitlines()) == 1, told(result)
        assert (post.exit_code, post.log) == (0, "")
        assert version_of(app) == version
        assert_nothing_left(app)
        return result

    return refused


def problems(result: StepResult) -> list[str]:
    """The lines of the error, up to the word that nothing was changed."""
    (error,) = [line for line in result.raw.splitlines() if line.startswith("::error")]
    text = error.removeprefix("::error::").replace("%0A", "\n").replace("%25", "%")
    return text.partition("\nNothing was changed.")[0].splitlines()


def key_with_passphrase(sandbox: Sandbox, folder: Path) -> str:
    path = folder / "key"
    path.write_text(sandbox.ssh.key)
    path.chmod(0o600)
    run("ssh-keygen", "-q", "-p", "-P", "", "-N", "right", "-f", str(path))
    return path.read_text()


def public_half(sandbox: Sandbox, folder: Path) -> str:
    path = folder / "key"
    path.write_text(sandbox.ssh.key)
    path.chmod(0o600)
    return run("ssh-keygen", "-y", "-f", str(path))


def another_host_key(sandbox: Sandbox, folder: Path) -> str:
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "host"))
    return f"{sandbox.ssh.host} {(folder / 'host.pub').read_text()}"


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"token": "wrong"}, "token: CapRover does not accept it for the app"),
        ({"token": "", "password": "wrong"}, "password: CapRover does not accept this password"),
        ({"image": "{missing}"}, "image: {missing} cannot be pulled: manifest unknown"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_refused__input(
    one_app: DemoApp, refuse: Callable[..., StepResult], change: dict[str, str], wanted: str
) -> None:
    """Each wrong input is told by its own name."""
    missing = one_app.place.image("v99")
    filled = {name: value.format(missing=missing) for name, value in change.items()}
    (problem,) = problems(refuse(one_app.inputs("v2") | filled))
    assert problem.startswith(wanted.format(missing=missing))


@pytest.mark.sandbox_only(WAY_THERE)
@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"image": "{private}/demo:v2"}, "image: {private}/demo:v2 cannot be pulled: "),
        ({"ssh-known-hosts": "elsewhere.example.com ssh-ed25519 AAAA"}, "ssh-known-hosts: it holds no key of {host}"),
        ({"ssh-host": "{host}:1"}, "ssh-port: {host} answers, but nothing listens on port 1"),
        ({"ssh-user": "outsider"}, "ssh-user: outsider may not use Docker on"),
        ({"ssh-user": "nobody"}, "ssh-key: "),
        ({"server": "http://{gateway}:1"}, "server: "),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_refused__way_there(
    sandbox: Sandbox, one_app: DemoApp, refuse: Callable[..., StepResult], change: dict[str, str], wanted: str
) -> None:
    """So is what is wrong with the way to the manager, to CapRover or to the registry."""
    names = {
        "private": sandbox.private_registry,
        "host": sandbox.ssh.host,
        "gateway": sandbox.gateway,
    }
    filled = {name: value.format(**names) for name, value in change.items()}
    (problem,) = problems(refuse(one_app.inputs("v2") | filled))
    assert problem.startswith(wanted.format(**names))


@pytest.mark.sandbox_only(WAY_THERE)
@pytest.mark.parametrize(
    ("name", "value", "more", "wanted"),
    [
        ("ssh-known-hosts", another_host_key, {}, "ssh-known-hosts: the host key of"),
        ("ssh-key", public_half, {}, "ssh-key: "),
        ("ssh-key", key_with_passphrase, {"ssh-key-passphrase": "wrong"}, "ssh-key-passphrase: "),
        ("ssh-key", key_with_passphrase, {}, "ssh-key-passphrase: "),
    ],
    ids=["changed host key", "public half", "wrong passphrase", "no passphrase"],
)
def test_refused__key(
    sandbox: Sandbox,
    one_app: DemoApp,
    refuse: Callable[..., StepResult],
    tmp_path: Path,
    name: str,
    value: Callable[[Sandbox, Path], str],
    more: dict[str, str],
    wanted: str,
) -> None:
    """What is wrong with a key is told apart."""
    inputs = one_app.inputs("v2") | {name: value(sandbox, tmp_path)} | more
    assert problems(refuse(inputs))[0].startswith(wanted)


def test_refused__unknown_app(one_app: DemoApp, refuse: Callable[..., StepResult]) -> None:
    """An app that is nowhere is looked for in the swarm and in CapRover: both say so."""
    found = problems(refuse(one_app.inputs("v2") | {"app": "nowhere"}))
    assert [problem.partition(":")[0] for problem in found] == ["app", "token"], found


def test_refused__all_at_once(one_app: DemoApp, refuse: Callable[..., StepResult]) -> None:
    """Everything that is wrong with the inputs themselves is told in one go."""
    wrong = {
        "token": "",
        "image": "Upper/Case",
        "migrate-timeout": "soon",
        "on-failure": "panic",
        "verify-url": "nowhere",
    }
    found = problems(refuse(one_app.inputs("v2") | wrong))
    assert sorted(problem.partition(":")[0] for problem in found) == sorted(wrong), found


def test_refused__global_service(one_app: DemoApp, refuse: Callable[..., StepResult]) -> None:
    """A service that runs once on every node cannot be stopped by its instance count."""
    manager = one_app.place.manager
    name = f"srv-captain--{one_app.name}"
    image = one_app.place.image("v1")
    manager.execute("docker", "service", "create", "--detach", "--mode=global", f"--name={name}", image)
    try:
        (problem,) = problems(refuse(one_app.inputs("v2", service=name)))
    finally:
        manager.execute("docker", "service", "rm", name)
    assert problem.startswith("app: "), problem
    assert "global-mode" in problem


def test_refused__nothing_was_changed(one_app: DemoApp, refuse: Callable[..., StepResult]) -> None:
    """The old version runs as before, whatever was tried; and the summary says so too."""
    before = Before.of(one_app)
    result = refuse(one_app.inputs("v2") | {"token": "wrong"})
    assert "⛔ refused: nothing was changed" in result.summary
    before.assert_only_image_differs(before.image)
