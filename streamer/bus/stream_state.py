"""State of a stream that goes from one inference process to the next, as data on the wire and in the crash journal.

Monotonic seconds in it are those of this computer, which all processes share.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Whole = Annotated[int, Field(ge=0, lt=1 << 53)]
_Number = Annotated[float, Field(ge=-math.inf)]
"""Infinite too, but not NaN."""
FrameKey = tuple[Whole, Whole]
"""Epoch and number of a frame."""
SuspectKey = tuple[str, str, FrameKey | None]
"""Stream, task, and the frame of a recording."""
QuarantineRows = tuple[list[tuple[SuspectKey, Whole]], list[tuple[SuspectKey, _Number]], list[tuple[SuspectKey, Whole]]]
"""Deaths, monotonic second until which it is blocked, and number of verdicts, by suspect."""
NO_ROWS: QuarantineRows = ([], [], [])


Moment = tuple[float, float]
"""Monotonic and unix second."""


class ScheduleState(BaseModel):
    """Times and frames at which the tasks of a stream ran last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: list[dict[str, Any]]
    """The tasks as in the config. The state is for these only."""
    last: FrameKey | None = None
    """Newest frame that was given to a task."""
    triggers: dict[str, dict[str, bool | int | _Number | FrameKey | None]]
    """State of the triggers by task name."""
