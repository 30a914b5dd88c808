"""The engine's log stream: how much of it is taken; its frames, stamps, lines."""

from __future__ import annotations

from capmig.ports import LogLine

_HEADER = 8
_OUTPUTS = (1, 2)  # stdout and stderr; 3 carries the daemon's own errors, without a stamp
_PIECE = 16 * 1024  # the engine cuts a longer line into pieces of this many bytes, each with a stamp

# At most so much is taken at once, of what a job prints without end: its last pieces, as they say why it failed. Under
# such a flood the engine stamps what comes on stderr some thousand lines too early (docs/FACTS.md).
MOST_PIECES = 10_000
MOST_BYTES = 4 * 2**20
LONGEST_LINE = 2**20  # bytes, but for a piece; a longer one is cut, so that each look gets on
LEFT_OUT = "[capmig: what was printed just before this was too much to be shown]"


def lines_of(stream: bytes, *, tty: bool, since: str = "") -> list[LogLine]:
    """The lines stamped later than `since`, oldest first, with a word about it where some before them were left out.

    The stream of a container with a terminal is not framed. What is cut off at the stream's end is left out.
    """
    pieces = [(0, line) for line in stream.splitlines(keepends=True)] if tty else _frames(stream)
    lines: list[LogLine] = []
    if len(pieces) >= MOST_PIECES:
        lines.append(LogLine(stamp=_stamp(pieces[0][1]), text=LEFT_OUT))  # dropped below, if that piece was had before
    unfinished: dict[int, bytes] = {}
    for source, piece in pieces:
        text = unfinished.pop(source, b"") + piece.partition(b" ")[2]
        whole = text.endswith(b"\n") or len(piece) <= _PIECE + len(_stamp(piece))
        if not whole and len(text) < LONGEST_LINE:
            unfinished[source] = text
            continue
        lines.append(LogLine(stamp=_stamp(piece), text=_text(text)))
    return sorted((line for line in lines if line.stamp > since), key=lambda line: line.stamp)


def _stamp(piece: bytes) -> str:
    return piece.partition(b" ")[0].decode("ascii", "replace")


def _text(line: bytes) -> str:
    return line.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8", "replace")


def _frames(stream: bytes) -> list[tuple[int, bytes]]:
    frames = []
    at = 0
    while at + _HEADER <= len(stream):
        source = stream[at]
        end = at + _HEADER + int.from_bytes(stream[at + 4 : at + _HEADER], "big")
        if end > len(stream):
            break
        if source in _OUTPUTS:
            frames.append((source, stream[at + _HEADER : end]))
        at = end
    return frames
