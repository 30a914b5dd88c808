"""What the engine's log stream says: frames, stamps, lines."""

from __future__ import annotations

from capmig.ports import LogLine

_HEADER = 8
_OUTPUTS = (1, 2)  # stdout and stderr; 3 carries the daemon's own errors, without a stamp
_PIECE = 16 * 1024  # the engine cuts a longer line into pieces of this many bytes, each with a stamp


def lines_of(stream: bytes, *, tty: bool, since: str = "") -> list[LogLine]:
    """The lines stamped later than `since`, oldest first.

    The stream of a container with a terminal is not framed. What is cut off at the stream's end is left out.
    """
    pieces = [(0, line) for line in stream.splitlines(keepends=True)] if tty else _frames(stream)
    lines: list[LogLine] = []
    unfinished: dict[int, bytes] = {}
    for source, piece in pieces:
        stamp, _, text = piece.partition(b" ")
        text = unfinished.pop(source, b"") + text
        if not text.endswith(b"\n") and len(piece) - len(stamp) > _PIECE:
            unfinished[source] = text
            continue
        lines.append(LogLine(stamp=stamp.decode("ascii", "replace"), text=_text(text)))
    return sorted((line for line in lines if line.stamp > since), key=lambda line: line.stamp)


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
