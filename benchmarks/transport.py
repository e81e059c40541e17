"""Time to move a 1920x1080 frame between two processes, compared with ZeroMQ: `python -m benchmarks.transport`.

A producer process fills every byte of a frame; this process reads and checks every byte. Shared memory: the producer
answers requests with `FrameServer` and writes into the buffer that `FrameClient` names. ZeroMQ: the producer sends a
frame over ipc with `copy=False` for each request, from preallocated buffers. Both take turns in short rounds, with one
request at a time and with the next request in flight while a frame is read.
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
IN_FLIGHT = {"one by one": 1, "one ahead": 2}
"""Frames that are requested and not read yet."""
TARGET = 3.0
"""Required ratio of the ZeroMQ time to ours."""
TIMEOUT_S = 10.0
"""Seconds to wait for a frame."""


def shade(number: int) -> int:
    return 1 + number % 255


def paint(out: Image, number: int) -> None:
    out.fill(shade(number))


def check(pixels: np.ndarray[Any, np.dtype[np.uint8]], number: int) -> None:
    """Read every byte. Raises RuntimeError when it is not frame `number`, complete."""
    total = int(pixels.reshape(-1).view(np.uint64).sum())
    if total != shade(number) * 0x0101010101010101 * (BYTES // 8) % (1 << 64):
        raise RuntimeError(f"frame {number} arrived damaged")


class LazyPicture:
    """A picture that is filled when it is requested; the camera then has the next one."""

    width, height, pts = WIDTH, HEIGHT, None

    def __init__(self, camera: Camera, number: int) -> None:
        self._camera, self._number = camera, number

    def write_bgr(self, out: Image) -> None:
        paint(out, self._number)
        self._camera.capture(self._number + 1)

    def luma(self) -> Luma:
        raise NotImplementedError  # no motion gate runs here


class Camera:
    """A camera whose next picture is always there."""

    def __init__(self, slot: LatestFrameSlot) -> None:
        self._slot = slot
        slot.set_epoch(1)

    def capture(self, number: int) -> None:
        self._slot.put(DecodedFrame(FrameId(1, number), time.time(), time.monotonic(), None, LazyPicture(self, number)))


def raw_endpoint(runtime: Path) -> str:
    return f"ipc://{runtime}/raw.sock"


def serve(runtime: Path, ready: Event) -> None:
    """Run the producer of both transports until the process is killed."""
    slot = LatestFrameSlot(lambda: None)
    server = FrameServer(runtime, STREAM, slot)
    Camera(slot).capture(0)
    raw: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
    raw.bind(raw_endpoint(runtime))
    # The reader is at most `in_flight` frames behind, so the oldest buffer is free.
    buffers = itertools.cycle([np.empty((HEIGHT, WIDTH, 3), np.uint8) for _ in range(max(IN_FLIGHT.values()) + 1)])
    poller = zmq.Poller()
    for socket in (server.socket, raw):
        poller.register(socket, zmq.POLLIN)
    ready.set()
    while True:
        for socket, _ in poller.poll():
            if socket is raw:
                frame = next(buffers)
                paint(frame, int(raw.recv()))
                raw.send(frame, copy=False)
            else:
                server.handle()


def by_shared_memory(client: FrameClient, count: int, in_flight: int) -> None:
    (socket,) = client.sockets()
    for _ in range(in_flight):
        client.fetch(STREAM, FrameRequest())
    requested, read = in_flight, 0
    while read < count:
        if not socket.poll(int(TIMEOUT_S * 1000)):
            raise TimeoutError("no frame")
        for reply in client.receive():
            if reply.frame is None:
                raise RuntimeError("a request was answered without a frame")
            check(reply.frame.image, reply.frame.seq)
            client.settle(reply.frame, "done")
            read += 1
            if requested < count:
                client.fetch(STREAM, FrameRequest())
                requested += 1


def by_zeromq(socket: zmq.Socket[bytes], count: int, in_flight: int) -> None:
    for number in range(in_flight):
        socket.send(b"%d" % number)
    for number in range(count):
        if not socket.poll(int(TIMEOUT_S * 1000)):
            raise TimeoutError("no frame")
        check(np.frombuffer(socket.recv(copy=False).buffer, np.uint8), number)
        if number + in_flight < count:
            socket.send(b"%d" % (number + in_flight))


def check_counts(client: FrameClient, frames: int) -> None:
    """Check that the frame counts of capture agree with the frames that were read."""
    request, until = client.ping(STREAM), time.monotonic() + TIMEOUT_S
    while time.monotonic() < until:
        client.sockets()[0].poll(100)
        for reply in client.receive():
            if reply.request == request and reply.counts is not None:
                counts = reply.counts.model_dump()
                assert_identity(counts)
                if counts["done"] != frames:
                    raise RuntimeError(f"{frames} frames were read, {counts['done']} are counted as done")
                return
    raise TimeoutError("no counts")


def measure(runtime: Path, rounds: int, frames: int) -> dict[str, Any]:
    """Return milliseconds per frame of both transports, and their ratio."""
    raw: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
    raw.connect(raw_endpoint(runtime))
    spent: dict[tuple[str, str], list[float]] = {}
    with FrameClient(runtime, "infer", max(IN_FLIGHT.values()) + 1) as client:
        client.connect(STREAM)
        transports: dict[str, Callable[[int, int], None]] = {
            "shared memory": lambda count, in_flight: by_shared_memory(client, count, in_flight),
            "zeromq": lambda count, in_flight: by_zeromq(raw, count, in_flight),
        }
        for number in range(rounds + 1):
            for (mode, in_flight), (name, transport) in itertools.product(IN_FLIGHT.items(), transports.items()):
                started = time.perf_counter()
                transport(frames, in_flight)
                if number:  # the first round maps every buffer
                    spent.setdefault((mode, name), []).append(1000 * (time.perf_counter() - started) / frames)
        check_counts(client, (rounds + 1) * frames * len(IN_FLIGHT))
    raw.close(linger=0)
    return {mode: compare(spent[mode, "shared memory"], spent[mode, "zeromq"]) for mode in IN_FLIGHT}


def compare(ours: list[float], theirs: list[float]) -> dict[str, float]:
    ratios = [raw / own for own, raw in zip(ours, theirs, strict=True)]
    return {
        "shared_memory_ms": round(statistics.median(ours), 3),
        "zeromq_ms": round(statistics.median(theirs), 3),
        "ratio": round(statistics.median(ratios), 2),
        "lowest_ratio_of_a_round": round(min(ratios), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 rounds of 20 frames")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/transport.json")
    given = parser.parse_args()
    if given.write and given.quick:
        parser.error("--write needs a full run: leave out --quick")
    rounds, frames = (3, 20) if given.quick else (25, 100)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        ready = context.Event()
        producer = context.Process(target=serve, args=(Path(folder), ready), daemon=True)
        producer.start()
        try:
            if not ready.wait(60):
                raise TimeoutError("the producer process did not start")
            measured = measure(Path(folder), rounds, frames)
        finally:
            producer.kill()
            producer.join()
    result = {"frame": f"{WIDTH}x{HEIGHT} BGR", "rounds": rounds, "frames_per_round": frames, **measured}
    for mode, row in measured.items():
        print(
            f"{mode:11} shared memory {row['shared_memory_ms']:.2f} ms, ZeroMQ {row['zeromq_ms']:.2f} ms a frame: "
            f"{row['ratio']:.1f}x (target {TARGET:.0f}x)"
        )
    if given.write:
        write("transport", result)


if __name__ == "__main__":
    main()
