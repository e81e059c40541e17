"""Incident events as the rules make them, for tests of their readers."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from streamer.config.model import Config
from streamer.events.build import rfc3339
from streamer.events.schema import IncidentEvent, ResultEvent
from streamer.rules.engine import Engine
from tests.support.sample_events import event


class Watch:
    """The rules of a config, seeing one answer after the other; a second lies between two."""

    def __init__(self, config: Config, start: float | None = None) -> None:
        """`start`: unix second of the first answer, by default a minute ago."""
        self.engine = Engine(config)
        self.now = time.time() - 60 if start is None else start
        self._seq = 0

    def answers(self, stream: str, *scores: float | None, label: str = "person") -> list[IncidentEvent]:
        """Return what the rules make of answers with one object of these scores; None: an answer without objects."""
        found = []
        for score in scores:
            found += self.engine.process(self._answer(stream, score, label))
            self.now += 1
        return found

    def _answer(self, stream: str, score: float | None, label: str) -> ResultEvent:
        self._seq += 1
        plain = event(stream, self._seq)
        assert plain.data.result is not None
        (box,) = plain.data.result.boxes
        boxes = () if score is None else (box.model_copy(update={"label": label, "score": score}),)
        body = plain.data.result.model_copy(update={"boxes": boxes})
        frame = plain.data.frame.model_copy(update={"pts": self.now})
        outcome = "empty" if score is None else "ok"
        data = plain.data.model_copy(update={"result": body, "frame": frame, "outcome": outcome})
        when = rfc3339(datetime.fromtimestamp(self.now, UTC))
        return plain.model_copy(update={"data": data, "time": when})
