"""What every act of a deploy needs in hand: the edges, the one wait, the journal, and the settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from capmig.journal import Journal
from capmig.ports import CapRover, Clock, Credentials, Log, Swarm
from capmig.timeline import Timeline
from capmig.watch import Watch


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How long to wait, and how to tell success. Seconds."""

    drain_timeout: float
    deploy_timeout: float
    stable_for: float
    lock_timeout: float
    probe: Callable[[], str] | None = None  # "" once the app answers as expected, else what it answered


@dataclass(frozen=True, kw_only=True)
class Made:
    """A backup that this process has made, with the client's image on a node's volume."""

    id: str
    bytes: int
    sha256: str
    image: str
    node: str


@dataclass(frozen=True, kw_only=True)
class Hand:
    app: str
    swarm: Swarm
    caprover: CapRover
    clock: Clock
    log: Log
    journal: Journal
    watch: Watch
    timeline: Timeline
    settings: Settings
    credentials: Credentials | None = None
    shown: dict[str, str] = field(default_factory=dict)  # a job's name → the stamp of its last line in the log
    made: list[Made] = field(default_factory=list)

    @property
    def job_name(self) -> str:
        """A name for this run's jobs, at most 63 characters with the longest suffix."""
        nonce = hashlib.sha256(self.journal.holder.encode()).hexdigest()[:8]
        return f"capmig-{self.app[:38].rstrip('-')}-{nonce}"
