"""`make chaos`: does each fault to the real program and prints fault, target, measured.

`python -m tests.chaos [NAME…]`; FULL=1 in the environment adds long soaks. Ends with 1 when a target was missed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.bench import Fault, Row, Size
from tests.chaos.cameras import frozen, restarts, soak
from tests.chaos.disks import bytes_flipped, clock_steps, disk_full, power_cut
from tests.chaos.processes import infer_killed, infer_stopped, poison, step_never_returns, terminated

FAULTS: tuple[Fault, ...] = (
    restarts, frozen, infer_killed, infer_stopped, step_never_returns, poison, terminated, power_cut, disk_full,
    bytes_flipped, clock_steps, soak,
)  # fmt: skip


def measure(fault: Fault, folder: Path, size: Size) -> list[Row]:
    """The rows of a fault; one that could not be done to its end is a row too."""
    folder.mkdir(parents=True)
    rows: list[Row] = []
    try:
        rows.extend(fault(folder, size))
    except Exception as error:  # whatever went wrong is the finding, and the other faults are still to be done
        rows.append(Row("done to its end", "yes", f"{type(error).__name__}: {str(error)[:300]}", False))
    return rows


def main(names: list[str]) -> int:
    size = Size(2 if os.environ.get("FULL") else 1)
    unknown = set(names) - {fault.__name__ for fault in FAULTS}
    if unknown:
        print(f"no such fault: {', '.join(unknown)}; there are: {', '.join(fault.__name__ for fault in FAULTS)}")
        return 2
    missed = 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        for fault in FAULTS:
            if names and fault.__name__ not in names:
                continue
            began = time.monotonic()
            print(f"{fault.__name__}: {fault.__doc__}", flush=True)
            for row in measure(fault, Path(folder) / fault.__name__, size):
                missed += not row.good
                mark = "  " if row.good else "✗ "
                print(f"  {mark}{row.what:<32} {row.target:>10}   {row.measured}", flush=True)
            print(f"    in {time.monotonic() - began:.0f} s", flush=True)
    print("every target was met" if not missed else f"{missed} targets were missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
