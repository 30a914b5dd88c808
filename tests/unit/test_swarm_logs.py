"""The engine's log stream becomes lines."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from capmig.ports import LogLine
from capmig.swarm_logs import LEFT_OUT, LONGEST_LINE, MOST_PIECES, lines_of

FIRST = "2026-11-28T04:45:51.071219875Z"
LATER = "2026-11-28T04:45:51.071240495Z"
LAST = "2026-11-28T04:45:52.000000000Z"


def frame(stamp: str, text: bytes, source: int = 1) -> bytes:
    body = stamp.encode() + b" " + text
    return bytes([source, 0, 0, 0]) + len(body).to_bytes(4, "big") + body


def texts(stream: bytes, *, tty: bool = False, since: str = "") -> list[str]:
    return [line.text for line in lines_of(stream, tty=tty, since=since)]


def test_lines_of__both_outputs_by_time() -> None:
    """Lines of stdout and stderr come in the order in which they were printed."""
    stream = frame(LATER, b"second\n", 2) + frame(FIRST, b"first\n")
    assert lines_of(stream, tty=False) == [LogLine(stamp=FIRST, text="first"), LogLine(stamp=LATER, text="second")]


def test_lines_of__line_ends() -> None:
    """CRLF, no final newline, blanks and empty lines: only the line's end is taken off."""
    stream = frame(FIRST, b"  a \r\n") + frame(FIRST, b"\n") + frame(FIRST, b"b")
    assert texts(stream) == ["  a ", "", "b"]


def test_lines_of__only_later_ones() -> None:
    """The line whose stamp is given was had before."""
    stream = frame(FIRST, b"a\n") + frame(LATER, b"b\n") + frame(LAST, b"c\n")
    assert texts(stream, since=LATER) == ["c"]


def test_lines_of__broken_utf8() -> None:
    """Bytes that are no text spoil only themselves."""
    assert texts(frame(FIRST, b"caf\xc3\xa9 \xff\n")) == ["café �"]


def test_lines_of__long_line() -> None:
    """The engine's pieces of a long line become one line again, with the other output's lines in between or not."""
    piece = b"x" * 16384
    stream = frame(FIRST, piece) + frame(FIRST, b"other\n", 2) + frame(LATER, piece) + frame(LAST, b"end\n")
    assert texts(stream) == ["other", "x" * 32768 + "end"]


def test_lines_of__line_without_end() -> None:
    """One that is longer than a look takes is cut, or no look would ever come to what follows it."""
    stream = frame(FIRST, b"x" * 16384) * 65 + frame(LAST, b"end\n")
    assert texts(stream) == ["x" * LONGEST_LINE, "x" * 16384 + "end"]


def test_lines_of__unfinished_line_before_another_task() -> None:
    """A short line without a newline is not joined with the next one."""
    assert texts(frame(FIRST, b"died here") + frame(LATER, b"next task\n")) == ["died here", "next task"]


def test_lines_of__daemon_errors() -> None:
    """The daemon's own frames carry no stamp and are no output."""
    assert texts(b"\x03\x00\x00\x00\x00\x00\x00\x05error" + frame(FIRST, b"a\n")) == ["a"]


def test_lines_of__terminal() -> None:
    """Output of a container with a terminal has no frames."""
    assert texts(f"{FIRST} a\r\n{LATER} b\r\n".encode(), tty=True) == ["a", "b"]


@given(st.lists(st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]))), st.integers(0, 400))
def test_lines_of__cut_anywhere(lines: list[str], cut: int) -> None:
    """A stream that broke off yields the whole frames before the break, and never fails."""
    stream = b"".join(frame(FIRST, f"{line}\n".encode()) for line in lines)
    assert texts(stream) == lines
    found = texts(stream[:cut])
    assert found == lines[: len(found)]


def test_lines_of__says_where_some_were_left_out() -> None:
    """As many pieces as are asked for at once: what came before them is not there, unless they were had already."""
    most = [frame(LATER, b"x\n")] * (MOST_PIECES - 1) + [frame(LAST, b"end\n")]
    assert texts(b"".join(most))[:2] == [LEFT_OUT, "x"]
    assert texts(b"".join(most), since=FIRST)[:2] == [LEFT_OUT, "x"]
    assert texts(b"".join(most), since=LATER) == ["end"]
    assert LEFT_OUT not in texts(b"".join(most[1:]))
