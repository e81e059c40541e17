"""A consumer process that fetches frames, prints their numbers, and holds them until it is killed.

python -m tests.support.hoarder RUNTIME COUNT
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from streamer.bus.frame_client import FrameRequest
from tests.support.capturing import Consumer

if __name__ == "__main__":
    with Consumer(Path(sys.argv[1]), buffers=8) as consumer:
        after = None
        for _ in range(int(sys.argv[2])):
            after = consumer.next(FrameRequest(after=after)).id
            print(after.seq, flush=True)
        signal.pause()
