"""Progress of a command."""

from __future__ import annotations

import sys


def tell(line: str) -> None:
    """Print a line on standard error; standard output has the result of the command."""
    print(line, file=sys.stderr, flush=True)
