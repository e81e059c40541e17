"""Retained states of rules in MQTT: whether a rule has an open incident on a stream, and what is known about it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from streamer.events.sinks._base import RuleInfo
from streamer.events.sinks._mqtt_topics import ATTRIBUTES, STATUS, rule_topic, stream_topic

ON, OFF = b"ON", b"OFF"
_LEFT_OUT = ("evidence", "why", "rule_hash")
"""Keys of an incident event that are in the event only: they are long, or say nothing to people."""


class RuleStates:
    """The states of all rules by topic. The message of a topic is empty where a rule does not run."""

    def __init__(
        self,
        base: str,
        rules: Mapping[str, RuleInfo],
        streams: Collection[str],
        open_incidents: Mapping[tuple[str, str], bytes | None],
    ) -> None:
        """`base`: topic of the agent; `streams`: those of the config; `open_incidents`: as of `SinkContext`."""
        self._base, self._rules, self._streams = base, rules, streams
        self._pairs = {(stream, name) for name, rule in rules.items() for stream in rule.streams}
        self._open = open_incidents
        states = re.escape(stream_topic(base, "")) + r"([^/]+)/incident\.([^/]+)/(?:" + f"{STATUS}|{ATTRIBUTES})"
        self._own_topic = re.compile(states)

    @property
    def is_empty(self) -> bool:
        """Return whether there are no rules."""
        return not self._rules

    @property
    def topics(self) -> str:
        """Filter of the topics of all states."""
        return stream_topic(self._base, "+/+/+")

    def messages(self) -> dict[str, bytes]:
        """Return the messages with which the sink begins."""
        found: dict[str, bytes] = {}
        for stream, rule in sorted(self._pairs):
            topic = rule_topic(self._base, stream, rule)
            event = self._open.get((stream, rule))
            if event is not None:
                found[f"{topic}/{ATTRIBUTES}"] = _attributes(json.loads(event)["data"])
            found[f"{topic}/{STATUS}"] = ON if (stream, rule) in self._open else OFF
        return found

    def on_incident(self, event: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the messages that change by an incident event, the state last."""
        data = event["data"]
        topic = rule_topic(self._base, data["stream"], data["rule"])
        if data["rule"] not in self._rules or data["stream"] not in self._streams:
            return {f"{topic}/{ATTRIBUTES}": b"", f"{topic}/{STATUS}": b""}
        self._pairs.add((data["stream"], data["rule"]))  # a change of the tasks can add a stream to a rule
        state = OFF if data["state"] == "end" else ON
        return {f"{topic}/{ATTRIBUTES}": _attributes(data), f"{topic}/{STATUS}": state}

    def clear_stale(self, topic: str) -> dict[str, bytes]:
        """Return the message that clears a topic which the broker retains, if it is of a rule that does not run."""
        match = self._own_topic.fullmatch(topic)
        return {} if match is None or (match[1], match[2]) in self._pairs else {topic: b""}


def _attributes(data: Mapping[str, Any]) -> bytes:
    return json.dumps({key: value for key, value in data.items() if key not in _LEFT_OUT}, ensure_ascii=False).encode()
