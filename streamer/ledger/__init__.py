"""The book of accepted events: one SQLite file, from which every sink reads at its own pace.

What `Ledger.commit` returned for survives kill -9 and power loss (WAL, synchronous=FULL). One process writes; each sink
has a connection of its own for its place in the book. A place is stored without a sync of its own: after a power loss
it may be a little behind, and the sink gets those events a second time.
"""

from streamer.ledger.file import BROKEN
from streamer.ledger.keep import Keep
from streamer.ledger.reader import Reader
from streamer.ledger.replay import Replay
from streamer.ledger.writer import Ledger

__all__ = ["BROKEN", "Keep", "Ledger", "Reader", "Replay"]
