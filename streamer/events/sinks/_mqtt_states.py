"""Publishes retained messages to an MQTT broker, several at a time: an agent can have tens of thousands of them."""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Collection, Mapping

from streamer.events.sinks._mqtt_connection import Broker, Connection
from streamer.events.sinks._mqtt_packets import FAILURE, Message, describe
from streamer.events.sinks._suspect import MAX_ATTEMPTS

log = logging.getLogger(__name__)


class StatePublisher:
    """Publishes within the limits of the broker, and finds messages that it refuses or on which it disconnects."""

    def __init__(self, broker: Broker, in_flight: int) -> None:
        """`in_flight`: maximum number of unacknowledged messages."""
        self._broker, self._in_flight = broker, in_flight
        self._losses: Counter[str] = Counter()  # by topic, connections lost in a row with it unacknowledged
        self.left_out: set[str] = set()
        """Topics of messages that the broker refuses: some brokers then disconnect."""

    @property
    def losses(self) -> int:
        """Most connections lost in a row with one message unacknowledged."""
        return max(self._losses.values(), default=0)

    @property
    def late(self) -> Collection[str]:
        """Topics to publish after the events: the connection was lost with each of them several times."""
        return {topic for topic, losses in self._losses.items() if losses >= MAX_ATTEMPTS}

    def publish(self, connection: Connection, messages: Mapping[str, bytes]) -> None:
        """Publish messages by topic. One that the broker refuses is left out until the next start."""
        wanted = {topic: body for topic, body in messages.items() if topic not in self.left_out}
        suspects = {topic: body for topic, body in wanted.items() if topic in self._losses}
        others = {topic: body for topic, body in wanted.items() if topic not in suspects}
        self._publish(connection, others, min(self._in_flight, connection.window))
        self._publish(connection, suspects, 1)  # one at a time, so that the next loss shows which it is

    def leave_out(self, topic: str, reason: str) -> None:
        """Never publish this message again."""
        log.warning(
            "%s refuses the retained message on %s: %s: left out until the next start", self._broker, topic, reason
        )
        self.left_out.add(topic)

    def _publish(self, connection: Connection, messages: Mapping[str, bytes], window: int) -> None:
        waiting = deque(messages.items())
        unacked: dict[int, str] = {}  # topic by message id
        progress_at = time.monotonic()
        while waiting or unacked:
            while waiting and len(unacked) < window:
                topic, body = waiting.popleft()
                encoded = connection.encode(Message(topic, body, retain=True), "text/plain")
                if encoded is None:
                    self.leave_out(topic, "larger than the broker accepts")
                    continue
                message_id, packet = encoded
                unacked[message_id] = topic
                self._losses[topic] += 1  # until it is acknowledged
                connection.send(packet)
                progress_at = time.monotonic()
            if not unacked:
                break
            ack = connection.next_ack(progress_at)
            acked = unacked.pop(ack.message_id, None)
            if acked is None:
                continue
            progress_at = time.monotonic()
            del self._losses[acked]
            if ack.reason >= FAILURE:
                self.leave_out(acked, describe(ack.reason))
