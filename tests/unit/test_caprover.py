import json
import socket
import ssl
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from capmig.caprover import CapRoverClient
from capmig.caprover_http import NotCapRover, Transport
from capmig.errors import CapmigError, CapRoverBusy, CapRoverRefused, FateUnknown, Refused
from capmig.ports import BuildState, Credentials
from tests.fakes.clock import FakeClock

LOGIN = "/api/v2/login"
DEPLOY = "/api/v2/user/apps/appData/web?detached=1"
STATUS = "/api/v2/user/apps/appData/web"
APPS = "/api/v2/user/apps/appDefinitions"
REGISTRIES = "/api/v2/user/registries"


@dataclass(frozen=True)
class Answer:
    body: str
    code: int = 200
    content_type: str = "application/json; charset=utf-8"
    location: str = ""


def api(status: int, description: str, data: Any = None) -> Answer:
    return Answer(json.dumps({"status": status, "description": description, "data": data or {}}))


# As a CapRover 1.15.3 gave them.
LOGGED_IN = api(100, "Login succeeded", {"token": "SESSION-TOKEN"})
WRONG_PASSWORD = api(1105, "Invalid credentials")
BACK_OFF = api(1113, "Too many wrong passwords... Wait for 30 seconds and retry.")
OTP_REQUIRED = api(1114, "Enter OTP token as well")
PRO_FAILED = api(1000, "Pro API failed")
NO_AUTH = api(1106, "Auth token corrupted")
SESSION_ENDED = api(1106, "Auth token is no longer valid. Request for a new auth token")
NO_CONTENT = api(1108, "Either uploadedTarPathSource or captainDefinitionContent should be provided, but not both.")
STARTED = api(101, "Deploy is started")
UNKNOWN_APP = api(1000, "App (web) could not be found. Make sure that you have created the app.")
STARTING = api(1001, "Captain is not ready yet...")
LOCKED = Answer("Another operation still in progress... please wait...", 429, "text/html; charset=utf-8")
BROKEN = Answer("Internal Server Error", 500, "text/plain; charset=utf-8")
BAD_GATEWAY = Answer("<html><center><h1>502 Bad Gateway</h1></center></html>", 502, "text/html")
UNAVAILABLE = Answer("<html><center><h1>503 Service Unavailable</h1></center></html>", 503, "text/html")
GATEWAY_TIMEOUT = Answer("<html><center><h1>504 Gateway Time-out</h1></center></html>", 504, "text/html")
DASHBOARD = Answer("<!doctype html><html><title>CapRover</title></html>", 200, "text/html")
NOT_FOUND = Answer("Not Found", 404, "text/plain; charset=utf-8")
DROPPED = Answer("", 0)
BUILT = api(
    100,
    "App build status retrieved",
    {
        "isAppBuilding": False,
        "logs": {"lines": ["", "Build started for web", "", "Deploy failed! "], "firstLineNumber": -42},
        "isBuildFailed": True,
    },
)


def app(name: str, **changes: Any) -> dict[str, Any]:
    return {"appName": name, "isAppBuilding": False, "instanceCount": 2, "preDeployFunction": "", **changes}


def definitions(*apps: dict[str, Any]) -> Answer:
    return api(100, "App definitions are retrieved.", {"appDefinitions": list(apps)})


