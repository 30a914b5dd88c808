"""Where cases are played side by side: one sandbox, one witness, and a slot for each case."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue

from tests.faults.cases import Call, Case, calls
from tests.faults.play import NOT_MADE, Verdict, play, spoilt
from tests.faults.slot import Slot, make_databases
from tests.faults.stories import Story
from tests.faults.witness import Witness
from tests.sandbox.runner import Action
from tests.sandbox.sandbox import Sandbox

RECORDINGS = 2  # undisturbed runs, whose calls are put together: how often a wait looks is a matter of time
TRIES = 6  # deploys for a case whose call is not made: some are made by chance, as for a pull's second container


class Stage:
    """A sandbox with slots for cases side by side."""

    def __init__(self, witness: Witness, action: Action, slots: Sequence[Slot], at_once: int) -> None:
        self._turns = threading.Semaphore(at_once)
        self._witness = witness
        self._action = action
        self._slots: SimpleQueue[Slot] = SimpleQueue()
        for slot in slots:
            self._slots.put(slot)

    def play(self, story: Story, case: Case | None) -> Verdict:
        """Play the case, or the story undisturbed, in a free slot."""
        slot = self._slots.get()
        self._turns.acquire()
        with ExitStack() as stack:
            stack.callback(self._slots.put, slot)
            turn = stack.enter_context(ExitStack())
            turn.callback(self._turns.release)
            return play(slot, self._witness, self._action, story, case, turn.close)

    def play_all(self, cases: Iterable[Case], tell: Callable[[Case, Verdict], None]) -> None:
        """Play the cases, and tell of each as it ends; when the run is stopped, still of those that it has begun."""
        telling = threading.Lock()

        def see(case: Case) -> None:
            for _ in range(TRIES):
                verdict = self.play(case.story, case)
                if verdict.wrong != [NOT_MADE]:
                    break
            with telling:
                tell(case, verdict)

        with ThreadPoolExecutor(self._slots.qsize()) as pool:
            try:
                for future in as_completed([pool.submit(see, case) for case in cases]):
                    future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def record(self, stories: Sequence[Story]) -> dict[Story, list[Call]]:
        """The calls of stories when nothing is spoilt; RuntimeError if one did not end as it should."""
        found: dict[Story, dict[Call, None]] = {story: {} for story in stories}
        runs = [story for story in stories for _ in range(RECORDINGS)]
        with ThreadPoolExecutor(self._slots.qsize()) as pool:
            for story, verdict in zip(runs, pool.map(lambda story: self.play(story, None), runs), strict=True):
                if verdict.wrong or verdict.ending.partition(",")[0] != story.ending:
                    what = f"a deploy without a fault is not as it should be: {story.name}: {verdict.wrong}"
                    raise RuntimeError(f"{what}\n{verdict.story}")
                found[story] |= dict.fromkeys(calls(verdict.calls))
        return {story: list(calls) for story, calls in found.items()}


@contextmanager
def stage(sandbox: Sandbox, action: Action, at_once: int) -> Iterator[Stage]:
    """Witness, image and slots for so many cases at once; as many again may wait for a dead run's lease."""
    with ExitStack() as stack:
        changed = stack.enter_context(spoilt(action))
        witness = Witness(sandbox)
        stack.callback(witness.close)
        databases = make_databases(sandbox)
        slots = [Slot(sandbox, number, databases) for number in range(2 * at_once)]
        for slot in slots:
            stack.callback(slot.close)
        yield Stage(witness, changed, slots, at_once)
