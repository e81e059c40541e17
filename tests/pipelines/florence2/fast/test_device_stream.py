"""Order of streams: a recorder takes the place of `torch.cuda`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pipelines.florence2.fast.device_stream import DeviceStream
from pipelines.florence2.fast.image_cache import ImageCache
from tests.support.checkpoints import make_image, make_job
from tests.support.fake_cuda import DEVICE


class Recorder:
    """The part of `torch.cuda` that a DeviceStream uses; keeps the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.priorities: list[int] = []
        self.current = RecordedStream(self, "default")

    def current_stream(self, _: torch.device) -> RecordedStream:
        return self.current

    def Stream(self, device: torch.device, priority: int) -> RecordedStream:
        assert device == DEVICE
        self.priorities.append(priority)
        return RecordedStream(self, f"stream {len(self.priorities)}")

    @contextmanager
    def stream(self, stream: RecordedStream) -> Iterator[None]:
        before, self.current = self.current, stream
        self.calls.append((stream.name, "enter"))
        yield
        self.calls.append((stream.name, "leave"))
        self.current = before


class RecordedStream:
    def __init__(self, recorder: Recorder, name: str) -> None:
        self.recorder, self.name = recorder, name

    def wait_stream(self, other: RecordedStream) -> None:
        self.recorder.calls.append((self.name, "waits for", other.name))


class Result:
    """A tensor that keeps who reads it."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def record_stream(self, stream: RecordedStream) -> None:
        self.recorder.calls.append(("result", "is read by", stream.name))


class Tower:
    """A vision tower that keeps the stream on which it runs."""

    tokens, peak = 5, 1

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.recorder.calls.append(("vision on", self.recorder.current.name))
        return torch.zeros(len(pixels), 5, 4)


def test_stream_on_cpu_does_nothing() -> None:
    recorder = Recorder()
    stream = DeviceStream(torch.device("cpu"), cuda=recorder)
    with stream.in_order():
        made = torch.ones(2)
    stream.fork()
    stream.join([made])
    assert not stream.is_concurrent
    assert recorder.calls == []


def test_results_wait_for_the_stream_that_makes_them() -> None:
    recorder = Recorder()
    stream: Any = DeviceStream(DEVICE, cuda=recorder)
    with stream.active():
        recorder.calls.append(("vision",))
    stream.join([Result(recorder)])
    recorder.calls.append(("encoder",))
    assert recorder.calls == [
        ("stream 1", "enter"),
        ("vision",),
        ("stream 1", "leave"),
        ("default", "waits for", "stream 1"),
        ("result", "is read by", "default"),
        ("encoder",),
    ]


def test_block_in_order_runs_between_what_surrounds_it() -> None:
    recorder = Recorder()
    stream = DeviceStream(DEVICE, priority=-1, cuda=recorder)
    with stream.in_order():
        recorder.calls.append(("decode",))
    assert recorder.calls == [
        ("stream 1", "waits for", "default"),
        ("stream 1", "enter"),
        ("decode",),
        ("stream 1", "leave"),
        ("default", "waits for", "stream 1"),
    ]
    assert recorder.priorities == [-1]


def test_vision_runs_beside_decoding_and_before_the_encoder() -> None:
    """The order of an engine's step on a card."""
    recorder = Recorder()
    decode, vision = DeviceStream(DEVICE, priority=-1, cuda=recorder), DeviceStream(DEVICE, cuda=recorder)
    cache = ImageCache(Tower(recorder), lambda image: torch.zeros(3, 8, 8), torch.device("cpu"), torch.float32)
    cache.stream = vision
    job = make_job("caption", make_image(1))
    with decode.in_order():
        cache.start([job.frame])
        recorder.calls.append(("decode on", recorder.current.name))
        vision.join()
        recorder.calls.append(("encoder on", recorder.current.name))
    assert recorder.calls == [
        ("stream 1", "waits for", "default"),
        ("stream 1", "enter"),
        ("stream 2", "enter"),
        ("vision on", "stream 2"),
        ("stream 2", "leave"),
        ("decode on", "stream 1"),
        ("stream 1", "waits for", "stream 2"),
        ("encoder on", "stream 1"),
        ("stream 1", "leave"),
        ("default", "waits for", "stream 1"),
    ]