@dataclass
class Server:
    """Answers each path with what was scripted for it, the last answer for ever, and remembers what was asked."""

    url: str = ""
    script: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)

    def answer(self, path: str) -> Answer:
        answers = self.script.get(path, [NOT_FOUND])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _, _ in self.asked]


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            self.close_connection = True
            if not self.raw_requestline or not self.parse_request():
                return
            size = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            headers = defaultdict(str, {name.lower(): value for name, value in self.headers.items()})
            server.asked.append((self.command, self.path, headers, body))
            answer = server.answer(self.path)
            if answer is DROPPED:
                return
            content = answer.body.encode()
            self.send_response(answer.code)
            self.send_header("content-type", answer.content_type)
            self.send_header("content-length", str(len(content)))
            if answer.location:
                self.send_header("location", answer.location)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        if context is not None:
            listener.socket = context.wrap_socket(listener.socket, server_side=True)
        server.url = f"{'https' if context else 'http'}://127.0.0.1:{listener.server_address[1]}"
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def closed() -> Iterator[str]:
    """An address where nothing listens, and nothing else can begin to while the test runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def client(server: Server | str, name: str = "web", **access: Any) -> closing[CapRoverClient]:
    access = access or {"token": "APP-TOKEN"}
    return closing(CapRoverClient(server if isinstance(server, str) else server.url, name, **access))


def refusal(server: Server | str, **access: Any) -> Refused:
    with client(server, **access) as caprover, pytest.raises(Refused) as refused:
        caprover.check()
    return refused.value


def test_deploy__request(server: Server) -> None:
    """A deploy is one detached POST with the image as a JSON text within the JSON."""
    server.script = {DEPLOY: [STARTED]}
    with client(server) as caprover:
        caprover.deploy("ghcr.io/acme/web:2", "0123abc")
    ((method, path, headers, body),) = server.asked
    assert (method, path) == ("POST", DEPLOY)
    assert headers["x-namespace"] == "captain"
    assert headers["x-captain-app-token"] == "APP-TOKEN"
    assert headers["x-captain-auth"] == ""
    assert body["gitHash"] == "0123abc"
    assert json.loads(body["captainDefinitionContent"]) == {"schemaVersion": 2, "imageName": "ghcr.io/acme/web:2"}


@pytest.mark.parametrize("answer", [LOCKED, BROKEN, BAD_GATEWAY, UNAVAILABLE, STARTING], ids=lambda a: str(a.code))
def test_deploy__busy(server: Server, answer: Answer) -> None:
    """What CapRover, or nginx for it, says before it queues anything means: not done, try again. It is sent once."""
    server.script = {DEPLOY: [answer, STARTED]}
    with client(server) as caprover:
        with pytest.raises(CapRoverBusy):
            caprover.deploy("web:2", "")
        assert server.paths == [DEPLOY]
        caprover.deploy("web:2", "")


@pytest.mark.parametrize("answer", [GATEWAY_TIMEOUT, DROPPED, DASHBOARD], ids=["504", "dropped", "no JSON"])
def test_deploy__fate_unknown(server: Server, answer: Answer) -> None:
    """An answer that was lost on its way leaves open whether the deploy was queued; it is not sent again."""
    server.script = {DEPLOY: [answer, STARTED]}
    with client(server) as caprover, pytest.raises(FateUnknown):
        caprover.deploy("web:2", "")
    assert server.paths == [DEPLOY]


@pytest.mark.parametrize(
    ("answer", "status"), [(NO_AUTH, 1106), (UNKNOWN_APP, 1000), (NOT_FOUND, 404)], ids=["1106", "1000", "404"]
)
def test_deploy__refused(server: Server, answer: Answer, status: int) -> None:
    """A refusal carries CapRover's own words and its status."""
    server.script = {DEPLOY: [answer]}
    with client(server) as caprover, pytest.raises(CapRoverRefused) as refused:
        caprover.deploy("web:2", "")
    assert refused.value.status == status
    if answer is UNKNOWN_APP:
        assert (
            refused.value.what == "App (web) could not be found. Make sure that you have created the app. (status 1000)"
        )


def test_deploy__nothing_listens(closed: str) -> None:
    """A refused connection means that nothing was sent."""
    with client(closed) as caprover, pytest.raises(CapRoverBusy, match="Connection refused"):
        caprover.deploy("web:2", "")


def test_deploy__redirect(server: Server) -> None:
    """A redirect is not followed, since the POST would arrive as a GET; the right address is told instead."""
    server.script = {DEPLOY: [Answer("", 302, location=f"https://captain.example.com{DEPLOY}")]}
    with client(server) as caprover, pytest.raises(CapRoverRefused) as refused:
        caprover.deploy("web:2", "")
    assert refused.value.todo == "Set `server` to https://captain.example.com"
    assert server.paths == [DEPLOY]


def test_deploy__session_ended(server: Server) -> None:
    """With a password, a restart of CapRover costs one more login and no more."""
    server.script = {LOGIN: [LOGGED_IN], DEPLOY: [STARTED, SESSION_ENDED, STARTED]}
    with client(server, password="pw-pw-pw") as caprover:
        caprover.deploy("web:1", "")
        caprover.deploy("web:2", "")
    assert server.paths == [LOGIN, DEPLOY, DEPLOY, LOGIN, DEPLOY]
    assert server.asked[-1][2]["x-captain-auth"] == "SESSION-TOKEN"


def test_deploy__session_never_good(server: Server) -> None:
    """A session that is refused right after its login is not asked for again and again."""
    server.script = {LOGIN: [LOGGED_IN], DEPLOY: [SESSION_ENDED]}
    with client(server, password="pw-pw-pw") as caprover, pytest.raises(CapRoverRefused):
        caprover.deploy("web:2", "")
    assert server.paths == [LOGIN, DEPLOY]


