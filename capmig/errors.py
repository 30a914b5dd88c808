"""What went wrong, what state the app is in now, what to do next; and an exit code each."""

from __future__ import annotations

import traceback
from collections.abc import Sequence


class CapmigError(Exception):
    """A failure that a reader can act on: what happened, the app's state now, what to do next."""

    exit_code = 1

    def __init__(self, what: str, *, state: str = "", todo: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.state = state
        self.todo = todo

    def __str__(self) -> str:
        return "\n".join(part for part in (self.what, self.state, self.todo) if part)


class Refused(CapmigError):
    """Refused before anything was touched (exit code 2). `problems`: one line each, naming its input."""

    exit_code = 2

    def __init__(self, problems: Sequence[str], *, todo: str = "") -> None:
        super().__init__("\n".join(problems), state="Nothing was changed.", todo=todo)
        self.problems = tuple(problems)


class NeedsPerson(CapmigError):
    """No automatic way is safe (exit code 3): the message says what a person has to do."""

    exit_code = 3


class Cancelled(CapmigError):
    """The first SIGINT or SIGTERM arrived."""


class Superseded(CapmigError):
    """Another run holds the journal now, or it is gone: nothing more may be done by this one."""


class JournalGone(Superseded):
    """The journal that this run held was removed by somebody."""


class DeployFailed(CapmigError):
    """A step of the deploy failed for good; `recover` brings the app into a safe state."""


class Declined(DeployFailed):
    """CapRover will not deploy the image: nothing of that is still on its way."""


class TimedOut(CapmigError):
    """A wait came to its end. `what` says what was waited for and what was seen last."""


# Of the edges. A mutation that ends in LinkLost or FateUnknown may have taken effect: look before trying again.


class LinkLost(CapmigError):
    """The manager cannot be reached now; reconnecting was tried and did not help in time."""


class FateUnknown(CapmigError):
    """A request was sent and its answer never came: it may have taken effect, now or later."""


class Conflict(CapmigError):
    """A compare-and-swap lost: the object changed since it was read."""


class Exists(CapmigError):
    """The name is taken."""


class EngineRefused(CapmigError):
    """The Docker engine answered with an error. `status`: the HTTP status."""

    def __init__(self, what: str, *, status: int = 500) -> None:
        super().__init__(what)
        self.status = status


class CapRoverBusy(CapmigError):
    """CapRover cannot take the request now (429, 5xx, restarting): it did not act; try again later."""


class CapRoverRefused(CapmigError):
    """CapRover understood the request and declined it. `status`: its status code, e.g. 1106."""

    def __init__(self, what: str, *, status: int = 1000, todo: str = "") -> None:
        super().__init__(what, todo=todo)
        self.status = status


class OwnMistake(CapmigError):
    """What nobody has foreseen went wrong: a mistake of capmig's own, which its lines of Python tell about."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"capmig itself failed: {error!r}", todo="Please report this, with the lines of Python above.")
        self.lines = traceback.format_exception(error)


def remedy(words: str, otherwise: str) -> str:
    """What to do about an error in the engine's words; `otherwise` if nothing particular is known about them."""
    if "no space left on device" in words.lower():
        return "Make room on that node's disk: docker system df tells what takes it; docker image prune frees some."
    return otherwise
