"""What the answers and the silences of a Docker engine mean, with a small server in its place."""

from __future__ import annotations

import json
import os
import socketserver
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from capmig.errors import Conflict, EngineRefused, Exists, FateUnknown, LinkLost
from capmig.ports import Config, Credentials, Service, Spec
from capmig.swarm import DockerSwarm
from tests.fakes.clock import FakeClock

# What the server does with a request: bytes to answer with, or None to hang up.
Reply = bytes | None
SERVICE = Service(id="abc", name="web", version=7, spec={"Name": "web", "Mode": {"Replicated": {"Replicas": 1}}})
CONFIG = Config(id="c1", name="journal", version=3, labels={})
INFO = {"SystemTime": "2026-11-28T08:00:00Z"}
OUT_OF_SEQUENCE = "rpc error: code = Unknown desc = update out of sequence"


def answer(status: int, body: object, *, length: int | None = None, close: bool = False) -> bytes:
    """An answer; with a `length` that is not its own it breaks off. The connection ends after that, as with `close`."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    ending = "Connection: close\r\n" if close or length is not None else ""
    return f"HTTP/1.1 {status} X\r\n{ending}Content-Length: {length or len(text)}\r\n\r\n".encode() + text


def refusal(status: int, message: str) -> bytes:
    return answer(status, {"message": message})


def raw_task(status: dict[str, object], **fields: object) -> dict[str, object]:
    """A task as the engine describes it."""
    return {
        "ID": "t",
        "ServiceID": "j",
        "Spec": {"ContainerSpec": {"Image": "i"}},
        "Status": status,
        "DesiredState": "running",
        "CreatedAt": "2026-11-28T04:45:51Z",
    } | fields


class Server(socketserver.ThreadingUnixStreamServer):
    """Speaks just enough HTTP; `requests`: method, path and query, headers in lower case, and body of each."""

    connections = 0

    daemon_threads = True
    replies: list[Reply]
    requests: list[tuple[str, str, dict[str, str], bytes]]


class Handler(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        self.server.connections += 1
        while line := self.rfile.readline():
            method, path, _ = line.decode().split(" ", 2)
            headers = {}
            while (header := self.rfile.readline().decode().strip()) != "":
                key, _, value = header.partition(":")
                headers[key.lower()] = value.strip()
            body = self.rfile.read(int(headers.get("content-length", 0)))
            if path == "/version":
                self.wfile.write(answer(200, {"ApiVersion": "1.41"}))
                continue
            self.server.requests.append((method, path, headers, body))
            reply = self.server.replies.pop(0)
            if reply is None:
                return
            self.wfile.write(reply)
            if b"Connection: close" in reply:
                return


class RecordedLink:
    """A link that counts how often it was asked to mend itself, and does so by `mend`."""

    def __init__(self, mend: Callable[[], None] = lambda: None) -> None:
        self.asked = 0
        self.mend = mend

    def ensure(self) -> None:
        self.asked += 1
        self.mend()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name: a socket's path has at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="capmig-") as name:
        yield Path(name)


@contextmanager
def serving(socket: Path, *replies: Reply) -> Iterator[Server]:
    with Server(str(socket), Handler) as server:
        server.replies, server.requests = list(replies), []
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def swarm_at(socket: Path, link: RecordedLink | None = None) -> Iterator[DockerSwarm]:
    swarm = DockerSwarm(f"unix://{socket}", link or RecordedLink(), FakeClock())
    try:
        yield swarm
    finally:
        swarm.close()


def test_read__hung_up_once(folder: Path) -> None:
    """A read whose answer was lost is repeated, after the link was looked after."""
    link = RecordedLink()
    with serving(folder / "s", None, answer(200, [])) as server, swarm_at(folder / "s", link) as swarm:
        assert swarm.nodes() == []
    assert len(server.requests) == 2
    assert link.asked == 1


def test_read__one_connection_for_all(folder: Path) -> None:
    """Calls one after the other share a connection, whatever they ask for: each costs a channel of the link."""
    replies = [answer(200, []) for _ in range(3)]
    with serving(folder / "s", *replies) as server, swarm_at(folder / "s") as swarm:
        swarm.nodes()
        swarm.service("web")
        swarm.config("journal")
    assert server.connections == 1


def test_read__answer_breaks_off(folder: Path) -> None:
    """Half an answer is none."""
    with serving(folder / "s", answer(200, [], length=999), answer(200, [])), swarm_at(folder / "s") as swarm:
        assert swarm.nodes() == []


def test_read__link_comes_back(folder: Path) -> None:
    """A socket that is missing at first is used once the link has brought it back."""
    with serving(folder / "there", answer(200, [])):
        link = RecordedLink(lambda: os.rename(folder / "there", folder / "s"))
        with swarm_at(folder / "s", link) as swarm:
            assert swarm.nodes() == []
    assert link.asked == 1


def test_read__link_stays_away(folder: Path) -> None:
    """Without a socket a read gives up in bounded time, and says what it met."""
    link = RecordedLink()
    with swarm_at(folder / "s", link) as swarm, pytest.raises(LinkLost, match="No such file"):
        swarm.nodes()
    assert link.asked > 1


def test_read__link_says_it_is_lost(folder: Path) -> None:
    """What the link itself says of the loss is what is told."""

    def lost() -> None:
        raise LinkLost("the key was refused")

    with swarm_at(folder / "s", RecordedLink(lost)) as swarm, pytest.raises(LinkLost, match="the key was refused"):
        swarm.nodes()


def test_read__refused_with_the_engine_s_words(folder: Path) -> None:
    """An error of the engine is told in its own words, without the wrapping."""
    reply = refusal(503, "This node is not a swarm manager.")
    with (
        serving(folder / "s", reply),
        swarm_at(folder / "s") as swarm,
        pytest.raises(EngineRefused, match=r"This node is not a swarm manager\.") as error,
    ):
        swarm.nodes()
    assert error.value.status == 503


def test_read__waits_for_a_leader(folder: Path) -> None:
    """Managers between two leaders answer a moment later."""
    reply = refusal(500, "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that…")
    with serving(folder / "s", reply, answer(200, [])), swarm_at(folder / "s") as swarm:
        assert swarm.nodes() == []


def test_read__no_leader_comes(folder: Path) -> None:
    """Managers that do not agree on a leader in bounded time are told of, with what to do."""
    reply = refusal(500, "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that…")
    with serving(folder / "s", *[reply] * 99), swarm_at(folder / "s") as swarm, pytest.raises(LinkLost) as error:
        swarm.nodes()
    assert "The swarm has no leader" in error.value.what
    assert "more than half" in error.value.todo


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [
        ({"State": "complete", "ContainerStatus": {"ContainerID": "c", "ExitCode": 0}}, 0),
        ({"State": "failed", "ContainerStatus": {"ContainerID": "c", "ExitCode": 137}}, 137),
        ({"State": "running", "ContainerStatus": {"ContainerID": "c", "ExitCode": -1}}, None),
        ({"State": "rejected", "ContainerStatus": {"ContainerID": "", "ExitCode": 0}}, None),
        ({"State": "pending"}, None),
        (
            {
                "State": "failed",
                "Err": 'starting container failed: exec: "x": executable file not found in $PATH: unknown',
                "ContainerStatus": {"ContainerID": "c", "ExitCode": 127},
            },
            None,
        ),
    ],
)
def test_tasks__exit_code_only_of_what_ran_and_ended(
    folder: Path, status: dict[str, object], exit_code: int | None
) -> None:
    """The engine's exit codes of tasks that run, or never ran, say nothing."""
    with serving(folder / "s", answer(200, [raw_task(status)])), swarm_at(folder / "s") as swarm:
        [task] = swarm.tasks(SERVICE)
    assert task.exit_code == exit_code


