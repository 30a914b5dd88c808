"""`python -m tests.sandbox.caprover`: run the stand-in until SIGTERM. Its first line of output is its URL."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

from tests.sandbox.caprover.api import CapRover
from tests.sandbox.caprover.apps import Settings
from tests.sandbox.caprover.control import RequestLog
from tests.sandbox.caprover.server import Server
from tests.sandbox.caprover.store import Store
from tests.sandbox.caprover.swarm import DockerEngine


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.sandbox.caprover", description=__doc__)
    parser.add_argument("--docker-host", required=True, help="unix:///… or tcp://… of a swarm manager")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 (the default) takes a free one")
    parser.add_argument("--password", help="default: STANDIN_PASSWORD in the environment, or else CapRover's captain42")
    parser.add_argument("--data", type=Path, required=True, help="the JSON file that holds definitions and registries")
    parser.add_argument("--log", type=Path, help="a file to append the requests to, as lines of JSON")
    parser.add_argument("--endpoint-mode", choices=["vip", "dnsrr"], default=Settings.endpoint_mode)
    parser.add_argument("--placeholder-image", default=Settings.placeholder_image)
    parser.add_argument("--settle", type=float, default=Settings.settle, help="seconds of wait after a service update")
    parser.add_argument("--prune-after", type=float, default=Settings.prune_after, help="seconds from update to prune")
    options = parser.parse_args()

    settings = Settings(
        password=options.password or os.environ.get("STANDIN_PASSWORD", "captain42"),
        endpoint_mode=options.endpoint_mode,
        placeholder_image=options.placeholder_image,
        settle=options.settle,
        prune_after=options.prune_after,
    )
    engine = DockerEngine(options.docker_host)
    engine.ensure_network()
    store = Store(options.data, settings.placeholder_image)
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    server = Server(CapRover(store, engine, settings), RequestLog(options.log), options.host, options.port)
    print("http://{}:{}".format(*server.address), flush=True)
    signal.sigwait(signals)
    server.close()
    os._exit(0)  # a pull under way would hold the interpreter for as long as it takes


if __name__ == "__main__":
    main()
