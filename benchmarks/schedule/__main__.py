"""Frame age, latency, CPU time, motion gate and overload of the schedule: `python -m benchmarks.schedule`.

Needs an idle machine; each part takes one to three minutes.

- live: frame age at the start of inference with eight 720p25 RTSP cameras and one batch per second, through the agent
  and through a plain queue.
- ask: latency of one-shot requests while the device has twice as much work as it can do.
- capture: CPU time of capture processes with one request per second, relative to decoding alone.
- gate: share of ticks that the motion gate skips, on films with known motion.
- simulated: the scheduler with 1,000 cameras and three times as much work as the device can do.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks.report import write
from benchmarks.schedule.ask import ask
from benchmarks.schedule.capture import capture
from benchmarks.schedule.gate import gate
from benchmarks.schedule.live import live
from benchmarks.schedule.simulated import simulated

PARTS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "live": lambda quick: live(8 if quick else 120),
    "ask": lambda quick: ask(6 if quick else 60),
    "capture": lambda quick: capture(6 if quick else 60),
    "gate": lambda quick: gate(12, 2) if quick else gate(60, 12),
    "simulated": lambda quick: simulated(50, 1200.0) if quick else simulated(1000, 1800.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds per part, fewer cameras; not comparable")
    parser.add_argument("--only", choices=PARTS, help="run one part [all]")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/schedule.json")
    args = parser.parse_args()
    if args.write and (args.quick or args.only):
        parser.error("--write needs a full run: leave out --quick and --only")
    result: dict[str, Any] = {}
    for name, part in PARTS.items():
        if args.only in (None, name):
            result[name] = part(args.quick)
            for key, value in result[name].items():
                for title, row in value.items() if isinstance(value, dict) else [(key, value)]:
                    print(f"{name:10} {title:36} {row}")
    if args.write:
        write("schedule", result)


if __name__ == "__main__":
    main()
