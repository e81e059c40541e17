"""The real emit, rules and web processes of an agent whose camera is played."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from streamer.bus.event_channel import EventClient
from streamer.bus.rpc import rules_socket
from streamer.config.model import from_mapping
from streamer.events.result_data import Snapshot
from streamer.events.schema import IncidentEvent, ResultEvent
from tests.support.agents import until
from tests.support.capturing import STREAM
from tests.support.incidents import Camera
from tests.support.rules_process import Workers
from tests.support.web_process import AGENT, CONFIG, Response, WebProcess

WITH_RULES: dict[str, Any] = {
    **CONFIG,
    "modes": ["home", "away"],
    "rules": {
        "visitor": {
            "when": {"label": "person", "min_score": 0.6, "clear_score": 0.45, "streams": [STREAM]},
            "grace": "2s",
            "severity": "high",
            "say": "{count} x {label} at {stream}",
        },
        "dog": {"when": {"label": "dog", "streams": [STREAM]}, "between": "22:00-06:00", "modes": ["away"]},
    },
}


class RulesScene:
    """The processes; a context manager. One incident of the rule `visitor` has been before."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any] = WITH_RULES,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`headers`: of the requests that the methods send."""
        self._config, self._folder, self._headers = config, folder, headers
        self._camera = Camera(STREAM, AGENT)

    def __enter__(self) -> RulesScene:
        with contextlib.ExitStack() as stack:
            self.workers = stack.enter_context(Workers(self._folder, from_mapping(self._config)))
            self._events = stack.enter_context(EventClient(self.workers.runtime, "infer"))
            until(rules_socket(self.workers.runtime).exists, 60, "the rules process")
            self.past = self.play(0.9, None, None, None)
            until(lambda: len(self.workers.incidents()) == 2, 20, "the first incident and its end")
            web = WebProcess(self.workers.runtime, self._config, state=self.workers.state)
            self.web = stack.enter_context(web)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def play(self, *scores: float | None, snapshot: Callable[[str], Snapshot] | None = None) -> str:
        """Let the rules see answers with a person of these scores. Return the id of the incident that they start.

        `snapshot`: stores the picture of an answer, given by the id of its event.
        """
        answers = list(self._camera.answers(*scores))
        for answer in answers:
            changes = {} if snapshot is None else {"snapshot": snapshot(answer.id)}
            data = answer.data.model_copy(update=changes)
            self._events.send(answer.model_copy(update={"data": data}), None)
        assert self._events.flush(20)
        return self._incident_of(answers[0]) if scores[0] is not None else ""

    def report(self, event: IncidentEvent) -> None:
        """Accept an incident event as if the rules had made it."""
        self._events.send(event, None)
        assert self._events.flush(20)

    def _incident_of(self, answer: ResultEvent) -> str:
        found: list[str] = until(
            lambda: [one.data.incident for one in self.workers.incidents() if answer.id in one.data.evidence],
            20,
            "the incident of an answer",
        )
        return found[0]

    def incidents(self, query: str = "") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.web.get(f"/api/incidents?{query}", self._headers).json()["incidents"]
        return found

    def listed(self, incident: str) -> dict[str, Any]:
        """Return an incident as the API lists it, once it does."""
        found: dict[str, Any] = until(
            lambda: next((one for one in self.incidents() if one["incident"] == incident), {}), 10, "the incident"
        )
        return found

    def post(self, path: str, body: Any = None) -> Response:
        headers = {"Content-Type": "application/json", **self._headers}
        return self.web.get(path, headers, "POST", json.dumps(body or {}).encode())
