"""The agent's retained messages in MQTT: states of agent, streams and rules, and discovery by Home Assistant."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from streamer.events.sinks._base import EventKind, RulesState, SinkContext
from streamer.events.sinks._home_assistant import DEVICES, Discovery
from streamer.events.sinks._mqtt_packets import Message
from streamer.events.sinks._mqtt_rules import RuleStates
from streamer.events.sinks._mqtt_topics import STATUS, mode_topic, stream_topic


class RetainedMessages:
    """The newest message of each topic, and what replaces messages that the broker retains from an earlier run."""

    def __init__(
        self,
        prefix: str,
        context: SinkContext,
        kinds: Collection[EventKind],
        position: int,
        home_assistant: bool,
        commands: bool,
    ) -> None:
        """`prefix`: of every topic; `kinds`: those that the sink gets; `position`: of the newest delivered event.

        `commands`: the sink accepts commands.
        """
        self._base = base = f"{prefix}/{context.agent}"
        self.will = Message(f"{base}/{STATUS}", b"offline", retain=True)
        self._streams = context.tasks.streams if "statuses" in kinds else ()
        self._modes = context.modes if "statuses" in kinds else ()
        self._mode_topic = mode_topic(base)
        now = context.rules_state(position) if context.rules or self._modes else RulesState()
        # Without rules too: the states of removed ones are cleared.
        self._rules = RuleStates(base, context, now, kinds)
        self._discovery = Discovery(base, context, kinds, commands) if home_assistant else None
        self.current: dict[str, bytes] = {self.will.topic: b"online"}
        """Messages by topic; an empty one makes the broker forget the topic."""
        if self._modes:
            mode = now.mode if now.mode in self._modes else self._modes[0]
            self.current[self._mode_topic] = str(mode).encode()
        self.current |= self._rules.messages()
        self.current |= {} if self._discovery is None else self._discovery.messages()
        self._found: dict[str, bytes] = {}

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """Topic filters of the messages of earlier runs."""
        own = self._stream_status("+"), self._rules.topics
        return own if self._discovery is None else (DEVICES, *own)

    def on_event(self, event: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the messages that change by an event, in the order in which they must be published."""
        changed: dict[str, bytes] = {}
        if event["subject"].startswith("stream."):
            stream, state = event["data"]["stream"], event["data"]["state"]
            changed[self._stream_status(stream)] = state.encode() if stream in self._streams else b""
        elif event["subject"].startswith("incident."):
            changed = self._rules.on_incident(event)
        elif event["subject"] == "rules.word":
            changed = self._rules.on_word(event)
        elif event["subject"] == "rules.mode" and (mode := event["data"]["command"]["mode"]) in self._modes:
            changed[self._mode_topic] = mode.encode()
        if self._discovery is not None:
            changed |= self._discovery.on_event(event)
        self.current |= changed
        return changed

    def on_message(self, message: Message) -> None:
        """Take a message that the broker has retained; others were just published, by this or another program."""
        if not message.retain:
            return
        self._found |= self._clear_stale(message.topic) | self._rules.clear_stale(message.topic)
        if self._discovery is not None:
            self._found |= self._discovery.replace_stale(message.topic, message.body)

    def _clear_stale(self, topic: str) -> dict[str, bytes]:
        """Return the message that clears the state of a stream, if the config no longer has the stream."""
        stream = topic.removeprefix(stream_topic(self._base, "")).removesuffix(f"/{STATUS}")
        is_state = topic == self._stream_status(stream) and "/" not in stream
        return {topic: b""} if is_state and stream not in self._streams else {}

    def _stream_status(self, stream: str) -> str:
        return f"{stream_topic(self._base, stream)}/{STATUS}"

    def postpone(self, topics: Collection[str]) -> None:
        """Publish these topics together with what replaces earlier messages."""
        self._found = {topic: self.current[topic] for topic in topics if topic in self.current} | self._found

    def take_found(self) -> dict[str, bytes]:
        """Return the messages that replace earlier ones, since the last call."""
        found, self._found = self._found, {}
        self.current |= found
        return found