def test_tasks__creation_times_compare_as_text(folder: Path) -> None:
    """The engine leaves trailing zeros out."""
    times = ("2026-11-28T04:45:51Z", "2026-11-28T04:45:51.1Z", "2026-11-28T04:45:51.12Z")
    tasks = [raw_task({"State": "running"}, CreatedAt=time) for time in times]
    with serving(folder / "s", answer(200, tasks)), swarm_at(folder / "s") as swarm:
        created = [task.created for task in swarm.tasks(SERVICE)]
    assert created == sorted(created)
    assert created[1] == "2026-11-28T04:45:51.100000000Z"


def test_tasks__of_a_removed_service(folder: Path) -> None:
    """The engine's filter does not know a removed service; its tasks are looked for by name."""
    tasks = [raw_task({"State": "running"}, ServiceID=id) for id in ("abc", "other")]
    replies = refusal(404, "service abc not found"), answer(200, tasks)
    with serving(folder / "s", *replies) as server, swarm_at(folder / "s") as swarm:
        assert [task.service_id for task in swarm.tasks(SERVICE)] == ["abc"]
    asked = [json.loads(parse_qs(urlsplit(path).query)["filters"][0]) for _, path, *_ in server.requests]
    assert asked == [{"service": ["abc"]}, {"name": ["web"]}]


def test_resolve__asks_the_registry_with_the_credentials(folder: Path) -> None:
    """The engine asks the image's registry, as whom it is told."""
    found = answer(200, {"Descriptor": {"digest": "sha256:1"}})
    with serving(folder / "s", found) as server, swarm_at(folder / "s") as swarm:
        assert swarm.resolve("registry:5000/a/web:1", Credentials(username="me", password="x")) == "sha256:1"
    _, path, headers, _ = server.requests[0]
    assert path == "/v1.41/distribution/registry:5000/a/web:1/json"
    assert "x-registry-auth" in headers


