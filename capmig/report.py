"""How a run ended, as outputs and as the job summary in Markdown. Pure: nothing here reads or writes."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A step of the deploy; seconds since its start."""

    title: str
    began: float
    ended: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended. `downtime`: seconds without a running instance; the last texts are empty after a success."""

    result: str  # deployed, restored, stayed-down, refused, failed, recovered, needs-person
    app: str
    image: str
    previous_image: str
    failed_phase: str
    migration_ran: bool | None  # None: not known
    migration_exit_code: int | None
    schema_state: str  # unchanged, migrated, restored, unknown
    downtime: float | None
    stages: tuple[Stage, ...]
    error: str
    state: str
    todo: str
    deployed_image: str
    backup_id: str = ""
    backup_bytes: int = 0
    backup_seconds: float = 0.0
    backup_file: str = ""  # its copy, in the workspace
    restored: bool = False  # the database, from the backup


HEADLINES = {
    "deployed": "✅ deployed",
    "recovered": "✅ recovered: an unfinished deploy has been brought to its end",
    "backed-up": "✅ backed up",
    "listed": "✅ the backups are listed in the log",
    "database-restored": "✅ the database is restored",
    "restored": "❌ not deployed: the former version runs again",
    "stayed-down": "🛑 not deployed: the app stays down",
    "refused": "⛔ refused: nothing was changed",
    "failed": "❌ failed",
    "needs-person": "🛑 a person is needed",
}


def outputs(outcome: Outcome) -> dict[str, str]:
    """The step's outputs; what is unknown or does not apply is empty."""
    code = outcome.migration_exit_code
    return {
        "result": outcome.result,
        "failed-phase": outcome.failed_phase,
        "migration-ran": "" if outcome.migration_ran is None else "true" if outcome.migration_ran else "false",
        "migration-exit-code": "" if code is None else str(code),
        "schema-state": outcome.schema_state,
        "previous-image": outcome.previous_image,
        "deployed-image": outcome.deployed_image,
        "downtime-seconds": "" if outcome.downtime is None else f"{outcome.downtime:.1f}",
        "backup-id": outcome.backup_id,
        "backup-bytes": str(outcome.backup_bytes) if outcome.backup_id else "",
        "backup-seconds": f"{outcome.backup_seconds:.0f}" if outcome.backup_id else "",
        "backup-file": outcome.backup_file,
        "restored": "true" if outcome.restored else "false",
        "summary": one_line(outcome),
    }


def one_line(outcome: Outcome) -> str:
    """The outcome in one line of plain text, such as a chat message can carry."""
    parts = [f"{outcome.app}: {outcome.result}"]
    if outcome.result == "deployed":
        parts[0] += f" {outcome.deployed_image or outcome.image}"
    if outcome.failed_phase:
        parts.append(f"failed while {outcome.failed_phase}")
    if outcome.error:
        parts.append(outcome.error)
    if outcome.schema_state:
        parts.append(f"schema {outcome.schema_state}")
    if outcome.downtime is not None:
        parts.append(f"down for {duration(outcome.downtime)}")
    line = " ".join("; ".join(part.strip().rstrip(".") for part in parts).split())
    return line if len(line) <= 500 else line[:499] + "…"


def summary(outcome: Outcome) -> str:
    """The job summary: a table and a timeline of what happened; after a failure the error, the state, what to do."""
    rows = [
        ("New image", code(outcome.image)),
        ("Image before", code(outcome.previous_image)),
        ("Image now", code(outcome.deployed_image)),
        ("Migration", _migration(outcome)),
        ("Backup", _backup(outcome)),
        ("Its copy", code(outcome.backup_file)),
        ("Schema", code(outcome.schema_state)),
        ("Downtime", _downtime(outcome)),
        ("Failed while", code(outcome.failed_phase)),
    ]
    blocks = [
        f"## {code(outcome.app)} {HEADLINES.get(outcome.result) or code(outcome.result)}",
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows if value)]),
    ]
    if outcome.stages:
        blocks.append(_gantt(outcome.stages))
    for title, text in (
        ("What happened", outcome.error),
        ("State of the app and of the schema", outcome.state),
        ("What to do next", outcome.todo),
    ):
        if text.strip():
            blocks += [f"### {title}", fenced(text)]
    return "\n\n".join(blocks) + "\n"


def duration(seconds: float) -> str:
    """`1.4 s`, `2 min 5 s`, `1 h 2 min`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def amount(size: int) -> str:
    """Bytes as `412 B`, `9.4 kB`, `1.2 GB`."""
    if size < 1000:
        return f"{size} B"
    for factor, unit in ((1e3, "kB"), (1e6, "MB")):
        if round(size / factor, 1) < 1000:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e9:.1f} GB"


def code(text: str) -> str:
    """Any text as one line of inline code that also a table cell can hold; empty for an empty one."""
    line = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", " ", text).split())
    if not line or re.fullmatch(r"[\w./:@+-]+", line):
        return line and f"`{line}`"
    # A pipe or a backtick cannot be escaped in a code span in every place; as an entity it means nothing anywhere.
    inert = re.sub(r"[^\w ./:@,()-]|[_*]", lambda match: f"&#{ord(match[0])};", line)
    return f"<code>{inert}</code>"


def fenced(text: str) -> str:
    """Any text as a code block, kept as it is, so that a secret in it is still found and masked."""
    clean = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "", text.replace("\r\n", "\n")).strip("\n")
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", clean)), default=0))
    return f"{fence}text\n{clean}\n{fence}"


def _downtime(outcome: Outcome) -> str:
    if outcome.downtime is not None:
        return duration(outcome.downtime)
    return {"stayed-down": "not over yet", "needs-person": "not known"}.get(outcome.result, "none")


def _migration(outcome: Outcome) -> str:
    if outcome.migration_ran is None:
        return ""
    if not outcome.migration_ran:
        return "not run"
    exit_code = outcome.migration_exit_code
    return "ran, exit code unknown" if exit_code is None else f"ran, exit code {exit_code}"


def _backup(outcome: Outcome) -> str:
    if not outcome.backup_id:
        return ""
    size = f"{amount(outcome.backup_bytes)} in {duration(outcome.backup_seconds)}"
    return f"{code(outcome.backup_id)} ({size})" + (", restored" if outcome.restored else "")


def _gantt(stages: tuple[Stage, ...]) -> str:
    lines = ["```mermaid", "gantt", "    dateFormat HH:mm:ss.SSS", "    axisFormat %M:%S"]
    for number, stage in enumerate(stages, 1):
        # A number in front keeps Mermaid from taking a title for one of its keywords (`section`, `title`, `click`).
        title = " ".join(re.sub(r"[^\w .,()/→…+-]", " ", stage.title).split())
        span = duration(max(0.0, stage.ended - stage.began))
        lines.append(f"    {number}. {title} ({span}) : {_clock(stage.began)}, {_clock(max(stage.began, stage.ended))}")
    return "\n".join([*lines, "```"])


def _clock(seconds: float) -> str:
    """A time of day: Mermaid would show seconds since the epoch in the reader's time zone, half hours and all."""
    milliseconds = min(round(max(0.0, seconds) * 1000), 24 * 3_600_000 - 1)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"
