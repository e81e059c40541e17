"""What a frame costs between two processes: `python -m benchmarks.transport [--quick] [--write]`; under a minute.

1920x1080 BGR pictures. One process paints every byte of each, the other reads every byte and checks it. Our way: the
painter answers as a capture does (`FrameServer`) and paints into the buffer that the asker names (`FrameClient`).
Beside it raw ZeroMQ: the painter sends a picture of its own with `copy=False` over ipc for each it is asked for; its
buffers are used again, so that none is ever allocated. Both in turns, in many short rounds: asked for one by one, and
with one more on its way while a picture is read.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from benchmarks.report import write
from streamer.bus.frame_client import FrameClient, FrameRequest
from streamer.capture.frame_server import FrameServer
from streamer.capture.frame_slot import DecodedFrame, LatestFrameSlot
from streamer.types import FrameId, Image, Luma
from tests.support.agents import assert_identity

STREAM, WIDTH, HEIGHT = "cam", 1920, 1080
BYTES = 3 * WIDTH * HEIGHT
AHEAD = {"one by one": 1, "one ahead": 2}
"""Pictures that are asked for and not read yet."""
TARGET = 3.0
ANSWER_S = 10.0


def shade(number: int) -> int:
    return 1 + number % 255


def paint(out: Image, number: int) -> None:
    out.fill(shade(number))


def look(pixels: np.ndarray[Any, np.dtype[np.uint8]], number: int) -> None:
    """Read every byte. Raises RuntimeError when it is not picture `number`, whole."""
    found = int(pixels.reshape(-1).view(np.uint64).sum())
    if found != shade(number) * 0x0101010101010101 * (BYTES // 8) % (1 << 64):
        raise RuntimeError(f"picture {number} came damaged")


class Painted:
    """A picture that is painted when somebody takes it; then the camera has the next one."""

    width, height, pts = WIDTH, HEIGHT, None

    def __init__(self, camera: Camera, number: int) -> None:
        self._camera, self._number = camera, number

    def write_bgr(self, out: Image) -> None:
        paint(out, self._number)
        self._camera.show(self._number + 1)

    def luma(self) -> Luma:
        raise NotImplementedError  # nobody watches for movement here


class Camera:
    """Always has a picture that nobody was given yet."""

    def __init__(self, slot: LatestFrameSlot) -> None:
        self._shelf = slot
        slot.set_epoch(1)

    def show(self, number: int) -> None:
        self._shelf.put(DecodedFrame(FrameId(1, number), time.time(), time.monotonic(), None, Painted(self, number)))


def raw_endpoint(runtime: Path) -> str:
    return f"ipc://{runtime}/raw.sock"


def serve(runtime: Path, ready: Event) -> None:
    """The painting process, for both ways, until it is ended."""
    shelf = LatestFrameSlot(lambda: None)
    server = FrameServer(runtime, STREAM, shelf)
    Camera(shelf).show(0)
    raw: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
    raw.bind(raw_endpoint(runtime))
    # Whoever asks for a picture has read all but the last `ahead` of them: the oldest buffer is free.
    buffers = itertools.cycle([np.empty((HEIGHT, WIDTH, 3), np.uint8) for _ in range(max(AHEAD.values()) + 1)])
    poller = zmq.Poller()
    for socket in (server.socket, raw):
        poller.register(socket, zmq.POLLIN)
    ready.set()
    while True:
        for socket, _ in poller.poll():
            if socket is raw:
                picture = next(buffers)
                paint(picture, int(raw.recv()))
                raw.send(picture, copy=False)
            else:
                server.handle()


def by_shared_memory(client: FrameClient, count: int, ahead: int) -> None:
    (socket,) = client.sockets()
    for _ in range(ahead):
        client.fetch(STREAM, FrameRequest())
    asked, read = ahead, 0
    while read < count:
        if not socket.poll(int(ANSWER_S * 1000)):
            raise TimeoutError("no frame")
        for reply in client.receive():
            if reply.frame is None:
                raise RuntimeError("a fetch was answered without a frame")
            look(reply.frame.image, reply.frame.seq)
            client.settle(reply.frame, "done")
            read += 1
            if asked < count:
                client.fetch(STREAM, FrameRequest())
                asked += 1


def by_zeromq(socket: zmq.Socket[bytes], count: int, ahead: int) -> None:
    for number in range(ahead):
        socket.send(b"%d" % number)
    for number in range(count):
        if not socket.poll(int(ANSWER_S * 1000)):
            raise TimeoutError("no frame")
        look(np.frombuffer(socket.recv(copy=False).buffer, np.uint8), number)
        if number + ahead < count:
            socket.send(b"%d" % (number + ahead))


def check_books(client: FrameClient, frames: int) -> None:
    """Capture's counts of all that was fetched."""
    asked, until = client.ping(STREAM), time.monotonic() + ANSWER_S
    while time.monotonic() < until:
        client.sockets()[0].poll(100)
        for reply in client.receive():
            if reply.request == asked and reply.counts is not None:
                counts = reply.counts.model_dump()
                assert_identity(counts)
                if counts["done"] != frames:
                    raise RuntimeError(f"{frames} frames were read, {counts['done']} are counted as done")
                return
    raise TimeoutError("no counts")


