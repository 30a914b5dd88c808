"""A log to look into afterwards."""

from __future__ import annotations

from collections.abc import Sequence


class RecordingLog:
    """Implements ports.Log: keeps every entry as (kind, text); an output's kind is `output of SOURCE`."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str]] = []

    def step(self, title: str) -> None:
        self.entries.append(("step", title))

    def info(self, text: str) -> None:
        self.entries.append(("info", text))

    def notice(self, text: str) -> None:
        self.entries.append(("notice", text))

    def warning(self, text: str) -> None:
        self.entries.append(("warning", text))

    def output_of(self, source: str, lines: Sequence[str]) -> None:
        self.entries.extend((f"output of {source}", line) for line in lines)

    def of(self, kind: str) -> list[str]:
        """The texts of one kind, in order."""
        return [text for entry_kind, text in self.entries if entry_kind == kind]

    @property
    def text(self) -> str:
        """Everything, one entry a line."""
        return "\n".join(text for _, text in self.entries)
