"""The jobs that back up and restore, as specs (pure), and what their output says."""

from __future__ import annotations

from pathlib import Path

SCRIPTS = Path(__file__).parent / "scripts"


def program(engine: str) -> str:
    """The shell program for an engine; its first argument is check, dump, restore, list or prune."""
    name = "mysql" if engine == "mariadb" else engine
    return "\n".join((SCRIPTS / f"{part}.sh").read_text(encoding="utf-8") for part in ("common", name))