def measure(runtime: Path, rounds: int, frames: int) -> dict[str, Any]:
    """Milliseconds per frame of each way, and how often ours goes into raw ZeroMQ's."""
    raw: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
    raw.connect(raw_endpoint(runtime))
    spent: dict[tuple[str, str], list[float]] = {}
    with FrameClient(runtime, "infer", max(AHEAD.values()) + 1) as client:
        client.connect(STREAM)
        ways: dict[str, Callable[[int, int], None]] = {
            "shared memory": lambda count, ahead: by_shared_memory(client, count, ahead),
            "zeromq": lambda count, ahead: by_zeromq(raw, count, ahead),
        }
        for number in range(rounds + 1):
            for (asked, ahead), (name, way) in itertools.product(AHEAD.items(), ways.items()):
                began = time.perf_counter()
                way(frames, ahead)
                if number:  # the first round touches every buffer for the first time
                    spent.setdefault((asked, name), []).append(1000 * (time.perf_counter() - began) / frames)
        check_books(client, (rounds + 1) * frames * len(AHEAD))
    raw.close(linger=0)
    return {asked: compared(spent[asked, "shared memory"], spent[asked, "zeromq"]) for asked in AHEAD}


def compared(ours: list[float], theirs: list[float]) -> dict[str, float]:
    ratios = [raw / own for own, raw in zip(ours, theirs, strict=True)]
    return {
        "shared_memory_ms": round(statistics.median(ours), 3),
        "zeromq_ms": round(statistics.median(theirs), 3),
        "ratio": round(statistics.median(ratios), 2),
        "lowest_ratio_of_a_round": round(min(ratios), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few frames of each")
    parser.add_argument("--write", action="store_true", help="keep the result in results/transport.json")
    given = parser.parse_args()
    if given.write and given.quick:
        parser.error("--write keeps whole results only: leave out --quick")
    rounds, frames = (3, 20) if given.quick else (25, 100)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        ready = context.Event()
        painter = context.Process(target=serve, args=(Path(folder), ready), daemon=True)
        painter.start()
        try:
            if not ready.wait(60):
                raise TimeoutError("the painting process does not start")
            measured = measure(Path(folder), rounds, frames)
        finally:
            painter.kill()
            painter.join()
    result = {"picture": f"{WIDTH}x{HEIGHT} BGR", "rounds": rounds, "frames_a_round": frames, **measured}
    for asked, row in measured.items():
        print(
            f"{asked:11} shared memory {row['shared_memory_ms']:.2f} ms, ZeroMQ {row['zeromq_ms']:.2f} ms a frame: "
            f"{row['ratio']:.1f}x (target {TARGET:.0f}x)"
        )
    if given.write:
        write("transport", result)


if __name__ == "__main__":
    main()
