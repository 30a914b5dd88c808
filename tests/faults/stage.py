"""Where cases are played side by side: one sandbox, one witness, and a slot for each case."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue

from tests.faults.cases import Call, Case, calls
from tests.faults.play import Slot, Verdict, make_template, play, spoilt
from tests.faults.witness import Witness
from tests.sandbox.runner import Action
from tests.sandbox.sandbox import Sandbox

RECORDINGS = 2  # clean runs, whose calls are put together: how often a wait looks is a matter of time


class Stage:
    """A sandbox with slots for cases side by side."""

    def __init__(self, sandbox: Sandbox, witness: Witness, action: Action, slots: Sequence[Slot]) -> None:
        self._witness = witness
        self._action = action
        self._slots: SimpleQueue[Slot] = SimpleQueue()
        for slot in slots:
            self._slots.put(slot)

    def play(self, case: Case | None) -> Verdict:
        """Play the case in a free slot."""
        slot = self._slots.get()
        try:
            return play(slot, self._witness, self._action, case)
        finally:
            self._slots.put(slot)

    def play_all(self, cases: Iterable[Case]) -> Iterator[tuple[Case, Verdict]]:
        """Play the cases, as many at once as there are slots; each as it ends."""
        pool = ThreadPoolExecutor(self._slots.qsize())
        try:
            played = {pool.submit(self.play, case): case for case in cases}
            for future in as_completed(played):
                yield played[future], future.result()
        finally:
            # When the run is stopped, it ends with the cases that it has begun.
            pool.shutdown(cancel_futures=True)

    def record(self) -> list[Call]:
        """The calls of a clean deploy; RuntimeError if it was not clean."""
        found: dict[Call, None] = {}
        with ThreadPoolExecutor(RECORDINGS) as pool:
            for verdict in pool.map(self.play, [None] * RECORDINGS):
                if verdict.wrong or verdict.ending != "deployed":
                    raise RuntimeError(
                        f"a deploy without a fault is not as it should be: {verdict.wrong}\n{verdict.story}"
                    )
                found |= dict.fromkeys(calls(verdict.calls))
        return list(found)


@contextmanager
def stage(sandbox: Sandbox, action: Action, at_once: int) -> Iterator[Stage]:
    """Witness, image and slots for so many cases at once."""
    with ExitStack() as stack:
        changed = stack.enter_context(spoilt(action))
        witness = Witness(sandbox)
        stack.callback(witness.close)
        template = make_template(sandbox)
        slots = [Slot(sandbox, number, template) for number in range(at_once)]
        for slot in slots:
            stack.callback(slot.close)
        yield Stage(sandbox, witness, changed, slots)
