"""Commands to the rules that other programs send by MQTT.

| topic | payload |
|---|---|
| `<topic>/<agent>/rules/mode/set` | name of the mode |
| `<topic>/<agent>/rules/snooze/set` | `1h`, or JSON with `for`, `rule`, `stream`; without `for` the snooze ends |
| `<topic>/<agent>/rules/ack/set` | id of the incident, or its beginning; or JSON with `rule` and `stream` |
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from typing import Any

from streamer.core.errors import StreamerError
from streamer.core.logs import RareLog
from streamer.core.settings import parse_seconds
from streamer.events.sinks._base import SinkContext
from streamer.events.sinks._mqtt_packets import Message
from streamer.events.sinks._mqtt_topics import command_topic

log = logging.getLogger(__name__)

MAX_BYTES = 1024
"""Longest payload of a command."""
MAX_NAME = 64
"""Characters of a name, or of the id of an incident, that are looked at."""
MAX_WAITING = 16
"""Commands that may wait; each can take seconds while the ledger accepts nothing."""
REPORT_EVERY_S = 1.0
"""Minimum seconds between two reports of refused commands, so that a flood cannot fill the ledger."""
SENDER = "mqtt"
"""Sender of the commands in their events: the broker does not say who published a message."""


class Commands:
    """Commands that have arrived, executed one after the other."""

    def __init__(self, base: str, context: SinkContext, enabled: bool) -> None:
        """`base`: topic of the agent; `enabled`: the sink accepts commands."""
        self._context = context
        self._parsers = {
            command_topic(base, "mode"): _mode,
            command_topic(base, "snooze"): _snooze,
            command_topic(base, "ack"): _acknowledge,
        }
        self.subscriptions = (command_topic(base, "+"),) if enabled else ()
        """Topic filters of the commands."""
        self._enabled = enabled
        self._waiting: deque[Message] = deque()
        self._refused = RareLog(log, "%s by MQTT refused: %s", noun="command")
        self._reported_at = -REPORT_EVERY_S
        self._refusal: str | None = None  # not reported

    def on_message(self, message: Message) -> None:
        """Take a message. A retained one is no command: it would be executed again at each connection."""
        if message.retain or not self._enabled or message.topic not in self._parsers:
            return
        if len(self._waiting) >= MAX_WAITING:
            self._refuse(message.topic, f"{MAX_WAITING} commands wait already: try again later")
        else:
            self._waiting.append(message)

    def execute_next(self) -> None:
        """Execute the oldest command, if there is one. Blocks until it is in the ledger, for seconds at most."""
        if not self._waiting:
            return
        topic, body, _ = self._waiting.popleft()
        try:
            if len(body) > MAX_BYTES:
                raise ValueError(f"longer than {MAX_BYTES} bytes")
            if self._context.command_rules is None:
                raise ValueError("no rules are running")
            done = self._context.command_rules({"by": SENDER, **self._parsers[topic](body.decode())})
        except UnicodeDecodeError:
            self._refuse(topic, "must be text in UTF-8")
        except (StreamerError, ValueError, RecursionError) as error:
            self._refuse(
                topic, "is not JSON" if isinstance(error, json.JSONDecodeError | RecursionError) else str(error)
            )
        else:
            log.info("command by MQTT: %s", done)

    def take_refusal(self) -> str | None:
        """Return the newest refusal that was not returned yet, at most one in `REPORT_EVERY_S`; the log counts all."""
        if self._refusal is None or time.monotonic() - self._reported_at < REPORT_EVERY_S:
            return None
        refusal, self._refusal, self._reported_at = self._refusal, None, time.monotonic()
        return refusal

    def _refuse(self, topic: str, reason: str) -> None:
        self._refusal = f"the command on {topic} is refused: {reason}"
        self._refused.add(self._refusal)


def _mode(text: str) -> dict[str, Any]:
    return {"op": "mode", "mode": text.strip()[:MAX_NAME]}


def _snooze(text: str) -> dict[str, Any]:
    data = _object(text, "for", "rule", "stream") if text.lstrip().startswith("{") else {"for": text}
    seconds = None if data.get("for") is None else parse_seconds(data["for"])
    return {"op": "snooze", "rule": data.get("rule"), "stream": data.get("stream"), "seconds": seconds}


def _acknowledge(text: str) -> dict[str, Any]:
    if text.lstrip().startswith("{"):
        return {"op": "ack", **_object(text, "rule", "stream")}
    return {"op": "ack", "incident": text.strip()[:MAX_NAME]}


def _object(text: str, *keys: str) -> dict[str, Any]:
    """Return a JSON object with some of these keys. Raises ValueError."""
    data: dict[str, Any] = json.loads(text)
    if unknown := data.keys() - set(keys):
        possible = f"{', '.join(f'`{key}`' for key in keys[:-1])} and `{keys[-1]}`"
        raise ValueError(f"unknown key `{min(unknown)}`: {possible} are possible")
    for key in ("rule", "stream"):
        name = data.get(key)
        if name is not None and not (isinstance(name, str) and len(name) <= MAX_NAME):
            raise ValueError(f"`{key}` must be a name")
    return data
