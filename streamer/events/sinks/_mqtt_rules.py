"""Retained states of rules in MQTT: whether a rule has an open incident on a stream, what is known, and its word."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from streamer.events.sinks._base import NO_WORD, EventKind, RulesState, SinkContext
from streamer.events.sinks._mqtt_topics import ATTRIBUTES, STATUS, WORD, rule_topic, stream_topic

ON, OFF = b"ON", b"OFF"
_LEFT_OUT = ("evidence", "why", "rule_hash")
"""Keys of an incident event that are in the event only: they are long, or say nothing to people."""


class RuleStates:
    """The states of all rules by topic. The message of a topic is empty where a rule does not run."""

    def __init__(self, base: str, context: SinkContext, state: RulesState, kinds: Collection[EventKind]) -> None:
        """`base`: topic of the agent; `state`: that at the beginning; `kinds`: of events that the sink gets."""
        self._base, self._begin, self._kinds = base, state, kinds
        self._rules, self._streams = context.rules, context.tasks.streams
        self._pairs = {(stream, name) for name, rule in context.rules.items() for stream in rule.streams}
        states = re.escape(stream_topic(base, "")) + r"([^/]+)/incident\.([^/]+)/" + f"({STATUS}|{ATTRIBUTES}|{WORD})"
        self._own_topic = re.compile(states)

    @property
    def topics(self) -> str:
        """Filter of the topics of all states."""
        return stream_topic(self._base, "+/+/+")

    def messages(self) -> dict[str, bytes]:
        """Return the messages with which the sink begins."""
        found: dict[str, bytes] = {}
        for stream, rule in sorted(self._pairs):
            topic = rule_topic(self._base, stream, rule)
            if "incidents" in self._kinds:
                event = self._begin.open_incidents.get((stream, rule))
                if event is not None:
                    found[f"{topic}/{ATTRIBUTES}"] = _attributes(json.loads(event)["data"])
                found[f"{topic}/{STATUS}"] = ON if (stream, rule) in self._begin.open_incidents else OFF
            if self._has_word(rule):
                found[f"{topic}/{WORD}"] = _word(self._begin.words.get((stream, rule)))
        return found

    def on_word(self, event: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the message that changes by an event about the word of a rule."""
        data = event["data"]
        topic = f"{rule_topic(self._base, data['stream'], data['rule'])}/{WORD}"
        if not self._has_word(data["rule"]) or data["stream"] not in self._streams:
            return {topic: b""}
        self._pairs.add((data["stream"], data["rule"]))
        return {topic: _word(data.get("word"))}

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
        if match is None:
            return {}
        stream, rule, kind = match.groups()
        is_used = self._has_word(rule) if kind == WORD else "incidents" in self._kinds
        return {} if is_used and (stream, rule) in self._pairs else {topic: b""}

    def _has_word(self, rule: str) -> bool:
        return "statuses" in self._kinds and rule in self._rules and bool(self._rules[rule].words)


def _word(word: str | None) -> bytes:
    return (NO_WORD if word is None else word).encode()


def _attributes(data: Mapping[str, Any]) -> bytes:
    return json.dumps({key: value for key, value in data.items() if key not in _LEFT_OUT}, ensure_ascii=False).encode()
