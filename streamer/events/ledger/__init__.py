"""The ledger: one SQLite file that stores every accepted event and the position of each sink.

Events for which `Ledger.commit` returned survive kill -9 and power loss (WAL, synchronous=FULL). One process writes
events. Each sink stores its position over its own connection, without a sync: after a power loss the stored position
may be slightly behind, and the sink gets those events a second time.
"""

from streamer.events.ledger.cursor import SinkCursor
from streamer.events.ledger.replay import Replay
from streamer.events.ledger.retention import Retention
from streamer.events.ledger.schema import BROKEN
from streamer.events.ledger.writer import Ledger

__all__ = ["BROKEN", "LEDGER_FILE", "Ledger", "Replay", "Retention", "SinkCursor"]

LEDGER_FILE = "ledger.db"
"""File name in the agent's state folder."""
