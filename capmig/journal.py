"""The journal: one swarm config per app, which is the lock and tells a successor how to finish or undo this deploy.

A config's name is a mutex (creating it has one winner) and its labels change by compare-and-swap only. The lease is
judged by the manager's clock between runs, and by the owner's own monotonic clock before each act.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from capmig.entry import Entry
from capmig.errors import (
    Conflict,
    EngineRefused,
    Exists,
    FateUnknown,
    JournalGone,
    LinkLost,
    Superseded,
    TimedOut,
)
from capmig.ports import Clock, Config, Log, Swarm

LEASE = 60.0  # seconds that an owner may act without renewing
RENEW = 15.0  # seconds after which a tick renews
CALL = 20.0  # seconds: no outward call lasts longer, so none begins with less time than that on the lease


def config_name(app: str) -> str:
    """The journal's name: at most 64 characters; a longer one ends in a hash."""
    name = f"capmig-{app}"
    if len(name) <= 64:
        return name
    return f"{name[:51]}-{hashlib.sha256(app.encode()).hexdigest()[:12]}"


class Journal:
    """The journal of one app, as one process holds it.

    Every method that writes raises Superseded when another process holds it, or when it is gone.
    """

    def __init__(
        self, swarm: Swarm, clock: Clock, log: Log, *, app: str, owner: str, owner_url: str, holder: str
    ) -> None:
        self._swarm = swarm
        self._clock = clock
        self._log = log
        self.name = config_name(app)
        self.owner = owner
        self.owner_url = owner_url
        self.holder = holder
        self._entry: Entry | None = None
        self._removed = ""  # the ID of the config whose removal this process has asked for…
        self._removed_until = 0.0  # …and until when nobody else can have ended it, by its own monotonic clock
        self._lease_end = 0.0  # own monotonic clock
        self._renewed = 0.0
        self._time_offset = 0.0  # the manager's time minus this process's monotonic

    @property
    def entry(self) -> Entry:
        """What was last written by this process, which holds the journal."""
        if self._entry is None:
            raise Superseded(f"The journal {self.name} is not held by this run.")
        return self._entry

    @property
    def held(self) -> bool:
        return self._entry is not None

    def look(self) -> tuple[Config, Entry] | None:
        """The journal as it is now, whoever holds it."""
        config = self._swarm.config(self.name)
        return None if config is None else (config, Entry.read(self.name, config.labels))

    def create(self, entry: Entry) -> bool:
        """Begin a journal; False when there is one already."""
        entry, lease_end = self._leased(entry)
        try:
            self._swarm.create_config(self.name, entry.labels())
        except Exists:
            return False
        except FateUnknown:
            found = self.look()
            if found is None or found[1].holder != self.holder:
                return False
        self._hold(entry, lease_end)
        return True

    def make_anew(self) -> bool:
        """Make the journal again that somebody removed; False when another run has begun one since."""
        return self.create(self.entry)

    def take_over(self, config: Config, entry: Entry) -> bool:
        """Take an expired journal; False when someone else was quicker. What it says is kept, but for who holds it."""
        mine, lease_end = self._leased(
            replace(entry, holder=self.holder, owner=self.owner, owner_url=self.owner_url), since=entry.since
        )
        try:
            self._swarm.update_config(config, mine.labels())
        except Conflict:
            return False
        except FateUnknown:
            found = self.look()
            if found is None or found[1].holder != self.holder:
                return False
        self._hold(mine, lease_end)
        return True

    def write(self, *, lease: float = LEASE, **changes: Any) -> Entry:
        """Change the entry; a new phase begins now. Returns once the manager has it."""
        before = self.entry
        entry = replace(before, **changes)
        since = before.since if entry.phase == before.phase else None
        entry, lease_end = self._leased(entry, since=since, lease=lease)
        give_up = self._clock.monotonic() + CALL
        while True:
            found = self.look()
            config = self._own(found)
            if found is not None and found[1] == entry:
                break
            try:
                self._swarm.update_config(config, entry.labels())
                break
            except (Conflict, FateUnknown):
                if self._clock.monotonic() > give_up:
                    raise
        self._hold(entry, lease_end)
        return entry

    def renew(self) -> None:
        """Renew the lease when it is due; a lost link is borne as long as the lease lasts."""
        if self._removed or self._clock.monotonic() - self._renewed < RENEW:
            return
        try:
            self.write()
        except (LinkLost, FateUnknown, Conflict, EngineRefused):
            if self._clock.monotonic() > self._lease_end - CALL:
                raise

    def fence(self) -> None:
        """Before every mutation: enough time is left on the lease for it, by this process's own clock."""
        entry = self.entry
        if self._lease_end - self._clock.monotonic() < CALL:
            self.write()
        if self._lease_end - self._clock.monotonic() < CALL:
            raise LinkLost(f"The lease on {self.name} (phase {entry.phase}) could not be renewed in time.")

    def release(self) -> None:
        """End the journal: the app is in a safe state."""
        give_up = self._clock.monotonic() + CALL
        answered = False
        while True:
            try:
                found = self.look()
            except (LinkLost, EngineRefused):
                if answered:
                    break
                raise
            if self._ended(found):
                break
            config = self._own(found)
            if self._removed and self._clock.monotonic() > give_up:
                raise FateUnknown(f"The journal {self.name} was removed, and is there still.")
            self.fence()
            answered = False
            with suppress(FateUnknown):
                self._swarm.remove_config(config)
                answered = True
            self._removed, self._removed_until = config.id, self._lease_end
            self._lease_end = self._clock.monotonic()  # once it is gone, another run may begin at once
        self._entry = None

    def _ended(self, found: tuple[Config, Entry] | None) -> bool:
        """Whether the removal that this process asked for is seen to have taken effect."""
        gone = found is None or found[0].id != self._removed
        return gone and bool(self._removed) and self._clock.monotonic() < self._removed_until

    def let_go(self) -> None:
        """Stop holding the journal without a word to the manager: its lease runs out, and the next run takes it."""
        self._entry = None

    def leave(self, **changes: Any) -> None:
        """Write the entry for the last time, with no lease: whoever comes next may take it at once."""
        self.write(lease=0.0, **changes)
        self._entry = None

    def expired(self, entry: Entry) -> bool:
        """Whether its holder has let the lease go, by the manager's clock."""
        return self._swarm.engine().time >= entry.expires

    def manager_time(self) -> float:
        """The manager's time now, in seconds since the epoch, by the last look at its clock."""
        return self._clock.monotonic() + self._time_offset

    def _leased(self, entry: Entry, *, since: float | None = None, lease: float = LEASE) -> tuple[Entry, float]:
        began = self._clock.monotonic()
        now = self._swarm.engine().time
        self._time_offset = now - began
        return replace(entry, expires=now + lease, since=now if since is None else since), began + lease

    def _own(self, found: tuple[Config, Entry] | None) -> Config:
        """The config of the journal as it was found, if this process still holds it."""
        if found is not None and found[1].holder == self.holder:
            return found[0]
        if found is None and self._clock.monotonic() < self._lease_end:
            raise JournalGone(
                f"The journal {self.name} was removed while this run held it.",
                todo="Look at the app, and deploy again. Let capmig itself remove its journal, or use mode: unlock.",
            )
        self._entry = None
        # Gone after its lease ran out, it was most likely ended by a run that had taken it over.
        whose = "gone, ended by another run" if found is None else f"now held by {found[1].owner}. {found[1].owner_url}"
        raise Superseded(
            f"The journal {self.name} is {whose}".strip(),
            state="This run has stopped acting; that one brings the app into a safe state.",
        )

    def _hold(self, entry: Entry, lease_end: float) -> None:
        self._entry = entry
        self._removed = ""
        self._lease_end = lease_end
        self._renewed = lease_end - LEASE


