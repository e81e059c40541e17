"""MQTT topics and ids, made from names. Different names never give the same one."""

from __future__ import annotations

STATUS = "status"
"""Last part of the topics of retained states."""


ATTRIBUTES = "attributes"
"""Last part of the topics with what is known about the incident of a rule."""
WORD = "word"
"""Last part of the topics with the word of the `state` of a rule."""


def source_topic(prefix: str, source: str) -> str:
    """Return the topic below which the events of a CloudEvents source are."""
    return prefix + source.removeprefix("/agents")


def stream_topic(base: str, stream: str) -> str:
    """Return the topic below which the events of a stream are. `base`: the topic of the agent."""
    return f"{base}/streams/{stream}"


def event_topic(base: str, subject: str) -> str:
    """Return the topic of an event below the topic of its source."""
    # Subjects of status events have a dot and names of tasks have none, so only a task can be called `status`.
    return f"{base}/task.{subject}" if subject == STATUS else f"{base}/{subject}"


def rule_topic(base: str, stream: str, rule: str) -> str:
    """Return the topic of the incidents of a rule on a stream, below which its retained states are."""
    return event_topic(stream_topic(base, stream), f"incident.{rule}")


def mode_topic(base: str) -> str:
    """Return the topic of the mode of the rules. `base`: the topic of the agent."""
    return f"{base}/rules/mode"


def command_topic(base: str, command: str) -> str:
    """Return the topic on which a command to the rules is received: `mode`, `snooze`, `ack`, or `+` for all."""
    return f"{base}/rules/{command}/set"


def agent_device_id(agent: str) -> str:
    """Return Home Assistant's id of the agent itself: with a capital letter, so no stream has it."""
    return f"streamer_{agent}_R"


def client_id(agent: str, sink: str) -> str:
    return f"streamer-{_joined(agent, '-', sink)}"


def device_id(agent: str, stream: str) -> str:
    """Return Home Assistant's id of a stream: letters, digits, `-` and `_`, as its topics need."""
    return f"streamer_{_joined(agent, '_', stream)}"


def _joined(agent: str, mark: str, name: str) -> str:
    """Return the two names with `mark` between them, and with an `S` if the first name holds the mark."""
    # So the first mark ends the first name, or the first `S` does: names have no capital letters.
    return f"{agent}{mark}S{mark}{name}" if mark in agent else f"{agent}{mark}{name}"
