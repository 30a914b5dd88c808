"""The HTTP server around the API, the control endpoint of the tests, and restarts."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.sandbox.caprover.api import CapRover, Reply, Request
from tests.sandbox.caprover.control import RequestLog

CONTROL = "/_standin/"


class Server:
    """Serves from construction to `close`. `port` 0 takes a free one; `address` is what it got."""

    def __init__(self, caprover: CapRover, log: RequestLog, host: str, port: int) -> None:
        self._caprover = caprover
        self._log = log
        self._closing = threading.Event()
        self._restarting = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._connections_changed = threading.Condition()
        self._http = self._bound((host, port))
        self.address = (host, self._http.server_port)
        self._listen()
        self._watcher = threading.Thread(target=self._watch_for_crashes, daemon=True, name="watch for crashes")
        self._watcher.start()

    def _bound(self, address: tuple[str, int]) -> ThreadingHTTPServer:
        """A server whose port is taken but refuses connections: bound, not listening."""
        owner = self

        class Handler(_Handler):
            server_owner = owner

        http = _HttpServer(address, Handler, bind_and_activate=False)
        http.server_bind()
        return http

    def _listen(self) -> None:
        self._http.server_activate()
        self._serving = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True, name="accept"
        )
        self._serving.start()

    def _stop_listening(self) -> None:
        self._http.shutdown()
        self._serving.join()
        self._http.server_close()

    def close(self) -> None:
        self._closing.set()
        with self._restarting:
            self._stop_listening()
            self._caprover.apps.close()
            self._drop_connections()
        self._caprover.crashed.set()
        self._watcher.join()
        with self._connections_changed:
            self._connections_changed.wait_for(lambda: not self._connections, timeout=30)

    def _drop_connections(self) -> None:
        with self._connections_changed:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _watch_for_crashes(self) -> None:
        while True:
            self._caprover.crashed.wait()
            self._caprover.crashed.clear()
            if self._closing.is_set():
                return
            self.restart(*self._caprover.switches.crash)

    def restart(self, refused: float, failing: float, starting: float) -> None:
        """CapRover goes away and comes back: so many seconds each of refused, HTTP 500, and status 1001."""
        with self._restarting:
            if self._closing.is_set():
                return
            self._caprover.phase = "away"
            self._caprover.restart()
            self._drop_connections()
            if self._caprover.switches.gateway_timeout:
                self._closing.wait(refused)
            else:
                self._stop_listening()
                self._http = self._bound(self.address)
                self._closing.wait(refused)
                self._listen()
            self._caprover.phase = "failing"
            self._closing.wait(failing)
            self._caprover.phase = "starting"
            self._closing.wait(starting)
            self._caprover.phase = ""

    def opened(self, connection: socket.socket) -> None:
        with self._connections_changed:
            self._connections.add(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._connections_changed:
            self._connections.discard(connection)
            self._connections_changed.notify_all()

    def control(self, method: str, what: str, body: dict[str, Any]) -> Reply:
        """The tests' own endpoint, below /_standin/."""
        match method, what:
            case "POST", "switches":
                try:
                    self._caprover.switches.apply(body)
                except ValueError as error:
                    return Reply(http=400, body={"error": str(error)})
            case "POST", "restart":
                self._caprover.phase = "away"
                times = [float(body.get(name, 0)) for name in ("refused", "failing", "starting")]
                restart = threading.Thread(target=self.restart, args=times, daemon=True, name="restart")
                return Reply(body={}, after=restart.start)
            case "POST", "expire-sessions":
                self._caprover.sessions.expire()
            case "GET", "requests":
                return Reply(body={"requests": self._log.entries()})
            case "GET", "phase":
                return Reply(body={"phase": self._caprover.phase})
            case _:
                return Reply(http=404, body={"error": "no such control"})
        return Reply(body={})

    def api(self, request: Request, path: str) -> Reply | None:
        """CapRover's own API, each request logged; None closes the connection without an answer."""
        entry = self._log.add(method=request.method, path=path, auth=request.auth, body=request.body)
        reply = self._caprover.answer(request)
        entry["http"] = reply.http if reply else None
        return reply


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5  # an idle connection is closed after this time, as Node's server does
    server_owner: Server

    def setup(self) -> None:
        super().setup()
        self.server_owner.opened(self.connection)

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()
        self.server_owner.closed(self.connection)

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def _serve(self) -> None:
        # A proxied client sends the whole URL; only its path matters here.
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        try:
            body = json.loads(raw or b"{}")
        except ValueError:
            body = {}
        if url.path.startswith(CONTROL):
            return self._send(self.server_owner.control(self.command, url.path.removeprefix(CONTROL), body))
        request = Request(
            method=self.command,
            path=url.path,
            query=parse_qs(url.query),
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
            connection=self.connection,
        )
        path = url.path + (f"?{url.query}" if url.query else "")
        reply = self.server_owner.api(request, path)
        if reply is None:
            self.close_connection = True
            return None
        return self._send(reply)

    def _send(self, reply: Reply) -> None:
        content = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
        self.send_response(reply.http)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        reply.after()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the request log says it better."""
