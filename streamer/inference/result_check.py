"""Checks the numbers in a result of the engine. Half-precision arithmetic can overflow, and JSON has no NaN."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from streamer.types import Answer, Result

_MIN_PLACE, _MAX_PLACE = -1.0, 2.0
"""Valid coordinates, as fractions of the frame: 0 to 1, and as much on each side for a model that draws over it."""
_MAX_TIME_S = 1e10
"""Largest valid time in seconds, 300 years: more than any monotonic clock shows."""


def check_numbers(result: Result) -> Result:
    """Return the result, with the outcome `error` when a coordinate or a time in it is not a valid number."""
    times_valid = all(
        abs(time) <= _MAX_TIME_S for time in (result.inference_s, result.started_mono, result.device_s or 0.0)
    )
    times_valid = times_valid and result.batch > 0
    if times_valid and all(_MIN_PLACE <= number <= _MAX_PLACE for number in _coordinates(result.answer)):
        return result
    invalid = "coordinates" if times_valid else "times"
    failed = replace(result, outcome="error", answer=Answer(), error=f"the engine returned invalid {invalid}")
    return failed if times_valid else replace(failed, inference_s=0.0, started_mono=0.0, batch=1, device_s=None)


def _coordinates(answer: Answer) -> Iterator[float]:
    for box in itertools.chain(answer.boxes, *(span.boxes for span in answer.spans)):
        yield from (box.x0, box.y0, box.x1, box.y1)
    for one in answer.confirmation.refused if answer.confirmation else ():
        yield from (one.box.x0, one.box.y0, one.box.x1, one.box.y1)
    outlines = [shape.points for shape in answer.polygons] + [shape.points for shape in answer.quads]
    for point in itertools.chain.from_iterable(outlines):
        yield from point