def test_deploy__session_ended_otp(server: Server) -> None:
    """A one-time password cannot log in twice: the refusal says so and names the way out."""
    server.script = {LOGIN: [LOGGED_IN], DEPLOY: [STARTED, SESSION_ENDED]}
    with client(server, password="pw-pw-pw", otp="123456") as caprover:
        caprover.deploy("web:1", "")
        with pytest.raises(CapRoverRefused, match="one-time password works once") as refused:
            caprover.deploy("web:2", "")
    assert "`token`" in refused.value.todo
    assert server.paths.count(LOGIN) == 1


def test_deploy__back_off(server: Server) -> None:
    """While others lock everybody out, a deploy is not refused for good."""
    server.script = {LOGIN: [BACK_OFF, LOGGED_IN], DEPLOY: [STARTED]}
    with client(server, password="pw-pw-pw") as caprover:
        with pytest.raises(CapRoverBusy, match="no login from anyone"):
            caprover.deploy("web:2", "")
        caprover.deploy("web:2", "")


def test_deploy__token_before_session(server: Server) -> None:
    """With both, the token deploys: CapRover ignores it beside a session, and it outlives restarts."""
    server.script = {DEPLOY: [STARTED]}
    with client(server, token="APP-TOKEN", password="pw-pw-pw") as caprover:
        caprover.deploy("web:2", "")
    assert server.paths == [DEPLOY]


def test_build__state(server: Server) -> None:
    """The build's state comes with the lines of its log that say something."""
    server.script = {LOGIN: [LOGGED_IN], STATUS: [BUILT]}
    with client(server, password="pw-pw-pw") as caprover:
        assert caprover.build() == BuildState(
            building=False, failed=True, lines=("Build started for web", "Deploy failed!")
        )


def test_build__queued(server: Server) -> None:
    """The failure that shows while ours is queued is that of the build before it."""
    lines = ["An active build (web) is in progress. This build is queued...", "Deploy failed!"]
    data = {"isAppBuilding": False, "logs": {"lines": lines, "firstLineNumber": -48}, "isBuildFailed": True}
    server.script = {LOGIN: [LOGGED_IN], STATUS: [api(100, "App build status retrieved", data)]}
    with client(server, password="pw-pw-pw") as caprover:
        assert caprover.build() == BuildState(building=False, failed=False, lines=tuple(lines))


def test_build__token(server: Server) -> None:
    """An app token may ask nothing, so nothing is asked."""
    with client(server) as caprover:
        assert caprover.build() is None
        assert caprover.registry_credentials("web:2") is None
    assert server.paths == []


@pytest.mark.parametrize("answer", [BAD_GATEWAY, GATEWAY_TIMEOUT, DROPPED, STARTING, DASHBOARD])
def test_build__cannot_be_asked(server: Server, answer: Answer) -> None:
    """A read that fails had no effect, however it fails: it can be tried again."""
    server.script = {LOGIN: [LOGGED_IN], STATUS: [answer]}
    with client(server, password="pw-pw-pw") as caprover, pytest.raises(CapRoverBusy):
        caprover.build()


def test_build__password_changed(server: Server) -> None:
    """A password that turned wrong is not sent over and over: that would lock everyone out."""
    server.script = {LOGIN: [LOGGED_IN, WRONG_PASSWORD], STATUS: [BUILT, SESSION_ENDED]}
    with client(server, password="pw-pw-pw") as caprover:
        assert caprover.build()
        assert [caprover.build() for _ in range(5)] == [None] * 5
    assert server.paths.count(LOGIN) == 2


@pytest.mark.parametrize(
    ("image", "user"),
    [
        ("127.0.0.1:5001/private/web:2", "deployer"),
        ("127.0.0.1:5001/privateer/web:2", "any"),
        ("127.0.0.1:50012/web:2", None),
        ("acme/web:2", "hub"),
        ("docker.io/acme/web:2", "hub"),
        ("ghcr.io/acme/web:2", None),
        ("ghcr.io/web:2", None),
        ("localhost/web:2", None),
        ("web:2", None),
    ],
)
def test_registry_credentials__match(server: Server, image: str, user: str | None) -> None:
    """The first registry whose `domain/prefix/` begins the image gives the login, as when CapRover pulls."""
    registries = [
        ("127.0.0.1:5001", "private", "deployer"),
        ("127.0.0.1:5001", "", "any"),
        ("registry-1.docker.io", "acme-inc", "hub"),
    ]
    found = [
        {
            "registryDomain": domain,
            "registryImagePrefix": prefix,
            "registryUser": name,
            "registryPassword": f"pw {name}",
        }
        for domain, prefix, name in registries
    ]
    server.script = {LOGIN: [LOGGED_IN], REGISTRIES: [api(100, "All registries retrieved", {"registries": found})]}
    with client(server, password="pw-pw-pw") as caprover:
        expected = None if user is None else Credentials(username=user, password=f"pw {user}")
        assert caprover.registry_credentials(image) == expected