def acquire(
    journal: Journal,
    first: Callable[[], Entry],
    *,
    clock: Clock,
    log: Log,
    timeout: float,
    tick: Callable[[], None],
) -> Entry | None:
    """Hold the journal. None: it is new, made from `first`. An Entry: a deploy left unfinished; recover it first.

    A live one elsewhere is waited for up to `timeout` seconds, then TimedOut names its owner.
    """
    give_up = clock.monotonic() + timeout
    told = ""
    while True:
        found = journal.look()
        if found is None:
            if journal.create(first()):
                return None
            continue
        config, entry = found
        if entry.holder == journal.holder or journal.expired(entry):
            if journal.take_over(config, entry):
                log.notice(
                    f"Taking over the unfinished deploy of {entry.image} by {entry.owner} (phase {entry.phase})."
                )
                return entry
            continue
        saying = (
            f"Waiting for {entry.owner}, which deploys {entry.image} (phase {entry.phase}). {entry.owner_url}".strip()
        )
        if saying != told:
            log.info(saying)
            told = saying
        if clock.monotonic() > give_up:
            raise TimedOut(
                f"Another deploy still runs: {entry.owner}, phase {entry.phase}. {entry.owner_url}".strip(),
                state="This run has changed nothing.",
                todo="Wait for it to end and run this one again, or raise lock-timeout.",
            )
        tick()
        clock.sleep(2.0)
