"""Segments in the header of a JPEG. Pure."""

from __future__ import annotations

from collections.abc import Iterator

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of the segment that holds the size."""
_SCAN, _TABLES = 0xDA, 0xDB
_STEPS = 64


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height, None if there are none."""
    for marker, begin, end in _segments(data):
        if marker in _START_OF_FRAME and end - begin >= 5:
            return int.from_bytes(data[begin + 3 : begin + 5]), int.from_bytes(data[begin + 1 : begin + 3])
    return None


def coarseness(data: bytes) -> int:
    """Return the sum of the steps to which the first table rounds: the lower the quality, the higher. 0: unknown."""
    for marker, begin, end in _segments(data):
        if marker == _TABLES:
            is_usual = end - begin > _STEPS and data[begin] == 0  # one byte for each step
            return sum(data[begin + 1 : begin + 1 + _STEPS]) if is_usual else 0
    return 0


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, begin and end of each segment before the first scan. Stop where the data are no JPEG."""
    place = 2
    while data[:2] == b"\xff\xd8" and place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != _SCAN:
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4])
        if end > len(data):
            return
        yield data[place + 1], place + 4, end
        place = end