def test_registry_credentials__lost_answer(server: Server) -> None:
    """An answer that is lost on the way is asked for again: it is no reason to refuse a deploy."""
    none = api(100, "All registries retrieved", {"registries": []})
    server.script = {LOGIN: [LOGGED_IN], REGISTRIES: [DROPPED, none]}
    with client(server, password="pw-pw-pw", clock=FakeClock()) as caprover:
        assert caprover.registry_credentials("web:2") is None
    assert server.paths.count(REGISTRIES) == 2


def test_check__right_token(server: Server) -> None:
    """A right token is told that the content is missing: no deploy was asked for."""
    server.script = {DEPLOY: [NO_CONTENT]}
    with client(server) as caprover:
        (warning,) = caprover.check()
    assert "unencrypted" in warning
    assert [body for *_, body in server.asked] == [{}]


def test_check__wrong_token(server: Server) -> None:
    """A wrong token is refused by its input's name; the app's name may be what is wrong."""
    server.script = {DEPLOY: [NO_AUTH]}
    refused = refusal(server)
    assert refused.problems[0].startswith("token: ")
    assert "`app`" in refused.problems[0]
    assert "APP-TOKEN" not in str(refused)


def test_check__broken_token(server: Server) -> None:
    """A token with a line break in it is told apart from a wrong address."""
    assert refusal(server, token="APP\nTOKEN").problems[0].startswith("token: ")


def test_check__busy_for_a_while(server: Server) -> None:
    """A CapRover that restarts, or is at something else, is waited for."""
    server.script = {DEPLOY: [LOCKED, BAD_GATEWAY, BROKEN, STARTING, NO_CONTENT]}
    clock = FakeClock()
    with client(server, token="APP-TOKEN", clock=clock) as caprover:
        caprover.check()
    assert clock.monotonic() == FakeClock().monotonic() + 8


def test_check__busy_for_ever(server: Server) -> None:
    """The wait has an end, and says what CapRover answered."""
    server.script = {DEPLOY: [LOCKED]}
    clock = FakeClock()
    refused = refusal(server, token="APP-TOKEN", clock=clock)
    assert refused.problems == (
        "server: CapRover is busy or starting (HTTP 429): Another operation still in progress... please wait...",
    )
    assert clock.monotonic() <= FakeClock().monotonic() + 30


@pytest.mark.parametrize(
    ("answer", "otp", "problem"),
    [
        (WRONG_PASSWORD, "", "password: CapRover does not accept this password"),
        (BACK_OFF, "", "password: CapRover takes no login from anyone now"),
        (OTP_REQUIRED, "", "otp: CapRover asks for a one-time password"),
        (OTP_REQUIRED, "123456", "otp: CapRover did not accept the one-time password"),
        (PRO_FAILED, "123456", "otp: Pro API failed"),
        (api(1000, "password is too long - maximum 29 characters."), "", "password: password is too long"),
        (DASHBOARD, "", "server: "),
    ],
)
def test_check__login(server: Server, answer: Answer, otp: str, problem: str) -> None:
    """A failed login names the input at fault, after one attempt."""
    server.script = {LOGIN: [answer]}
    refused = refusal(server, password="pw-pw-pw", otp=otp)
    assert refused.problems[0].startswith(problem)
    assert server.paths == [LOGIN]
    assert "pw-pw-pw" not in str(refused)


def test_check__otp_sent(server: Server) -> None:
    """The one-time password goes along with the password; a busy moment after the login does not need a second one."""
    server.script = {LOGIN: [LOGGED_IN], APPS: [BAD_GATEWAY, definitions(app("web"))]}
    with client(server, password="pw-pw-pw", otp="123456", clock=FakeClock()) as caprover:
        caprover.check()
    assert server.asked[0][3] == {"password": "pw-pw-pw", "otpToken": "123456"}
    assert server.paths == [LOGIN, APPS, APPS]


def test_check__unknown_app(server: Server) -> None:
    """A misspelt app is refused with the names that come near."""
    server.script = {LOGIN: [LOGGED_IN], APPS: [definitions(app("web-api"), app("webapp"), app("mail"))]}
    refused = refusal(server, password="pw-pw-pw")
    assert refused.problems == ("app: CapRover has no app 'web'; near names: webapp, web-api",)


