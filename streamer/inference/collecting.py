"""The part of the collection that every inference process has: without `collect` it imports nothing further."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.config.model import Config, find_pipeline
from streamer.core.logs import RareLog
from streamer.core.reasons import reason_of
from streamer.types import Frame, FrameOutcome

if TYPE_CHECKING:
    from streamer.inference.collector import Collector

log = logging.getLogger(__name__)
_failed = RareLog(log, "%s not collected, stream %s: %s", noun="frame")


def collector_of(config: Config, model: str, state: Path) -> Collector | None:
    """Return what collects frames for a dataset; None if no stream wants it. `model`: its name in the answers."""
    if not any(stream.collect for stream in config.streams.values()):
        return None
    from streamer.inference.collector import Collector

    return Collector(config, model, state, find_pipeline().tasks())


def judged_first(
    collector: Collector | None, settle: Callable[[Frame, FrameOutcome], object]
) -> Callable[[Frame, FrameOutcome], object]:
    """Return `settle`, before which the collector judges the frame: its jobs have all ended, its pixels are there."""
    if collector is None:
        return settle

    def judge_and_settle(frame: Frame, outcome: FrameOutcome) -> None:
        try:
            collector.finish(frame)
        except Exception as error:  # the dataset must not cost an answer
            _failed.add(frame.stream, reason_of(error, "collect"))
        settle(frame, outcome)

    return judge_and_settle
