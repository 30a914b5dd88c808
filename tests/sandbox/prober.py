"""What users of an app see: its page, asked for many times a second from inside the swarm's network."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.sandbox.engine import wait_for
from tests.sandbox.place import Manager


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One answer. `at`: seconds since the epoch when asked; `took`: seconds; `status`: 0 if there was no answer.

    `schema` and `rows` are the database's as the instance sees it; `error`, if any, is the prober's or the app's.
    """

    at: float
    took: float
    status: int
    version: str = ""
    instance: str = ""
    wants: str = ""
    schema: str = ""
    rows: int | None = None
    error: str = ""


class Prober:
    """Asks from its start until it is closed; use it as a context manager."""

    def __init__(self, manager: Manager, host: str, image: str, network: str) -> None:
        """`host`: a name of the app in the network, such as tasks.APP. `image`: any version of the demo app."""
        self._manager = manager
        command = ["docker", "run", "--detach", f"--network={network}", "--entrypoint=python", image]
        self._container = manager.execute(*command, "-m", "demoapp.probe", host).strip()

    def samples(self) -> list[Sample]:
        """All answers so far, oldest first."""
        lines = self._manager.execute("docker", "logs", self._container).splitlines(keepends=True)
        return [Sample(**json.loads(line)) for line in lines if line.endswith("\n")]

    def wait_for(self, what: str, condition: Callable[[Sample], bool], *, count: int = 1, timeout: float = 60) -> None:
        """Wait until the last `count` answers all meet the condition; TimeoutError that shows the last one."""

        def met() -> bool:
            last = self.samples()[-count:]
            if len(last) == count and all(condition(sample) for sample in last):
                return True
            raise RuntimeError(f"the last answer was {last[-1]}" if last else "no answer yet")

        wait_for(what, met, timeout=timeout)

    def close(self) -> None:
        self._manager.execute("docker", "rm", "--force", self._container)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
