"""Answers with one object, whose scores a test gives, and what rules make of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

from streamer.config.model import Config
from streamer.events.build import rfc3339
from streamer.events.schema import IncidentEvent, ResultEvent
from streamer.rules.engine import Engine
from tests.support.sample_events import event
from tests.support.stories import run


class Camera:
    """The answers of the task `people` of one stream; a second lies between two."""

    def __init__(self, stream: str, agent: str = "home", start: float | None = None) -> None:
        """`start`: unix second of the first answer, by default a minute ago."""
        self.now = time.time() - 60 if start is None else start
        self._stream, self._agent, self._seq = stream, agent, 0

    def answers(self, *scores: float | None, label: str = "person") -> Iterator[ResultEvent]:
        """Yield answers with an object of these scores; None: an answer without objects."""
        for score in scores:
            self._seq += 1
            plain = event(self._stream, self._seq, agent=self._agent)
            assert plain.data.result is not None
            (box,) = plain.data.result.boxes
            boxes = () if score is None else (box.model_copy(update={"label": label, "score": score}),)
            changes = {
                "result": plain.data.result.model_copy(update={"boxes": boxes}),
                "frame": plain.data.frame.model_copy(update={"pts": self.now}),
                "outcome": "empty" if score is None else "ok",
            }
            when = rfc3339(datetime.fromtimestamp(self.now, UTC))
            yield plain.model_copy(update={"data": plain.data.model_copy(update=changes), "time": when})
            self.now += 1


def incidents_of(config: Config, camera: Camera, *scores: float | None) -> list[IncidentEvent]:
    """Return what new rules make of the camera's next answers."""
    return run(Engine(config), list(camera.answers(*scores)))
