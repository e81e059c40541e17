"""Progress of a command."""

from __future__ import annotations

import sys

from streamer.core.printable import printable


def tell(line: str) -> None:
    """Print a line on standard error; standard output has the result of the command."""
    print(printable(line), file=sys.stderr, flush=True)
