"""Texts of notifications. They come from the rule's `say`, never from a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, tzinfo
from secrets import token_hex

from streamer.core.printable import counted
from streamer.events.incident_data import SEVERITIES
from streamer.events.notify._base import Message
from streamer.events.part import unix_time
from streamer.events.schema import IncidentEvent

MAX_LINES = 5
"""Incidents that a summary lists."""


def message_of(event: IncidentEvent, zone: tzinfo, picture: bytes | None = None) -> Message:
    """Return the message of an incident event. `zone`: that of the times in it."""
    data = event.data
    title = f"{data.rule} at {data.stream}"
    when = f"{_clock(data.started, zone)}, severity {data.severity}"
    if data.state == "end":
        title, when = f"{title}: over", f"{when}, lasted {_duration(data.seconds)}"
    elif data.state == "update":
        title = title if data.silent else f"{title}: {data.severity}"
        when = f"since {when}, {data.reason}" if data.reason else f"since {when}"
    return Message(
        event.id, data.incident, data.state, title, f"{data.text}\n{when}", data.severity, data.silent, data.rule,
        data.stream, picture,
    )  # fmt: skip


def summary_of(events: Sequence[IncidentEvent], zone: tzinfo) -> Message:
    """Return one message for events that could not be delivered in time."""
    newest = {event.data.incident: event for event in events}
    first, last = events[0], events[-1]
    number = len(newest)
    lines = [f"{_clock(event.data.started, zone)} {event.data.text}" for event in list(newest.values())[:MAX_LINES]]
    lines += [f"and {number - MAX_LINES} more"] if number > MAX_LINES else []
    span = f"{_clock(first.time, zone)} to {_clock(last.time, zone)}"
    return Message(
        # The first event is the same when the summary is sent again after a crash, with more events perhaps.
        f"late-{first.id}",
        f"late-{first.id}",
        "late",
        counted(number, "late incident"),
        "\n".join([f"Not delivered in time, {span}:", *lines]),
        max((event.data.severity for event in events), key=SEVERITIES.index),
        silent=all(event.data.silent for event in events),
    )


def marked_as_repeat(message: Message) -> Message:
    """Return a message that says that its receiver may have it already. Its id is the same."""
    return replace(message, title=f"Possible repeat: {message.title}")


def message_for_test(agent: str, name: str) -> Message:
    """Return the message of `streamer rules check --send-test`."""
    body = f"The agent {agent} can reach the target {name}."
    return Message(f"test-{token_hex(8)}", "test", "test", f"Test of {agent}", body, "info")


def _clock(time: str, zone: tzinfo) -> str:
    return datetime.fromtimestamp(unix_time(time), zone).strftime("%Y-%m-%d %H:%M:%S")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
