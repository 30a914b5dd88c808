import io
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capmig.actions import Reporter
from tests.fakes.clock import FakeClock

ON_GITHUB = {"GITHUB_ACTIONS": "true"}
ON_ACT = {"GITHUB_ACTIONS": "true", "ACT": "true"}
BY_HAND: dict[str, str] = {}
# What the runner takes for a command: `::name` at the start of a line, `##[name]` anywhere in it.
COMMAND = re.compile(r"^\s*::\S|##\[")


class Run:
    """A reporter and what it has printed."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.clock = FakeClock()
        self._stream = io.StringIO()
        self.reporter = Reporter(environ, self._stream, clock=self.clock)

    @property
    def text(self) -> str:
        return self._stream.getvalue()

    @property
    def lines(self) -> list[str]:
        return self.text.split("\n")[:-1]


def assignments(path: Path) -> dict[str, str]:
    """A GITHUB_OUTPUT file as the runner reads it."""
    found = {}
    lines = iter(path.read_text(encoding="utf-8").split("\n"))
    for line in lines:
        if line:
            name, delimiter = line.split("<<")
            value = []
            while (line := next(lines)) != delimiter:
                value.append(line)
            found[name] = "\n".join(value)
    return found


def test_step__folds() -> None:
    """A step folds its lines, and shows beside its closed title how long it took."""
    run = Run(ON_GITHUB)
    run.reporter.step("Stop web 100%")
    run.reporter.info("web: 2 → 0 replicas")
    run.clock.sleep(1.44)
    run.reporter.step("Migrate")
    run.reporter.end()
    run.reporter.end()
    assert run.lines == [
        "::group::Stop web 100%25",
        "web: 2 → 0 replicas",
        "::endgroup::",
        "(1.4 s)",
        "::group::Migrate",
        "::endgroup::",
        "(0.0 s)",
    ]


def test_step__by_hand() -> None:
    """Without a runner there are titles, and no workflow commands at all."""
    run = Run(BY_HAND)
    run.reporter.step("Migrate")
    run.reporter.mask("s3cret-pw")
    run.reporter.notice("it is s3cret-pw")
    run.reporter.output_of("job", ["one"])
    run.reporter.error("broken")
    assert run.lines == ["Migrate", "Notice: it is ***", "  job │ one", "(0.0 s)", "Error: broken"]


@pytest.mark.parametrize("kind", ["notice", "warning", "error"])
def test_annotation__escaped(kind: str) -> None:
    """An annotation of several lines stays one command."""
    run = Run(ON_GITHUB)
    getattr(run.reporter, kind)("50% of\r\nit\n::error::no")
    assert run.lines == [f"::{kind}::50%25 of%0Ait%0A::error::no"]


@pytest.mark.parametrize("kind", ["notice", "warning", "error"])
def test_annotation__elsewhere(kind: str) -> None:
    """Runners that show no annotations get the text itself."""
    run = Run(ON_ACT)
    getattr(run.reporter, kind)("one\ntwo")
    assert run.lines == [f"{kind.capitalize()}: one", "two"]


def test_annotation__long() -> None:
    """What is longer than an annotation may be is cut there, and stands in full in the log."""
    run = Run(ON_GITHUB)
    run.reporter.warning("%" * 5000)
    assert run.lines == ["::warning::" + "%25" * 4095 + "…", "Warning: " + "%" * 5000]


def test_error__one_annotation() -> None:
    """The first error is the story: later ones are lines of the log, outside of folded steps."""
    run = Run(ON_GITHUB)
    run.reporter.step("Migrate")
    run.reporter.error("first")
    run.reporter.error("second")
    assert run.lines == ["::group::Migrate", "::endgroup::", "(0.0 s)", "::error::first", "Error: second"]


def test_mask__each_line_once() -> None:
    """A value of several lines is masked line by line, each once, and without boring lines."""
    run = Run(ON_GITHUB)
    key = "-----BEGIN KEY-----\nab%cd\r\n{\n-----END KEY-----\n"
    run.reporter.mask(key)
    run.reporter.mask("ab%cd")
    run.reporter.mask("true")
    run.reporter.mask("")
    assert run.lines == [
        "::add-mask::-----BEGIN KEY-----",
        "::add-mask::ab%25cd",
        "::add-mask::-----END KEY-----",
    ]


def test_mask__everywhere(tmp_path: Path) -> None:
    """A masked value shows nowhere: not on runners that do not mask, nor in files, nor percent-escaped."""
    files = {name: str(tmp_path / name) for name in ("GITHUB_OUTPUT", "GITHUB_STATE", "GITHUB_STEP_SUMMARY")}
    run = Run(ON_ACT | files)
    run.reporter.mask("s3c%ret")
    before = run.text
    run.reporter.step("about s3c%ret")
    run.reporter.info("s3c%ret")
    run.reporter.notice("s3c%ret")
    run.reporter.warning("s3c%ret")
    run.reporter.error("s3c%ret")
    run.reporter.error("s3c%ret")
    run.reporter.output_of("job s3c%ret", ["see s3c%ret", "s3\x1b[1mc%ret"])
    run.reporter.output("o", "s3c%ret")
    run.reporter.state("s", "s3c%ret")
    run.reporter.summary("s3c%ret")
    shown = run.text.removeprefix(before) + "".join(Path(path).read_text(encoding="utf-8") for path in files.values())
    assert shown.count("***") == 13
    assert "s3c" not in shown


def test_output_of__fence() -> None:
    """Another program's output is fenced by a token it cannot guess, a new one each time."""
    run = Run(ON_GITHUB)
    run.reporter.output_of("migration", ["::error::x", "##[error]y", "::stop-commands::z"])
    run.reporter.output_of("migration", ["more"])
    run.reporter.output_of("migration", [])
    token = run.lines[0].removeprefix("::stop-commands::")
    assert re.fullmatch("[0-9a-f]{32}", token)
    assert run.lines[:5] == [
        f"::stop-commands::{token}",
        "  migration │ ::error::x",
        "  migration │ # #[error]y",
        "  migration │ ::stop-commands::z",
        f"::{token}::",
    ]
    assert token not in "".join(run.lines[5:])
    assert len(run.lines) == 8


