"""Speed of a device relative to the reference device whose costs the pipeline knows. Pure; the clock is passed in."""

from __future__ import annotations

from collections.abc import Mapping

REPORT_S = 10.0
"""Shortest interval of the reports."""
MIN_ANSWERS = 20
"""Answers that a report needs to be representative."""
SLOWEST, FASTEST = 0.001, 1000.0
"""Bounds of a speed: a measurement outside is an error of the clock or of the costs."""


class SpeedMeter:
    """Compares what answers cost here with what they cost on the reference device."""

    def __init__(self, costs: Mapping[str, float], now: float) -> None:
        """`costs`: device seconds per prompt by kind of task. Kinds without costs are not measured."""
        self._costs = costs
        self._restart(now)

    def record(self, prompts: Mapping[str, float], seconds: float) -> None:
        """An answer with these prompts, by kind of task, took so many seconds of the device."""
        # The later prompts of a task of several stages share the picture with its first one, and their number varies.
        if len(prompts) == 1 and all(kind in self._costs for kind in prompts):
            self._answers += 1
            self._expected += sum(count * self._costs[kind] for kind, count in prompts.items())
            self._measured += seconds

    def take(self, now: float) -> float | None:
        """Return the speed if a report is due."""
        if now < self._due or self._answers < MIN_ANSWERS or not self._measured:
            return None
        speed = self._expected / self._measured
        self._restart(now)
        return min(max(speed, SLOWEST), FASTEST)

    def _restart(self, now: float) -> None:
        self._due, self._answers, self._expected, self._measured = now + REPORT_S, 0, 0.0, 0.0