def test_write__nothing_was_sent(folder: Path) -> None:
    """Without a connection a mutation surely did nothing; the link is mended for what comes next."""
    link = RecordedLink()
    with swarm_at(folder / "s", link) as swarm:
        with serving(folder / "s", answer(200, [], close=True)):
            swarm.nodes()
        (folder / "s").unlink()
        with pytest.raises(LinkLost, match="was not sent"):
            swarm.update_service(SERVICE, SERVICE.spec)
    assert link.asked == 1


def test_write__sent_once_the_link_is_mended(folder: Path) -> None:
    """What was surely not sent is sent over the mended link: a deploy does not fail for a link that was cut."""
    with ExitStack() as stack:
        link = RecordedLink(lambda: servers.append(stack.enter_context(serving(folder / "s", answer(200, {})))))
        servers: list[Server] = []
        with swarm_at(folder / "s", link) as swarm:
            with serving(folder / "s", answer(200, [], close=True)):
                swarm.nodes()
            (folder / "s").unlink()
            swarm.update_service(SERVICE, SERVICE.spec)
    assert link.asked == 1
    assert [len(server.requests) for server in servers] == [1]


@pytest.mark.parametrize("reply", [None, answer(200, {}, length=999)], ids=["hung up", "broke off"])
def test_write__answer_lost(folder: Path, reply: Reply) -> None:
    """A mutation whose answer is lost is sent once, and may have taken effect."""
    with serving(folder / "s", reply) as server, swarm_at(folder / "s") as swarm, pytest.raises(FateUnknown):
        swarm.update_service(SERVICE, SERVICE.spec)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "words", "error"),
    [
        (500, OUT_OF_SEQUENCE, Conflict),
        (500, "rpc error: code = Unknown desc = raft: context deadline exceeded", FateUnknown),
        (503, "rpc error: code = DeadlineExceeded desc = context deadline exceeded", FateUnknown),
        (500, "raft: failed to process the request: node lost leader status", FateUnknown),
        (500, "rpc error: code = Unknown desc = The swarm does not have a leader.", LinkLost),
        (404, "service abc not found", EngineRefused),
        (409, "something else that conflicts", EngineRefused),
        (400, "invalid mount", EngineRefused),
    ],
)
def test_write__what_a_refusal_means(folder: Path, status: int, words: str, error: type[Exception]) -> None:
    """Each kind of refusal of a mutation is told apart, and none is retried."""
    with (
        serving(folder / "s", refusal(status, words)) as server,
        swarm_at(folder / "s") as swarm,
        pytest.raises(error),
    ):
        swarm.update_service(SERVICE, SERVICE.spec)
    assert len(server.requests) == 1


def test_write__error_that_is_not_json(folder: Path) -> None:
    """Whatever text comes with an error is shown."""
    with (
        serving(folder / "s", answer(502, b"bad gateway")),
        swarm_at(folder / "s") as swarm,
        pytest.raises(EngineRefused, match="bad gateway"),
    ):
        swarm.update_service(SERVICE, SERVICE.spec)


def test_create__name_is_taken(folder: Path) -> None:
    """A conflict of names is told as such, for services and configs."""
    taken = refusal(409, "rpc error: code = AlreadyExists desc = name conflicts with an existing object")
    with serving(folder / "s", taken, taken), swarm_at(folder / "s") as swarm:
        with pytest.raises(Exists):
            swarm.create_service(SERVICE.spec)
        with pytest.raises(Exists):
            swarm.create_config("journal", {})


def test_create_service__credentials_only_when_given(folder: Path) -> None:
    """The header that hands credentials over is sent with them, and never empty."""
    with serving(folder / "s", answer(201, {}), answer(201, {})) as server, swarm_at(folder / "s") as swarm:
        swarm.create_service(SERVICE.spec)
        swarm.create_service(SERVICE.spec, Credentials(username="me", password="þ?>"))
    without, given = (headers for _, _, headers, _ in server.requests)
    assert "x-registry-auth" not in without
    assert given["x-registry-auth"] == "eyJ1c2VybmFtZSI6ICJtZSIsICJwYXNzd29yZCI6ICJcdTAwZmU_PiJ9"


def test_update_service__sends_the_spec_as_it_is(folder: Path) -> None:
    """Nulls, empty values and unknown fields go back to the engine as they came."""
    spec: Spec = {
        "Name": "web",
        "Mode": {"Replicated": {"Replicas": 0}},
        "Odd": None,
        "Empty": [],
        "New": {"Field": "é"},
    }
    with serving(folder / "s", answer(200, {})) as server, swarm_at(folder / "s") as swarm:
        swarm.update_service(SERVICE, spec)
    method, path, headers, body = server.requests[0]
    assert (method, path) == ("POST", "/v1.41/services/abc/update?version=7")
    assert "x-registry-auth" not in headers
    assert json.loads(body) == spec


