"""The deploys that are spoilt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Story:
    """A deploy of the demo app at v1. `version`: what is deployed; `ending`: what becomes of it when nothing is spoilt.

    `again`: phases whose calls are spoilt although an earlier story has them too, since what follows is another thing.
    """

    name: str
    version: str
    ending: str
    inputs: Mapping[str, str] = field(default_factory=dict, hash=False)
    again: tuple[str, ...] = ()

    @property
    def backed_up(self) -> bool:
        return self.inputs.get("backup", "none") != "none"


PLAIN = Story(name="plain", version="v2", ending="deployed")
BACKUP = Story(
    name="backup", version="v2", ending="deployed", inputs={"backup": "auto"}, again=("migrating", "migrated")
)
RESTORE = Story(
    name="restore",
    version="v3-fails",  # its migration deletes rows, and fails
    ending="back on v1",
    inputs={"backup": "auto"},
    again=("migrating",),
)
STORIES = (PLAIN, BACKUP, RESTORE)
