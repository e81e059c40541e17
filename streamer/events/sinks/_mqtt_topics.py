"""MQTT topics and Home Assistant's ids, made from names. Different names never give the same one."""

from __future__ import annotations

STATUS = "status"
"""Last part of the topics of retained states."""


def event_topic(prefix: str, subject: str) -> str:
    """Return the topic of an event below the topic of its source."""
    # Subjects of status events have a dot and names of tasks have none, so only a task can be called `status`.
    return f"{prefix}/task.{subject}" if subject == STATUS else f"{prefix}/{subject}"


def device_id(agent: str, stream: str) -> str:
    """Return Home Assistant's id of a stream: letters, digits, `-` and `_`, as its topics need."""
    # The first `_` after `streamer_` ends the agent's name, unless that has a `_` too. Names have no capital letter.
    return f"streamer_{agent}{'_S_' if '_' in agent else '_'}{stream}"
