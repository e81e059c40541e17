"""Upper bound of the load of tasks and streams, in device seconds per second, from costs per prompt."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from itertools import pairwise

from streamer.capture.interfaces import SourceSettings
from streamer.config.calendar import Cron
from streamer.config.follow_up import FollowUp
from streamer.config.model import Stream, find_pipeline
from streamer.config.task import ScheduledTask
from streamer.inference.placement import RECORDING_LOAD
from streamer.types import Task

FPS = 25.0
"""Assumed frames per second of a camera whose source does not give them."""
UNKNOWN_COST_S = 1.0
"""Cost of a prompt where none is known: then all prompts cost the same, whatever the number."""
_RUNS = 50
"""Runs of a cron line that are searched for its shortest interval."""


def stream_load(stream: Stream, costs: Mapping[str, float]) -> float:
    """Return the load of a stream; a recording takes what it gets and counts as a whole device."""
    if stream.source.pace == "file":
        return RECORDING_LOAD
    return sum(task_load(task, stream.source, costs) for task in stream.tasks)


def task_load(task: ScheduledTask, source: SourceSettings, costs: Mapping[str, float]) -> float:
    """Return the load of a task. A kind of task without costs counts as the most expensive one that has them."""
    return max_runs_per_second(task, source) * _cost(task, costs)


def prompts_of(task: Task, costs: Mapping[str, float]) -> Mapping[str, float]:
    """Return the expected prompts of a run by kind, or one run where its cost as a whole was measured."""
    prompts: Mapping[str, float] = task.params.prompts
    return {task.task: 1} if task.task in costs and task.task not in prompts else prompts


def follow_up_load(task: ScheduledTask, source: SourceSettings, costs: Mapping[str, float]) -> float:
    """Return the highest load of a task's follow-ups, which run in the time that scheduled tasks leave.

    Each answer has `most` shapes. The first question about a new track is not counted, only those after `refresh`.
    """
    return _follow_up_load(task, max_runs_per_second(task, source), costs)


def _follow_up_load(task: ScheduledTask | FollowUp, rate: float, costs: Mapping[str, float]) -> float:
    """`rate`: answers of the task per second."""
    load, gives_text = 0.0, find_pipeline().tasks()[task.task].result == "text"
    for follow_up in task.then:
        often = rate
        if follow_up.on == "new_tracks":
            often = 0.0 if follow_up.refresh is None else min(rate, 1 / follow_up.refresh)
        runs = often * (1 if gives_text else follow_up.most)
        load += runs * _cost(follow_up, costs) + _follow_up_load(follow_up, runs, costs)
    return load


def _cost(task: Task, costs: Mapping[str, float]) -> float:
    unknown = max(costs.values(), default=UNKNOWN_COST_S)
    return sum(count * costs.get(kind, unknown) for kind, count in prompts_of(task, costs).items())


def max_runs_per_second(task: ScheduledTask, source: SourceSettings) -> float:
    """Return the highest run rate of a task; 0 if it is paused or reads a recording, which has no fixed rate."""
    if task.paused or source.pace == "file":
        return 0.0
    if task.at is not None:
        return 1 / _shortest_gap(task.at)
    if task.every_n_frames is not None:
        return (known_fps(source) or FPS) / task.every_n_frames
    assert task.every is not None
    return 1 / task.every


def known_fps(source: SourceSettings) -> float | None:
    """Return the frames per second that the settings of a source give."""
    return getattr(source, "fps", None)


def _shortest_gap(cron: Cron) -> float:
    """Return the shortest interval in seconds among the next runs of a cron line."""
    now = time.time()
    runs = [now]
    while len(runs) < _RUNS and math.isfinite(runs[-1]):
        runs.append(cron.after(runs[-1]))
    return min((after - before for before, after in pairwise(runs[1:])), default=math.inf)
