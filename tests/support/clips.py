"""Small H.264 clips, generated on demand. Every frame shows its own number."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream

from streamer.capture.interfaces import Picture
from streamer.types import Image

_BITS = 12
_CELL = 16


def numbered(number: int, width: int, height: int) -> Image:
    """Return a grey BGR picture with `number` in binary as black and white cells in its top row."""
    image = np.full((height, width, 3), 96, np.uint8)
    for bit in range(_BITS):
        image[:_CELL, bit * _CELL : (bit + 1) * _CELL] = 255 if number >> bit & 1 else 0
    return image


def number_of(image: Image) -> int:
    """Return the number in a picture made by `numbered`, also after lossy encoding."""
    cells = (image[_CELL // 2, bit * _CELL + _CELL // 2].mean() > 128 for bit in range(_BITS))
    return sum(1 << bit for bit, white in enumerate(cells) if white)


def bgr(picture: Picture | None) -> Image:
    """Return the picture as a consumer gets it."""
    assert picture is not None
    image = np.zeros((picture.height, picture.width, 3), np.uint8)
    picture.write_bgr(image)
    return image


def write_clip(
    path: Path,
    pictures: int = 25,
    fps: float = 25,
    size: tuple[int, int] = (256, 144),
    key_frame_every: int = 10,
    turn: int = 0,
) -> Path:
    """Write an MP4 of `pictures` numbered frames, without B-frames so that its packets can be streamed unchanged.

    `turn`: rotation in degrees counter-clockwise that a player must apply, as written by phones.
    """
    rate = Fraction(fps).limit_denominator(1000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.gop_size = key_frame_every
        if turn:
            stream.set_display_rotation(turn)
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "scenecut=0"}
        for number in range(pictures):
            frame = av.VideoFrame.from_ndarray(numbered(number, *size), format="bgr24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def number_in(picture: Picture) -> int:
    """Return the number in a decoded picture of `numbered`."""
    image = np.zeros((picture.height, picture.width, 3), np.uint8)
    picture.write_bgr(image)
    return number_of(image)


def write_recording(
    path: Path, pictures: int = 60, codec: str = "libx264", movflags: str = "", rate: Fraction = Fraction(10)
) -> Path:
    """Write numbered frames. They are much larger than the index of the file.

    `movflags`: of an MP4; with `+faststart` its index is at the front.
    """
    noise = np.random.default_rng(1)
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as clip:
        stream = cast(VideoStream, clip.add_stream(codec, rate=rate, options={"g": "10"}))
        stream.width, stream.height, stream.pix_fmt = 256, 144, "yuv420p"
        for number in range(pictures):
            image = numbered(number, 256, 144)
            image[64:] = noise.integers(0, 255, (80, 256, 3))
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = number, 1 / rate
            clip.mux(stream.encode(frame))
        clip.mux(stream.encode(None))
    return path


def cut(path: Path) -> Path:
    """Cut the second half of a file off."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path
