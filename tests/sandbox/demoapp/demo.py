"""The demo app: a web server whose code fits one schema only, and the migration to that schema.

DEMO_VERSION says which version this is: v1, v2 and v3 want schema 1, 2 and 3; a suffix makes it misbehave (BEHAVIOURS).
DATABASE_URL is the database; DEMO_MIGRATION_SECONDS makes a migration last longer, and DEMO_STOP_SECONDS a slow stop;
DEMO_DESTRUCTION: SQL that a migration which fails or hangs commits besides what it deletes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType

BEHAVIOURS = {
    "": "as it should be",
    "fails": "the migration deletes rows, commits that, and fails",
    "fails-early": "the migration fails before it changes anything",
    "hangs": "the migration deletes rows, commits that, and never ends",
    "crashes": "the migration works; the server ends with 1 at its start",
    "unhealthy": "the migration works; the image's health check never does",
    "slow-stop": "the server takes 8 s (or DEMO_STOP_SECONDS) to end after SIGTERM",
}
VERSION = os.environ["DEMO_VERSION"]
SCHEMA, _, BEHAVIOUR = VERSION.removeprefix("v").partition("-")


class Page(BaseHTTPRequestHandler):
    """200 where code and schema fit; 500 with the same facts where they do not, or the database does not answer."""

    def do_GET(self) -> None:
        from . import database  # only here: tests start hundreds of instances that nobody asks for a page

        facts: dict[str, object] = {"version": VERSION, "instance": socket.gethostname(), "wants": SCHEMA}
        try:
            with database.connected() as cursor:
                cursor.execute("SELECT version_num FROM alembic_version")
                facts["schema"] = cursor.fetchone()[0]
                cursor.execute("SELECT count(*) FROM customers")
                facts["rows"] = cursor.fetchone()[0]
        except database.Error as error:
            facts["error"] = str(error).strip()
        body = json.dumps(facts).encode()
        self.send_response(200 if facts.get("schema") == SCHEMA and "error" not in facts else 500)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The prober asks many times a second: nothing is written."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


def serve() -> None:
    if BEHAVIOUR == "crashes":
        sys.exit("demo: this version crashes at its start")
    server = Server(("", 80), Page)

    def stop(number: int, frame: FrameType | None) -> None:
        threading.Thread(target=finish).start()

    def finish() -> None:
        if BEHAVIOUR == "slow-stop":
            time.sleep(float(os.environ.get("DEMO_STOP_SECONDS", "8")))
        server.shutdown()

    signal.signal(signal.SIGTERM, stop)
    print(f"demo {VERSION}: serving on port 80", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1:] == ["--migrate-database"]:
        from . import migrations

        migrations.migrate(SCHEMA, BEHAVIOUR)
    else:
        serve()