def test_check__warnings(server: Server) -> None:
    """A build that the deploy would wait for, and a hook that would run beside the migration, are told before."""
    web = app("web", preDeployFunction="var preDeployFunction = …", instanceCount=0)
    apps = definitions(web, app("slow", isAppBuilding=True))
    server.script = {LOGIN: [LOGGED_IN], APPS: [apps]}
    with client(server, password="pw-pw-pw") as caprover:
        _, count, building, hook = caprover.check()
    assert "the instance count 0 stored for web" in count
    assert "building slow now" in building
    assert "preDeployFunction" in hook


@pytest.mark.parametrize("answer", [DASHBOARD, NOT_FOUND, Answer("[]"), Answer("{}"), Answer("", 401)])
def test_check__not_caprover(server: Server, answer: Answer) -> None:
    """What is no CapRover is refused at once as a wrong address."""
    server.script = {DEPLOY: [answer]}
    refused = refusal(server)
    assert "does not answer like CapRover's API" in refused.problems[0]
    assert refused.problems[0].startswith("server: ")
    assert "https://captain.example.com" in refused.todo


@pytest.mark.parametrize("address", ["captain.example.com", "ftp://captain.example.com", "http://", "http://[1"])
def test_check__no_address(address: str) -> None:
    """What is no web address at all is refused as such."""
    assert refusal(address).problems == ("server: this is no web address",)


def test_check__nothing_listens(closed: str) -> None:
    """A port where nothing listens is refused at once."""
    assert refusal(closed).problems == (f"server: cannot connect to {closed}: Connection refused",)


def test_check__http_behind_https(server: Server) -> None:
    """https where only http is spoken is refused at once as a wrong address."""
    assert refusal(server.url.replace("http:", "https:")).problems[0].startswith("server: no TLS connection to ")


def test_check__untrusted_certificate(tmp_path: Path) -> None:
    """A certificate that nobody vouches for is refused with the reason, and nothing is sent."""
    pem = tmp_path / "server.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/CN=localhost",
            "-out",
            pem,
            "-keyout",
            pem,
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with serving(context) as server:
        refused = refusal(server)
    assert refused.problems[0].startswith(f"server: the certificate of {server.url} is not trusted: self")
    assert server.asked == []


def test_errors__no_secrets(server: Server) -> None:
    """An answer that repeats what it was sent puts no secret into the error; nor does the client's repr."""
    server.script = {DEPLOY: [api(1000, "token APP-TOKEN and\nmore " + "x" * 1000)]}
    address = server.url.replace("://", "://nginx:basic-pw@")
    with client(address) as caprover:
        with pytest.raises(CapRoverRefused) as refused:
            caprover.deploy("web:2", "")
        assert "APP-TOKEN" not in repr(caprover)
    assert refused.value.what.startswith("token *** and more xxx")
    assert len(refused.value.what) < 400
    server.script = {DEPLOY: [NOT_FOUND]}
    assert "basic-pw" not in str(refusal(address))


@pytest.mark.parametrize(("acts", "error"), [(True, FateUnknown), (False, CapRoverBusy)])
def test_send__no_answer(silent: str, acts: bool, error: type[CapmigError]) -> None:
    """A server that never answers is left after the read timeout; only what acts may have taken effect."""
    with requests.Session() as session, pytest.raises(error):
        Transport(silent, (), session, read=0.2).send("POST", "/x", deadline=time.monotonic() + 60, body={}, acts=acts)


def test_send__dribbling_answer() -> None:
    """A server that sends a byte now and then does not hold the call past its deadline."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def dribble() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                try:
                    while True:
                        connection.sendall(b" ")
                        time.sleep(0.05)
                except OSError:
                    return  # the client has gone, as it should

        thread = threading.Thread(target=dribble)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with requests.Session() as session, pytest.raises(FateUnknown):
            Transport(url, (), session).send("POST", "/x", deadline=time.monotonic() + 6, body={}, acts=True)
        thread.join()


def test_send__no_time_left(server: Server) -> None:
    """What could not be answered in time is not sent at all."""
    with requests.Session() as session, pytest.raises(CapRoverBusy):
        Transport(server.url, (), session).send("POST", "/x", deadline=time.monotonic() + 1, body={}, acts=True)
    assert server.asked == []


def test_send__redirect_without_address(server: Server) -> None:
    """A redirect to a path, such as a login page, names no other server."""
    server.script = {"/api/v2/x": [Answer("", 307, location="/login")]}
    with requests.Session() as session, pytest.raises(NotCapRover, match="redirects to another page"):
        Transport(server.url, (), session).send("GET", "/x", deadline=time.monotonic() + 60)
