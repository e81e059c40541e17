"""`streamer demo`: the real program on a toy world: a page to look at, and its answers printed beside the truth."""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from streamer.config.model import from_mapping
from streamer.core import logs
from streamer.core.errors import ConfigError
from streamer.events.schema import Event, ResultEvent
from streamer.events.subscribe import subscribe
from streamer.processes import supervisor
from streamer.toyworld.world import World

SEED = 1
GOOD_IOU = 0.5
STREAM, DETECTION = "toyworld", "object_detection"
CONFIG = {
    "agent": "demo",
    "streams": {
        STREAM: {
            "source": f"synthetic?seed={SEED}&fps=25",
            "tasks": [{"task": DETECTION, "every": "1s"}, {"task": "caption", "every": "3s"}],
        }
    },
    "sinks": [{"kind": "zmq"}],
    "outputs": [{"kind": "mjpeg", "stream": STREAM}],
}
PORT = 8080
"""Of the page, if it is free."""

Rect = tuple[float, float, float, float]


def run_demo(seconds: float | None) -> int:
    """Run until stopped, or for so many seconds after the first frame; 0 when there were answers, else 1."""
    logs.setup("streamer", "warning")
    address = _free_address()
    print("A camera that draws coloured shapes, watched by the small model inside. Ctrl-C ends it.")
    print("Starting: the camera, the model (some seconds), the book of events, the page …")
    print(f"Look at it: http://{address}", flush=True)
    listener = Listener()
    try:
        supervisor.run(
            from_mapping({**CONFIG, "web": {"bind": address}}),
            seconds=seconds,
            keep_state=False,
            log_level="warning",
            on_ready=listener.start,
        )
    finally:
        listener.finish()
    print(listener.score.summary(), flush=True)
    return 0 if listener.score.ages else 1


def _free_address() -> str:
    for port in (PORT, 0):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)) as found:
            return "{}:{}".format(*found.getsockname())
    raise ConfigError("no port is free on 127.0.0.1")


class Listener:
    """Prints the events that the agent publishes, as any other program would get them."""

    def __init__(self) -> None:
        self.score = Score()
        self._world = World(SEED)
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, runtime: Path) -> None:
        self._thread = threading.Thread(target=self._listen, args=(f"ipc://{runtime}/bus.sock",), daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Print what has arrived, and stop."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _listen(self, endpoint: str) -> None:
        events = subscribe(endpoint, timeout=0.3)
        while True:
            try:
                self._show(next(events))
            except TimeoutError:
                if self._over.is_set():
                    return

    def _show(self, event: Event) -> None:
        if not isinstance(event, ResultEvent):
            print(
                f"{event.time[11:19]}  {event.subject}{f': {event.data.reason}' if event.data.reason else ''}",
                flush=True,
            )
            return
        if event.data.timing.age_ms is not None:
            self.score.ages.append(event.data.timing.age_ms)
        for line in self._lines(event):
            print(line, flush=True)

    def _lines(self, event: ResultEvent) -> list[str]:
        data = event.data
        head = f"{event.time[11:19]}  {data.name}, {data.timing.age_ms or 0:.0f} ms old: "
        if data.result is None:
            return [f"{head}{data.outcome}{f': {data.error}' if data.error else ''}"]
        if data.name != DETECTION:
            return [f"{head}{data.result.text}"]
        truth = self._world.scene(data.frame.pts or 0.0).objects
        rows = match([(box.label, box.box) for box in data.result.boxes], [(thing.kind, thing.box) for thing in truth])
        self.score.rows.extend(rows)
        found = sum(row.found for row in rows)
        return [f"{head}{found} of {len(truth)} found", *(f"    {row}" for row in rows)]


@dataclass(frozen=True, slots=True)
class Row:
    """One object of the truth beside what was seen of it, or something seen that is not there."""

    label: str
    seen: Rect | None
    truth: Rect | None

    @property
    def iou(self) -> float:
        return iou(self.seen, self.truth) if self.seen and self.truth else 0.0

    @property
    def found(self) -> bool:
        return self.iou >= GOOD_IOU

    def __str__(self) -> str:
        words = f"IoU {self.iou:.2f}" if self.seen and self.truth else "missed" if self.truth else "not there"
        return f"{self.label:9} seen {_corners(self.seen):21} truth {_corners(self.truth):21} {words}"


@dataclass(slots=True)
class Score:
    rows: list[Row] = field(default_factory=list)
    ages: list[float] = field(default_factory=list)
    """Milliseconds from capture to publication, one per event."""

    def summary(self) -> str:
        there = [row for row in self.rows if row.truth]
        found = [row.iou for row in there if row.found]
        if not found:
            return f"{len(self.ages)} events, nothing found."
        return (
            f"{len(self.ages)} events. {len(found)} of {len(there)} objects found: recall@{GOOD_IOU:g} "
            f"{len(found) / len(there):.2f}, mean IoU {statistics.fmean(found):.2f}; "
            f"{len(self.rows) - len(there)} seen that were not there.\n"
            f"Age of an event: median {statistics.median(self.ages):.0f} ms, at most {max(self.ages):.0f} ms."
        )


def match(seen: Sequence[tuple[str, Rect]], truth: Sequence[tuple[str, Rect]]) -> list[Row]:
    """Pair what was seen with the truth of the same label, the best overlap first; then what is left of both."""
    pairs = [
        (iou(box, place), i, j)
        for i, (label, box) in enumerate(seen)
        for j, (kind, place) in enumerate(truth)
        if label == kind
    ]
    partner: dict[int, int] = {}
    for overlap, i, j in sorted(pairs, reverse=True):
        if overlap > 0 and i not in partner.values() and j not in partner:
            partner[j] = i
    rows = [Row(kind, seen[partner[j]][1] if j in partner else None, place) for j, (kind, place) in enumerate(truth)]
    return rows + [Row(label, box, None) for i, (label, box) in enumerate(seen) if i not in partner.values()]


def iou(a: Rect, b: Rect) -> float:
    """Intersection over union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    both = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return common / (both - common) if both > common else 0.0


def _corners(rect: Rect | None) -> str:
    return " ".join(f"{edge:.2f}" for edge in rect) if rect else "-"