def test_output_of__control_characters() -> None:
    """Colours go, other control characters show as such, and a carriage return begins a line of its own."""
    run = Run(BY_HAND)
    run.reporter.output_of("job", ["\x1b[31mred\x1b[0m\tand \x1b]0;title\x07bell\x07", "10%\r20%\r\n", "", "\x9b2Jend"])
    assert run.lines == ["  job │ red\tand bell�", "  job │ 10%", "  job │ 20%", "  job │ ", "  job │ �2Jend"]


@pytest.mark.parametrize("text", ["::error::x", "  ::stop-commands::x", "\x1b[0m::error::x", "so: ##[error]x"])
def test_info__quoted_command(text: str) -> None:
    """A text of ours that quotes a command, such as an engine's error, does not issue it."""
    run = Run(ON_GITHUB)
    run.reporter.info(text)
    assert "x" in run.text
    assert not COMMAND.search(run.text)


@given(st.lists(st.text(st.characters() | st.sampled_from(":#[]\r\n\x1b"))))
def test_output_of__any_lines(lines: list[str]) -> None:
    """No line of another program is a command, even for a runner that does not know stop-commands."""
    run = Run(ON_GITHUB)
    run.reporter.output_of("job", lines)
    assert not any(COMMAND.search(line) for line in run.lines[1:-1])


@given(st.text(st.characters() | st.sampled_from(":#[]\r\n\x1b")))
def test_info__any_text(text: str) -> None:
    """Texts of ours may quote others': they are no commands either."""
    run = Run(ON_GITHUB)
    run.reporter.info(text)
    assert not any(COMMAND.search(line) for line in run.lines)


@given(st.text(st.characters() | st.sampled_from(":#[]\r\n\x1b%")))
def test_notice__any_text(text: str) -> None:
    """An annotation is one line and one command, whatever it says."""
    run = Run(ON_GITHUB)
    run.reporter.notice(text)
    (line,) = run.lines
    assert line.startswith("::notice::")


def test_write__narrow_encoding() -> None:
    """A terminal that knows no arrows gets question marks, not a crash."""
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii") as stream:
        Reporter(BY_HAND, stream).info("2 → 0")
        assert raw.getvalue() == b"2 ? 0\n"


def test_output__file(tmp_path: Path) -> None:
    """Outputs and state go to their files, several lines and delimiter-like values included."""
    files = {"GITHUB_OUTPUT": str(tmp_path / "output"), "GITHUB_STATE": str(tmp_path / "state")}
    run = Run(ON_GITHUB | files)
    run.reporter.output("result", "deployed")
    run.reporter.output("summary", "a\nEOF\nb<<c")
    run.reporter.state("settled", "true")
    assert assignments(tmp_path / "output") == {"result": "deployed", "summary": "a\nEOF\nb<<c"}
    assert assignments(tmp_path / "state") == {"settled": "true"}
    assert run.lines == []


def test_output__no_file(tmp_path: Path) -> None:
    """By hand, or where the file cannot be written, an output is printed; the deploy does not fail over it."""
    run = Run(BY_HAND | {"GITHUB_STATE": str(tmp_path / "missing" / "state")})
    run.reporter.output("result", "deployed")
    run.reporter.state("settled", "true")
    assert run.lines == [
        "result=deployed",
        "Cannot write GITHUB_STATE: No such file or directory",
        "settled=true",
    ]


def test_summary__file(tmp_path: Path) -> None:
    """The summary is added to what the step has there already."""
    path = tmp_path / "summary"
    path.write_text("before\n", encoding="utf-8")
    run = Run(ON_GITHUB | {"GITHUB_STEP_SUMMARY": str(path)})
    run.reporter.summary("## ✅\n")
    assert path.read_text(encoding="utf-8") == "before\n## ✅\n"
    assert run.lines == []


def test_summary__too_large(tmp_path: Path) -> None:
    """The runner drops a summary over 1 MiB: ours is cut before, and says so."""
    path = tmp_path / "summary"
    run = Run(ON_GITHUB | {"GITHUB_STEP_SUMMARY": str(path)})
    run.reporter.summary("é" * 2**20)
    assert path.stat().st_size <= 2**20
    assert path.read_text(encoding="utf-8").endswith("é\n\n… (cut)\n")


def test_summary__no_file() -> None:
    """Without a summary file the same text goes to the log."""
    run = Run(BY_HAND)
    run.reporter.summary("## done\n\nall of it\n")
    assert run.lines == ["## done", "", "all of it"]
