"""Splits pictures into those to train on and those held out, by time: neighbouring frames never stand on both sides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pipelines.dataset.annotate import Shot


def split_by_time(shots: Sequence[Shot], share: float = 0.2, gap: float = 60.0) -> tuple[list[Shot], list[Shot]]:
    """Return the pictures to train on and the held-out ones: the last `share` of each camera's pictures.

    Pictures less than `gap` seconds before the first held-out one are in neither. Pictures without a time are in the
    order in which they are given.
    """
    by_stream: dict[str | None, list[Shot]] = defaultdict(list)
    for shot in shots:
        by_stream[shot.stream].append(shot)
    train: list[Shot] = []
    held_out: list[Shot] = []
    for some in by_stream.values():
        if all(shot.taken_at is not None for shot in some):
            some = sorted(some, key=lambda shot: shot.taken_at or 0.0)
        first = max(1, round(len(some) * (1 - share)))
        later = some[first:]
        begin = later[0].taken_at if later else None
        held_out += later
        train += [shot for shot in some[:first] if not (begin and shot.taken_at and begin - shot.taken_at < gap)]
    return train, held_out
