"""One build queue for all apps, with the flaws of CapRover's own; and the log of each app's last build."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

LINES = 50


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is to be deployed. `content`: the captain-definition, a JSON text."""

    content: str
    git_hash: str


class BuildLog:
    """The last 50 lines of an app's last build."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        with self._lock:
            self.failed = False
            self._lines = [""] * LINES
            self._first = -LINES

    def add(self, line: str) -> None:
        with self._lock:
            self._lines = [*self._lines[1:], line]
            self._first += 1

    def fail(self, error: Exception) -> None:
        self.add("----------------------")
        self.add("Deploy failed!")
        self.add(f"Error: {error}")
        self.failed = True

    def as_json(self) -> dict[str, object]:
        with self._lock:
            return {"lines": list(self._lines), "firstLineNumber": self._first}


@dataclass(kw_only=True)
class _Queued:
    app: str
    source: Source
    # Resolved by nobody: who waits for a queued build waits for ever.
    promise: Future[None] = field(default_factory=Future)


class Builds:
    """`run(app, source, log)` does a build and calls `finished(app)` itself, before it updates the service.

    `on_queued_failure` is called when a build that had been queued fails: nobody handles that error in CapRover.
    """

    def __init__(self, run: Callable[[str, Source, BuildLog], None], *, on_queued_failure: Callable[[], None]) -> None:
        self._run = run
        self._on_queued_failure = on_queued_failure
        self._threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="build")
        self._lock = threading.RLock()
        self._active: dict[str, bool] = {}
        self._queue: list[_Queued] = []
        self._logs: dict[str, BuildLog] = {}

    def log(self, app: str) -> BuildLog:
        with self._lock:
            return self._logs.setdefault(app, BuildLog())

    def is_building(self, app: str) -> bool:
        with self._lock:
            return self._active.get(app, False)

    def schedule(self, app: str, source: Source) -> Future[None]:
        """Start the build, or queue it behind the one that runs; a queued one of the same app is replaced."""
        with self._lock:
            running = next((name for name, on in self._active.items() if on), None)
            self._active[app] = True
            log = self.log(app)
            log.clear()
            if running is None:
                return self._start(app, source, queued=False)
            for queued in self._queue:
                if queued.app == app:
                    log.add(f"A build for {app} was queued, it's now being replaced with a new build...")
                    queued.source = source
                    return queued.promise
            log.add(f"An active build ({running}) is in progress. This build is queued...")
            self._queue.append(_Queued(app=app, source=source))
            return self._queue[-1].promise

    def _start(self, app: str, source: Source, *, queued: bool) -> Future[None]:
        def work() -> None:
            log = self.log(app)
            try:
                self._run(app, source, log)
            except Exception as error:
                self.finished(app)
                log.fail(error)
                if queued:
                    self._on_queued_failure()
                raise

        return self._threads.submit(work)

    def finished(self, app: str) -> None:
        """The app counts as built, and the next in the queue starts; CapRover does not mark that one as active."""
        with self._lock:
            self._active[app] = False
            if self._queue:
                following = self._queue.pop(0)
                self._start(following.app, following.source, queued=True)

    def close(self) -> None:
        """Forget the queue; what runs already is not waited for."""
        with self._lock:
            self._queue.clear()
        self._threads.shutdown(wait=False)
