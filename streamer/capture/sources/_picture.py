"""A picture decoded by FFmpeg, and its conversion to BGR and luma as a viewer must see it.

The display matrix turns and mirrors it. Pixels that are not square are scaled to square ones, so that 16:9 looks like
16:9. The colour matrix is the one that the picture states; without one it depends on the number of lines.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import Colorspace, Interpolation
from av.video.stream import VideoStream

from streamer.capture.motion_gate import shrink
from streamer.capture.sources._failures import FAILURES, describe
from streamer.core.errors import FrameError
from streamer.core.picture_limits import HD_LINES, MAX_PIXELS, MAX_SIDE
from streamer.types import Image, Luma

_LUMA_FIRST = {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "nv12", "nv21", "gray"}
"""Pixel formats whose first plane is the luma, one byte per pixel."""
UNSPECIFIED = 2
"""AVCOL_SPC_UNSPECIFIED: the picture does not state its colour matrix."""
BT601 = 6
"""AVCOL_SPC_SMPTE170M."""
_MATRICES = frozenset({0, 1, 4, 5, BT601, 7, 9})
"""Colour matrices (AVColorSpace) that libswscale converts. It refuses pictures that state any other."""
_BT2020_CL = 10
"""AVCOL_SPC_BT2020_CL, shown as BT.2020 with non-constant luminance, which differs little."""
_MIN_ASPECT, _MAX_ASPECT = Fraction(1, 4), Fraction(4)
"""Pixel aspect ratios outside are damaged data: the most extreme of real cameras is 32:11."""
_ASPECT_TOLERANCE = Fraction(1, 100)
"""A pixel aspect ratio this near to 1 comes from an encoder that rounds the size, such as 136:135 for 1080 lines."""


INTERLACED = "interlaced video: moving objects have comb-like edges; set the camera to progressive if it can"
"""Note for the user on pictures of two fields."""


class PixelAspect:
    """The pixel aspect ratio of a stream: its container's if that states one, else its decoder's, which can change."""

    def __init__(self, stream: VideoStream) -> None:
        """`stream`: just opened, nothing is decoded yet."""
        self._decoder = stream.codec_context
        stated = stream.sample_aspect_ratio
        self._container = None if stated == self._decoder.sample_aspect_ratio else stated

    def current(self) -> Fraction | None:
        """Return width divided by height of a pixel of the frame decoded last, None if unknown."""
        return self._container or self._decoder.sample_aspect_ratio


class AvPicture:
    """A decoded picture. Converted to BGR by `write_bgr` only."""

    __slots__ = ("_frame", "_mirrored", "_size", "_turns", "pts")

    def __init__(self, frame: av.VideoFrame, pts: float | None, pixel_aspect: Fraction | None = None) -> None:
        """`pixel_aspect`: width of a pixel divided by its height; None: unknown, taken as 1."""
        self._frame = frame
        self._turns, self._mirrored = _orientation(frame)
        self._size = _square_size(frame.width, frame.height, pixel_aspect)
        self.pts = pts

    @property
    def width(self) -> int:
        return self._size[self._turns % 2]

    @property
    def height(self) -> int:
        return self._size[1 - self._turns % 2]

    def write_bgr(self, out: Image) -> None:
        """Fill `out`, uint8 (height, width, 3). Raises FrameError."""
        width, height = self._size
        image = _rows(self._converted("bgr24", width, height))[:, : 3 * width]
        out[:] = self._upright(image.reshape(height, width, 3))

    def luma(self) -> Luma:
        """Return a small luma image, in the aspect ratio of the stored picture. Raises FrameError.

        For the usual formats this reads the first plane, without conversion.
        """
        frame = self._frame
        if frame.format.name not in _LUMA_FIRST:
            frame = self._converted("gray", frame.width, frame.height)
        return np.ascontiguousarray(self._upright(shrink(_rows(frame)[:, : frame.width])))

    def _converted(self, pixel_format: str, width: int, height: int) -> av.VideoFrame:
        frame, matrix = self._frame, _assumed_matrix(self._frame)
        scaled = (width, height) != (frame.width, frame.height)
        try:
            return frame.reformat(
                width,
                height,
                pixel_format,
                src_colorspace=matrix,
                dst_colorspace=matrix,
                interpolation=Interpolation.BICUBIC if scaled else None,
                threads=1,
            )
        except FAILURES as error:
            raise FrameError(f"cannot be converted: {describe(error)}") from None

    def _upright(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return np.rot90(image[::-1] if self._mirrored else image, self._turns)


def _orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """Return the quarter turns of the display matrix, and whether the lines are mirrored from top to bottom first.

    A damaged matrix, whose angle is no number, turns nothing.
    """
    turns = round(frame.rotation / 90) % 4 if abs(frame.rotation) <= 180 else 0
    try:
        # Not `frame.side_data`: the frame would refer to itself, and keep its memory until the garbage collector runs.
        a, b, _, c, d = struct.unpack_from("=5i", cast(Any, SideDataContainer)(frame)["DISPLAYMATRIX"])
    except (LookupError, ValueError):  # ValueError: there is side data of a kind that PyAV does not know
        return turns, False
    return turns, a * d < b * c


@lru_cache(maxsize=8)
def _square_size(width: int, height: int, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """Return the size with square pixels: one side is kept, the other one grows, so that no detail is lost."""
    if pixel_aspect is None or not _MIN_ASPECT <= pixel_aspect <= _MAX_ASPECT:
        return width, height
    if abs(pixel_aspect - 1) <= _ASPECT_TOLERANCE:
        return width, height
    wide = (round(width * pixel_aspect), height) if pixel_aspect > 1 else (width, round(height / pixel_aspect))
    return wide if max(wide) <= MAX_SIDE and wide[0] * wide[1] <= MAX_PIXELS else (width, height)


def _assumed_matrix(frame: av.VideoFrame) -> Colorspace | None:
    """Return the colour matrix of a picture that does not state one that libswscale has. None: the stated one."""
    if frame.colorspace in _MATRICES or not _has_matrix(frame.format.name):
        return None
    if frame.colorspace == _BT2020_CL:
        return Colorspace.BT2020
    return Colorspace.ITU709 if frame.height >= HD_LINES else Colorspace.ITU601


@cache
def _has_matrix(pixel_format: str) -> bool:
    """Return True if pictures of this format are YUV."""
    description = av.VideoFormat(pixel_format)
    return not (description.is_rgb or description.has_palette or description.is_bayer)


def _rows(frame: av.VideoFrame) -> npt.NDArray[np.uint8]:
    """Return the rows of the first plane from top to bottom, with padding. A negative line size: stored bottom-up."""
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(frame.height, abs(plane.line_size))
    return rows if plane.line_size > 0 else rows[::-1]


@cache
def is_convertible(pixel_format: str) -> bool:
    """Return True if libswscale can convert pictures of this format in memory."""
    if pixel_format.startswith("yaf32"):
        return False  # libswscale aborts the process
    try:
        av.VideoFrame(16, 16, pixel_format).reformat(format="bgr24")
    except FAILURES:
        return False
    return True
