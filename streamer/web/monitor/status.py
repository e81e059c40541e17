"""How the agent is, in the words of /api/streams and /healthz."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from streamer.config.model import Config
from streamer.web.monitor.capture_poller import CameraState, CapturePoller
from streamer.web.monitor.event_follower import Event, EventFollower
from streamer.web.monitor.task_list import Told
from streamer.web.video_urls import View

FRESH_S = 3.0
"""A camera whose newest frame is younger is live, whatever was said before."""
ANSWERED_S = 45.0
"""Half as long again as a quiet time lasts before the canary sings."""
STARTING_S = 20.0
"""So long a capture process may take to answer for the first time."""


def streams(
    config: Config,
    views: Mapping[str, View],
    cameras: CapturePoller,
    tail: EventFollower,
    tasks: Mapping[str, Sequence[Told]],
) -> dict[str, Any]:
    """Everything the page shows, apart from the events. `tasks` are those of now, by stream."""
    return {
        "agent": config.name,
        "started": round(tail.started, 3),
        "position": tail.position,
        "streams": [
            _stream(
                name,
                stream,
                cameras.states[name],
                tail,
                [view for view in views.values() if view.stream == name],
                tasks[name],
            )
            for name, stream in config.streams.items()
        ],
    }


def health(cameras: CapturePoller, tail: EventFollower) -> tuple[bool, dict[str, Any]]:
    """Whether every part of the program answers, and what it says. A camera that is away is no illness of ours."""
    now = time.monotonic()
    states = {name: stream_state(state, tail.states.get(name), now) for name, state in cameras.states.items()}
    healthy = "silent" not in states.values()
    return healthy, {"status": "ok" if healthy else "failing", "streams": states, "events": tail.position}


def readiness(tail: EventFollower) -> tuple[bool, dict[str, Any]]:
    """Whether answers come out, all the way through the ledger; in a quiet time it is the canary that shows it."""
    age = None if tail.answered is None else time.monotonic() - tail.answered
    ready = age is not None and age < ANSWERED_S
    words = {"status": "ready" if ready else "not ready", "answer_age_s": _rounded(age)}
    return ready, words if ready else {**words, "reason": "no answer comes out: the log says what is missing"}


def _stream(
    name: str, stream: Any, state: CameraState, tail: EventFollower, views: list[View], tasks: Sequence[Told]
) -> dict[str, Any]:
    now = time.monotonic()
    status = tail.states.get(name)
    said = stream_state(state, status, now)
    down = status if said == "down" else None
    return {
        "name": name,
        "kind": stream.source.kind,
        "pace": stream.source.pace,
        "state": said,
        "reason": down["data"]["reason"] if down else None,
        "state_age_s": _age(down) if down else None,
        "frame_age_s": _rounded(state.frame_age(now)),
        "stalled": said == "live" and state.is_stalled(now),
        "fps": _rounded(state.fps, 1),
        "frames": None if state.counts is None else state.counts.model_dump(),
        "live": [live for view in views for live in view.live()],
        "tasks": [
            {
                **task,
                "latest": (latest := tail.results.get((name, task["name"]))),
                "latest_age_s": None if latest is None else _age(latest),
            }
            for task in tasks
        ],
    }


def stream_state(state: CameraState, status: Event | None, now: float) -> str:
    """Of a stream: `live`, `down`, `ended`, `starting`, or `silent`: its capture process does not answer."""
    last = status["data"]["state"] if status is not None else None
    age = state.frame_age(now)
    if state.answers(now):
        if age is None:
            return "down" if last == "down" else "starting"
        return last if age >= FRESH_S and last in ("down", "ended") else "live"
    if last in ("ended", "stopped"):
        return "ended"
    return "starting" if state.heard is None and now - state.since < STARTING_S else "silent"


def _age(event: Event) -> float:
    """Seconds since an event's time."""
    return round((datetime.now(UTC) - datetime.fromisoformat(event["time"])).total_seconds(), 3)


def _rounded(number: float | None, digits: int = 3) -> float | None:
    return None if number is None else round(number, digits)
