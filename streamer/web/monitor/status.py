"""The bodies of /api/streams, /healthz and /readyz, and the state of a stream."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from streamer.config.model import Config
from streamer.events.schema import ResultEvent
from streamer.web.monitor.capture_poller import CapturePoller, CaptureState
from streamer.web.monitor.event_follower import Event, EventFollower
from streamer.web.monitor.task_list import TaskJson, TaskLists
from streamer.web.video_urls import served_views

FRESH_S = 3.0
"""A camera with a younger frame is live, whatever its last status event says."""
READY_S = 45.0
"""Longest time since the last answer: 1.5 times the 30 s without answers after which the canary runs."""
ELSEWHERE = "elsewhere"
"""State of a stream of the config that this agent does not run."""
STARTING_S = 20.0
"""Time for a capture process to reply for the first time."""


def streams(config: Config, capture: CapturePoller, events: EventFollower, tasks: TaskLists) -> dict[str, Any]:
    """Return everything the page shows except events."""
    now, views = time.monotonic(), served_views(config)
    listed = []
    for name, stream in config.streams.items():
        process, status = capture.states[name], events.states.get(name)
        source: Any = stream.source
        state = stream_state(process, status, now) if events.runs(name) else ELSEWHERE
        down = status if state == "down" else None
        listed.append(
            {
                "name": name,
                "kind": source.kind,
                "pace": source.pace,
                "state": state,
                "reason": down["data"]["reason"] if down else None,
                "state_age_s": _age(down),
                "frame_age_s": _rounded(process.frame_age(now)),
                "stalled": state == "live" and process.is_stalled(now),
                "fps": _rounded(process.fps, 1),
                "frames": None if process.counts is None else process.counts.model_dump(),
                "live": [live for view in views.values() if view.id.stream == name for live in view.live()],
                "device": tasks.devices.of(name),
                "objects": [_object(track, event) for track, event in reversed(events.objects[name].items())],
                "tasks": [_task(task, events.results.get((name, task["name"]))) for task in tasks.by_stream[name]],
            }
        )
    return {
        "agent": config.name,
        "started": round(events.started, 3),
        "position": events.position,
        "devices": tasks.devices.states(events.workers),
        "streams": listed,
    }


def health(capture: CapturePoller, events: EventFollower) -> tuple[bool, dict[str, Any]]:
    """Return whether every capture process answers, and the body. A camera that is down is not a failure."""
    now = time.monotonic()
    states = {
        name: stream_state(state, events.states.get(name), now) if events.runs(name) else ELSEWHERE
        for name, state in capture.states.items()
    }
    healthy = "silent" not in states.values()
    return healthy, {"status": "ok" if healthy else "failing", "streams": states, "events": events.position}


def readiness(events: EventFollower, tasks: TaskLists) -> tuple[bool, dict[str, Any]]:
    """Return whether answers reach the ledger, and the body. If no task is due, the canary's answers count.

    An agent that runs no stream with a task is ready.
    """
    if not any(listed and events.runs(stream) for stream, listed in tasks.by_stream.items()):
        return True, {"status": "ready", "answer_age_s": None, "reason": "no stream with a task runs here"}
    age = None if events.answered is None else time.monotonic() - events.answered
    body = {"answer_age_s": _rounded(age)}
    if age is not None and age < READY_S:
        return True, {"status": "ready", **body}
    return False, {"status": "not ready", **body, "reason": f"no answer within {READY_S:g} s: see the log"}


def stream_state(state: CaptureState, status: Event | None, now: float) -> str:
    """Return `live`, `down`, `ended`, `starting`, or `silent` if the capture process does not answer.

    `status` is the stream's newest status event, `now` a monotonic second.
    """
    last = status["data"]["state"] if status is not None else None
    age = state.frame_age(now)
    if state.answers(now):
        if age is None:
            return "down" if last == "down" else "starting"
        return last if age >= FRESH_S and last in ("down", "ended") else "live"
    if last in ("ended", "stopped"):
        return "ended"
    return "starting" if state.replied is None and now - state.since < STARTING_S else "silent"


def _task(task: TaskJson, latest: Event | None) -> dict[str, Any]:
    return {**task, "latest": latest, "latest_age_s": _age(latest)}


def _object(track: int, event: ResultEvent) -> dict[str, Any]:
    """Return the newest description of an object."""
    data = event.data
    return {
        "track": track,
        "label": data.parent.label if data.parent else None,
        "text": data.result.text if data.result else None,
        "region": data.region,
        "age_s": _age({"time": event.time}),
    }


def _age(event: Event | None) -> float | None:
    """Return the seconds since an event's time."""
    if event is None:
        return None
    return round((datetime.now(UTC) - datetime.fromisoformat(event["time"])).total_seconds(), 3)


def _rounded(number: float | None, digits: int = 3) -> float | None:
    return None if number is None else round(number, digits)
