"""`make chaos`: injects faults into the real program and prints fault, target and measurement.

`python -m tests.chaos [NAME…] [--write]`; FULL=1 in the environment runs longer. Exit code 1 if a target was
missed. The soak runs in parallel with the other faults, which saves twenty minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.chaos.bench import Fault, Row, Size, Skipped
from tests.chaos.brokers import brokers_killed
from tests.chaos.cameras import frozen, restarts, soak
from tests.chaos.cluster import cluster, cluster_with_redis
from tests.chaos.disks import bytes_flipped, clock_steps, disk_full, power_cut
from tests.chaos.hosts import link_between_hosts, link_broken_often
from tests.chaos.media import fuzzing, hostile_camera
from tests.chaos.model_swap import model_swapped
from tests.chaos.processes import infer_killed, infer_stopped, poison, step_never_returns, terminated
from tests.chaos.receivers import broker_down, webhook
from tests.chaos.rules import rules_killed
from tests.chaos.targets import targets_down

FAULTS: tuple[Fault, ...] = (
    soak, restarts, frozen, infer_killed, infer_stopped, step_never_returns, poison, terminated, rules_killed,
    broker_down, brokers_killed, targets_down, power_cut, disk_full, bytes_flipped, clock_steps, webhook, fuzzing,
    model_swapped, hostile_camera, link_between_hosts, link_broken_often, cluster, cluster_with_redis,
)  # fmt: skip


@dataclass(slots=True)
class Outcome:
    fault: Fault
    rows: list[Row]
    seconds: float

    def show(self) -> None:
        print(f"{self.fault.__name__}: {self.fault.__doc__}")
        for row in self.rows:
            mark = {True: "  ", False: "✗ ", None: "? "}[row.good]
            print(f"  {mark}{row.what:<36} {row.target:>10}   {row.measured}")
        print(f"    in {self.seconds:.0f} s", flush=True)

    def entry(self, note: str) -> dict[str, Any]:
        rows = [asdict(row) for row in self.rows]
        return {"fault": self.fault.__doc__, "seconds": round(self.seconds), "note": note, "rows": rows}


def measure(fault: Fault, folder: Path, size: Size) -> list[Row]:
    """Run a fault and return its rows. A failure to run it is a row too."""
    folder.mkdir(parents=True)
    rows: list[Row] = []
    try:
        rows.extend(fault(folder, size))
    except Skipped as why:
        rows.append(Row("skipped", "", str(why), None))
    except Exception as error:  # the error is the result, and the other faults still run
        rows.append(Row("completed", "yes", f"{type(error).__name__}: {str(error)[:300]}", False))
    return rows


def run(fault: Fault, folder: Path, size: Size) -> Outcome:
    began = time.monotonic()
    rows = measure(fault, folder / fault.__name__, size)
    return Outcome(fault, rows, time.monotonic() - began)


def run_all(faults: list[Fault], folder: Path, size: Size) -> list[Outcome]:
    """Run the faults in sequence, the soak in parallel; show each when it has finished."""
    done: list[Outcome] = []
    soaking = threading.Thread(target=lambda: done.append(run(soak, folder, size)), daemon=True)
    if soak in faults:
        soaking.start()
    for fault in faults:
        if fault is soak:
            continue
        one = run(fault, folder, size)
        one.show()
        done.append(one)
    if soak in faults:
        soaking.join()
        next(one for one in done if one.fault is soak).show()
    return done


def write_results(done: list[Outcome], note: str) -> None:
    """Merge the results into `benchmarks/results/chaos.json`."""
    sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
    from benchmarks.report import merge

    merge("chaos", {one.fault.__name__: one.entry(note) for one in done})


def main() -> int:
    names = {fault.__name__: fault for fault in FAULTS}
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Inject faults into the real program.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"run only these faults: {', '.join(names)}")
    parser.add_argument("--write", action="store_true", help="write the results to benchmarks/results/chaos.json")
    parser.add_argument("--note", default="", help="note to store with the results, such as other load on the machine")
    given = parser.parse_args()
    if unknown := set(given.names) - names.keys():
        parser.error(f"unknown fault: {', '.join(unknown)}; known: {', '.join(names)}")
    faults = [fault for name, fault in names.items() if not given.names or name in given.names]
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        done = run_all(faults, Path(folder), Size(2 if os.environ.get("FULL") else 1))
    if given.write:
        write_results(done, given.note)
    goods = [row.good for one in done for row in one.rows]
    print(f"{goods.count(True)} targets met, {goods.count(False)} missed, {goods.count(None)} not measured")
    return 1 if False in goods else 0


if __name__ == "__main__":
    sys.exit(main())
