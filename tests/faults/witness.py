"""What happened in the world: when each container of the swarm's services started and ended, by the engines' events."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tests.sandbox.engine import wait_for
from tests.sandbox.sandbox import Sandbox

SERVICE = "com.docker.swarm.service.name"


@dataclass(kw_only=True)
class Life:
    """Of one container, in seconds since the epoch. `ended`: infinite while it runs."""

    service: str
    image: str
    started: float
    ended: float = float("inf")
    exit_code: str = ""

    def overlaps(self, other: Life) -> bool:
        return self.started < other.ended and other.started < self.ended


class Witness:
    """Follows the events of all nodes until it is closed; one for all cases that run side by side."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._lives: dict[str, Life] = {}
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._clients = [node.client() for node in sandbox.nodes]
        self._streams = [
            client.events(decode=True, filters={"type": "container", "event": ["start", "die"]})
            for client in self._clients
        ]
        self._threads = [threading.Thread(target=self._follow, args=(stream,), daemon=True) for stream in self._streams]
        for thread in self._threads:
            thread.start()

    def _follow(self, stream: Iterable[dict[str, Any]]) -> None:
        for event in stream:
            about = event["Actor"]["Attributes"]
            container, at = event["Actor"]["ID"], event["timeNano"] / 1e9
            if SERVICE not in about:
                continue
            with self._lock:
                if event["Action"] == "start":
                    self._lives[container] = Life(service=about[SERVICE], image=about["image"], started=at)
                elif container in self._lives:
                    self._lives[container].ended = at
                    self._lives[container].exit_code = about.get("exitCode", "")

    def lives(self, of: Callable[[str], bool]) -> list[Life]:
        """Of the services with such names, oldest first; once all that has happened until now was seen."""

        def running() -> set[str]:
            with self._asking:
                found = [each for client in self._clients for each in client.api.containers(filters={"label": SERVICE})]
            return {each["Id"] for each in found if of(each["Labels"][SERVICE])}

        def seen() -> set[str]:
            with self._lock:
                return {id for id, life in self._lives.items() if of(life.service) and life.ended == float("inf")}

        wait_for("the events of what happened", lambda: running() == seen(), timeout=60)
        with self._lock:
            return sorted((life for life in self._lives.values() if of(life.service)), key=lambda life: life.started)

    def forget(self, of: Callable[[str], bool]) -> None:
        """Drop what has ended of these services."""
        with self._lock:
            self._lives = {
                id: life for id, life in self._lives.items() if life.ended == float("inf") or not of(life.service)
            }

    def close(self) -> None:
        for stream in self._streams:
            stream.close()
        for thread in self._threads:
            thread.join(timeout=30)
        for client in self._clients:
            client.close()
