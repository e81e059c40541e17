"""`streamer demo`: run the whole program on a synthetic camera and compare its answers with the truth."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streamer.cli.demo_score import Score, match
from streamer.cli.run import supervise
from streamer.core.errors import ConfigError

if TYPE_CHECKING:
    from streamer.events.schema import Event, ResultEvent

SEED = 1
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
"""Port of the page; another one is chosen if it is in use."""
RECEIVE_S = 0.3
"""Longest wait for an event, so that the end of the demo is noticed."""


def demo(
    seconds: Annotated[float | None, typer.Option(min=0.1, metavar="S", help="Stop after S seconds.")] = None,
) -> None:
    """Run the included model on a synthetic camera.

    Prints each answer beside the truth, and serves the page.
    """
    from streamer.config.model import from_mapping

    address = _free_address()
    print("A synthetic camera with coloured shapes, and the included model. Press Ctrl-C to stop.")
    print("Starting camera, model (takes some seconds), ledger and page ...")
    print(f"Page: http://{address}", flush=True)
    printer = EventPrinter()
    try:
        config = from_mapping({**CONFIG, "web": {"bind": address}})
        supervise(config, "warning", seconds=seconds, keep_state=False, on_ready=printer.start)
    finally:
        printer.stop()
    print(printer.score.summary(), flush=True)
    raise typer.Exit(0 if printer.score.ages else 1)


def _free_address() -> str:
    for port in (PORT, 0):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)) as found:
            return "{}:{}".format(*found.getsockname())
    raise ConfigError("no port is free on 127.0.0.1")


class EventPrinter:
    """Thread that subscribes to the agent's events, as any other program can, and prints them."""

    def __init__(self) -> None:
        from streamer.toyworld.world import World

        self.score = Score()
        self._world = World(SEED)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, runtime: Path) -> None:
        self._thread = threading.Thread(target=self._run, args=(f"ipc://{runtime}/bus.sock",), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Print the events that have arrived, then end the thread."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, endpoint: str) -> None:
        from streamer.events.subscribe import subscribe

        events = subscribe(endpoint, timeout=RECEIVE_S)
        while True:
            try:
                self._print(next(events))
            except TimeoutError:
                if self._stopping.is_set():
                    return

    def _print(self, event: Event) -> None:
        if event.type == "streamer.result.v1":
            lines = self._result_lines(event)
        else:
            reason = f": {event.data.reason}" if event.data.reason else ""
            lines = [f"{event.time[11:19]}  {event.subject}{reason}"]
        print("\n".join(lines), flush=True)

    def _result_lines(self, event: ResultEvent) -> list[str]:
        data = event.data
        if data.timing.age_ms is not None:
            self.score.ages.append(data.timing.age_ms)
        head = f"{event.time[11:19]}  {data.name}, {data.timing.age_ms or 0:.0f} ms old: "
        if data.result is None:
            return [f"{head}{data.outcome}{f': {data.error}' if data.error else ''}"]
        if data.name != DETECTION:
            return [f"{head}{data.result.marked_text}"]
        truth = self._world.scene(data.frame.pts or 0.0).objects
        detected = [(box.label, box.box) for box in data.result.boxes]
        rows = match(detected, [(item.kind, item.box) for item in truth])
        self.score.rows.extend(rows)
        found = sum(row.found for row in rows)
        return [f"{head}{found} of {len(truth)} found", *(f"    {row}" for row in rows)]
