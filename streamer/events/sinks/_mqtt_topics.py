"""MQTT topics and ids, made from names. Different names never give the same one."""

from __future__ import annotations

STATUS = "status"
"""Last part of the topics of retained states."""


def source_topic(prefix: str, source: str) -> str:
    """Return the topic below which the events of a CloudEvents source are."""
    return prefix + source.removeprefix("/agents")


def event_topic(base: str, subject: str) -> str:
    """Return the topic of an event below the topic of its source."""
    # Subjects of status events have a dot and names of tasks have none, so only a task can be called `status`.
    return f"{base}/task.{subject}" if subject == STATUS else f"{base}/{subject}"


def client_id(agent: str, sink: str) -> str:
    return f"streamer-{_joined(agent, '-', sink)}"


def device_id(agent: str, stream: str) -> str:
    """Return Home Assistant's id of a stream: letters, digits, `-` and `_`, as its topics need."""
    return f"streamer_{_joined(agent, '_', stream)}"


def _joined(agent: str, mark: str, name: str) -> str:
    """Return the two names with `mark` between them, and with an `S` if the first name holds the mark."""
    # So the first mark ends the first name, or the first `S` does: names have no capital letters.
    return f"{agent}{mark}S{mark}{name}" if mark in agent else f"{agent}{mark}{name}"
