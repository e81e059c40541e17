"""Whether the schedule keeps its promises: `python -m benchmarks.schedule [--quick] [--only PART] [--write]`.

On an idle machine; each part takes one to three minutes.

- live: eight real 720p25 cameras (RTSP) and a model that needs a second a batch. How old a frame is when the model
  begins with it, through the agent and through a plain queue.
- ask: how long a question waits that is asked once, under twice more work than the device can do.
- capture: processor time of capture processes that are asked once a second, beside decoding alone.
- gate: what the motion gate lets through, of films with known truth.
- simulated: the scheduler under three times more work than the device can do, with 1,000 cameras.
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
    parser.add_argument("--quick", action="store_true", help="a few seconds, fewer cameras")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--write", action="store_true", help="keep the result in results/schedule.json")
    given = parser.parse_args()
    if given.write and (given.quick or given.only):
        parser.error("--write keeps whole results only: leave out --quick and --only")
    result: dict[str, Any] = {}
    for name, part in PARTS.items():
        if given.only in (None, name):
            result[name] = part(given.quick)
            for key, value in result[name].items():
                for title, row in value.items() if isinstance(value, dict) else [(key, value)]:
                    print(f"{name:10} {title:36} {row}")
    if given.write:
        write("schedule", result)


if __name__ == "__main__":
    main()