def test_remove__gone_already(folder: Path) -> None:
    """Removing what is gone is no error."""
    gone = refusal(404, "not found")
    with serving(folder / "s", gone, gone), swarm_at(folder / "s") as swarm:
        swarm.remove_service(SERVICE)
        swarm.remove_config(CONFIG)


def test_remove_service__job_that_does_not_end(folder: Path) -> None:
    """A job whose tasks swarm goes on wanting is not removed, for it would be forgotten while it runs."""
    job = Service(id="j", name="job", version=1, spec={"Name": "job", "Mode": {"ReplicatedJob": {}}})
    raw = {"ID": "j", "Version": {"Index": 2}, "Spec": job.spec}
    tasks = answer(200, [raw_task({"State": "running"}, DesiredState="complete")])
    with (
        serving(folder / "s", tasks, answer(200, raw), answer(200, {}), *[tasks] * 100) as server,
        swarm_at(folder / "s") as swarm,
        pytest.raises(FateUnknown),
    ):
        swarm.remove_service(job)
    changes = [(method, path, json.loads(body)["Mode"]) for method, path, _, body in server.requests if body]
    none_wanted = {"ReplicatedJob": {"MaxConcurrent": 0, "TotalCompletions": 0}}
    assert changes == [("POST", "/v1.41/services/j/update?version=2", none_wanted)]
    assert "DELETE" not in [method for method, *_ in server.requests]


@pytest.mark.parametrize("reply", [None, refusal(404, "service abc not found")], ids=["hung up", "gone"])
def test_logs__none_to_be_had(folder: Path, reply: Reply) -> None:
    """Logs that cannot be had are no lines, and no error: nothing is decided by them."""
    service = Service(id="abc", name="web", version=7, spec={"TaskTemplate": {"ContainerSpec": {}}})
    with serving(folder / "s", reply), swarm_at(folder / "s") as swarm:
        assert swarm.logs(service, "2026-11-28T04:45:51.071219875Z") == []


def test_stop_containers__errors_are_no_concern(folder: Path) -> None:
    """A container that is gone, or an answer that never comes, stops nobody from going on."""
    listed = answer(200, [{"Id": "one"}, {"Id": "two"}])
    with (
        serving(folder / "s", listed, refusal(404, "No such container"), None) as server,
        swarm_at(folder / "s") as swarm,
    ):
        assert swarm.stop_containers(SERVICE, 9.6) == 2
    assert {path for _, path, *_ in server.requests[1:]} == {
        f"/v1.41/containers/{id}/stop?t=10" for id in ("one", "two")
    }


def archive(size: int, content: bytes) -> bytes:
    """The beginning of a tar file with one file of this size."""
    info = tarfile.TarInfo("x")
    info.size = size
    return info.tobuf() + content


@pytest.mark.parametrize("sent", [archive(1000, b"x" * 500), archive(1000, b"")[:100], b""])
def test_file_of_volume__breaks_off(folder: Path, sent: bytes) -> None:
    """A stream that ends too soon is a lost link; the container is removed all the same."""
    replies = [
        answer(200, []),
        refusal(404, "No such container"),
        answer(201, {}),
        answer(200, sent, length=4096),
        answer(204, b""),
    ]
    with serving(folder / "s", answer(200, INFO), *replies) as server, swarm_at(folder / "s") as swarm:
        with (
            pytest.raises(LinkLost, match="broke off"),
            swarm.file_of_volume("volume", "app/x", image="i", name="n") as file,
        ):
            list(file.pieces)
        assert [f"{method} {path}" for method, path, _, _ in server.requests][-2:] == [
            "GET /v1.41/containers/n/archive?path=%2Fbackups%2Fapp%2Fx",
            "DELETE /v1.41/containers/n?force=true&v=true",
        ]
        assert server.requests[-2][2]["accept-encoding"] == "identity"


def test_file_of_volume__removes_what_a_dead_run_left(folder: Path) -> None:
    """The container of a download whose process was killed goes a day later: no download takes longer."""
    now = 1795852800  # 2026-11-28T08:00:00Z
    left = [{"Id": "old", "Created": now - 86401}, {"Id": "young", "Created": now - 86399}]
    replies = [answer(200, left), answer(204, b""), refusal(404, "-"), refusal(409, "-"), answer(204, b"")]
    with serving(folder / "s", answer(200, INFO), *replies) as server, swarm_at(folder / "s") as swarm:
        with suppress(EngineRefused), swarm.file_of_volume("volume", "app/x", image="i", name="n"):
            pass
        removed = [path for method, path, _, _ in server.requests if method == "DELETE"]
        assert removed[0] == "/v1.41/containers/old?force=true&v=true"
        assert not any("young" in path for path in removed)
