"""The Actions runner: the only module that knows workflow commands, outputs, masks and the job summary."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import TextIO

from capmig.masking import redact, worth_masking
from capmig.ports import Clock
from capmig.report import duration

LONGEST_ANNOTATION = 4096  # characters; the runner cuts there
LARGEST_SUMMARY = 2**20 - 1024  # bytes; the runner drops one over 1 MiB altogether

_COLOUR = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
# act, Gitea and Forgejo say GITHUB_ACTIONS too, but show annotations badly or not at all.
_NOT_GITHUB = ("ACT", "GITEA_ACTIONS", "FORGEJO_ACTIONS")


class Reporter:
    """`ports.Log` on a runner, and in plain text by hand. Nothing it writes holds a value given to `mask`."""

    def __init__(self, environ: Mapping[str, str], stream: TextIO, *, clock: Clock = time) -> None:
        self._environ = environ
        self._stream = stream
        self._clock = clock
        self._runner = environ.get("GITHUB_ACTIONS") == "true"
        self._annotates = self._runner and not any(environ.get(name) for name in _NOT_GITHUB)
        self._secrets: set[str] = set()
        self._step_began: float | None = None
        self._failed = False

    def step(self, title: str) -> None:
        """End the step before, and fold what follows under this title."""
        self.end()
        self._step_began = self._clock.monotonic()
        if self._runner:
            self._command("group", title)
        else:
            self._print(title)

    def end(self) -> None:
        """End the step, if one is open: what follows is not folded."""
        if self._step_began is None:
            return
        took = self._clock.monotonic() - self._step_began
        self._step_began = None
        if self._runner:
            self._write("::endgroup::")
        self._print(f"({duration(took)})")

    def info(self, text: str) -> None:
        self._print(text)

    def notice(self, text: str) -> None:
        self._annotate("notice", text)

    def warning(self, text: str) -> None:
        self._annotate("warning", text)

    def error(self, text: str) -> None:
        """Tell the failure, outside of any folded step. Only the first becomes an annotation: it is the story."""
        self.end()
        if self._failed:
            self._print(f"Error: {text}")
        else:
            self._annotate("error", text)
        self._failed = True

    def mask(self, value: str) -> None:
        """Never show this value again, nor one of its lines; common words and very short values are left alone."""
        lines = value.splitlines()
        for secret in (value, *lines, *(_clean(line).strip() for line in lines)):
            if secret in self._secrets or not worth_masking(secret):
                continue
            self._secrets.add(secret)
            # The runner takes one line. By hand nobody would swallow the command, and it would show the value.
            if self._runner and len(secret.splitlines()) == 1:
                self._write(f"::add-mask::{_escaped(secret)}")

    def redact(self, text: str) -> str:
        """The text without what was masked."""
        return redact(text, self._secrets)

    def output_of(self, source: str, lines: Sequence[str]) -> None:
        """Lines of another program: they can issue no workflow command, and show no control characters."""
        if not lines:
            return
        token = secrets.token_hex(16)
        if self._runner:
            self._write(f"::stop-commands::{token}")
        for line in lines:
            for part in line.splitlines() or [""]:
                self._write(self._safe(f"  {source} │ {part}"))
        if self._runner:
            self._write(f"::{token}::")

    def output(self, name: str, value: str) -> None:
        """Set an output of the step; by hand it is printed."""
        self._assign("GITHUB_OUTPUT", name, value)

    def state(self, name: str, value: str) -> None:
        """Save a value for the post step, which finds it as `STATE_NAME`; by hand it is printed."""
        self._assign("GITHUB_STATE", name, value)

    def summary(self, markdown: str) -> None:
        """Add to the job summary; to the log where there is none."""
        text = self.redact(markdown)
        content = text.encode("utf-8", "replace")
        if len(content) > LARGEST_SUMMARY:
            text = content[:LARGEST_SUMMARY].decode("utf-8", "ignore") + "\n\n… (cut)\n"
        if not self._append("GITHUB_STEP_SUMMARY", text):
            self._print(text)

    def _assign(self, variable: str, name: str, value: str) -> None:
        value = self.redact(value)
        delimiter = f"capmig_{secrets.token_hex(16)}"
        if not self._append(variable, f"{name}<<{delimiter}\n{value}\n{delimiter}\n"):
            self._print(f"{name}={value}")

    def _append(self, variable: str, text: str) -> bool:
        path = self._environ.get(variable)
        if not path:
            return False
        try:
            with open(path, "a", encoding="utf-8", errors="replace", newline="") as file:
                file.write(text)
        except OSError as error:
            self._print(f"Cannot write {variable}: {error.strerror}")
            return False
        return True

    def _annotate(self, kind: str, text: str) -> None:
        text = self.redact(text)
        if self._annotates:
            short = text if len(text) <= LONGEST_ANNOTATION else text[: LONGEST_ANNOTATION - 1] + "…"
            self._command(kind, short)
        if not self._annotates or len(text) > LONGEST_ANNOTATION:
            self._print(f"{kind.capitalize()}: {text}")

    def _command(self, name: str, text: str) -> None:
        clean = "\n".join(_clean(line) for line in self.redact(text).splitlines())
        self._write(f"::{name}::{_escaped(self.redact(clean))}")

    def _print(self, text: str) -> None:
        for line in text.splitlines():
            self._write(self._safe(line))

    def _safe(self, line: str) -> str:
        """One line that shows no secret and that the runner takes for no command."""
        # Twice: a secret may hold control characters, or only show once those within it are gone.
        shown = self.redact(_clean(self.redact(line))).replace("##[", "# #[")
        return shown.replace("::", ": :", 1) if shown.lstrip().startswith("::") else shown

    def _write(self, line: str) -> None:
        encoding = self._stream.encoding or "utf-8"
        self._stream.write(line.encode(encoding, "replace").decode(encoding) + "\n")
        self._stream.flush()


def _clean(line: str) -> str:
    return _CONTROL.sub("�", _COLOUR.sub("", line))


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
