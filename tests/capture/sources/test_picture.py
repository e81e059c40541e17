"""Decoded pictures look as their camera means them: orientation, pixel aspect ratio, colours."""

from __future__ import annotations

import gc
import struct
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import cv2
import numpy as np
import pytest

from streamer.capture.sources import File, Rtsp
from streamer.capture.sources._allowed import FILE
from streamer.capture.sources._av import AvSource
from streamer.capture.sources._picture import BT601, INTERLACED, AvPicture
from streamer.core.errors import FrameError
from streamer.core.picture_limits import MAX_PIXELS
from tests.support.clips import bgr, numbered, write_clip
from tests.support.rtsp import RtspServer

RGB = (200, 50, 20)
UNSTATED, BT709, BT470BG, SMPTE170M, BT2020_NCL, BT2020_CL = 2, 1, 5, 6, 9, 10  # AVColorSpace
KNOWN = {0, BT709, 4, BT470BG, SMPTE170M, 7, BT2020_NCL}
"""Stated matrices that are converted as such."""
LIMITED, FULL = 1, 2  # AVColorRange
WEIGHTS = {601: (0.299, 0.114), 709: (0.2126, 0.0722), 2020: (0.2627, 0.0593)}
"""Weights of red and blue in the luma, by the number of the ITU-R recommendation."""


def first(path: Path) -> AvPicture:
    source = File(path=path).open()
    try:
        picture = next(picture for picture in source if picture is not None)
        assert isinstance(picture, AvPicture)
        return picture
    finally:
        source.close()


def is_upright(shown: np.ndarray, expected: np.ndarray) -> bool:
    return shown.shape == expected.shape and float(np.abs(shown.astype(int) - expected).mean()) < 6


# -- orientation


@pytest.mark.parametrize("full_range", [False, True])
def test_colours_are_converted_correctly(full_range: bool) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128)]
    image = np.repeat(np.repeat(np.array([colours], np.uint8), 32, axis=1), 64, axis=0)
    frame = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(
        format="yuvj444p" if full_range else "yuv444p", dst_color_range="JPEG" if full_range else "MPEG"
    )
    shown = bgr(AvPicture(frame, None))
    assert np.abs(shown.astype(int) - image).max() <= 4


def test_odd_widths_are_not_skewed() -> None:
    image = np.random.default_rng(1).integers(0, 255, (50, 101, 3), np.uint8)
    np.testing.assert_array_equal(bgr(AvPicture(av.VideoFrame.from_ndarray(image, format="bgr24"), None)), image)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotated_clip_is_shown_upright(tmp_path: Path, degrees: int) -> None:
    path = write_clip(tmp_path / "clip.mp4", 2, turn=degrees)
    expected = np.rot90(numbered(0, 256, 144), degrees // 90)
    image = bgr(first(path))
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 6


def test_damaged_display_matrix_rotates_nothing(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", 2, turn=90)
    clip = path.read_bytes()
    matrix = clip.index(b"tkhd") + 4 + 40  # of 36 bytes
    path.write_bytes(clip[:matrix] + bytes(36) + clip[matrix + 36 :])
    assert np.abs(bgr(first(path)).astype(int) - numbered(0, 256, 144)).mean() < 6


@pytest.mark.parametrize("pixel_format", ["bgr24", "yuv420p", "gray"])
def test_bottom_up_rows_are_shown_upright(pixel_format: str) -> None:
    image = np.zeros((60, 100, 3), np.uint8)
    image[:20] = 200
    flip = av.filter.Graph()
    source = flip.add_buffer(
        width=100, height=60, format=av.VideoFormat(pixel_format, 100, 60), time_base=Fraction(1, 25)
    )
    flip.link_nodes(source, flip.add("vflip"), flip.add("buffersink")).configure()
    flip.push(av.VideoFrame.from_ndarray(image[::-1], format="bgr24").reformat(format=pixel_format))
    frame = flip.pull()
    assert isinstance(frame, av.VideoFrame)
    assert frame.planes[0].line_size < 0
    picture = AvPicture(frame, None)
    for shown in (bgr(picture)[:, :, 0], picture.luma()):
        assert shown.shape == (60, 100)
        assert shown[:20].min() > 150
        assert shown[20:].max() < 50


def test_bottom_up_avi_is_shown_upright(tmp_path: Path) -> None:
    """Capture programs for Windows write such rows, with a positive `biHeight`."""
    path = tmp_path / "clip.avi"
    with av.open(str(path), "w") as clip:
        stream = clip.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 256, 144, "bgr24"
        clip.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(5, 256, 144)[::-1], format="bgr24")))
    header = struct.pack("<Iii", 40, 256, -144)
    assert path.read_bytes().count(header) == 1
    path.write_bytes(path.read_bytes().replace(header, struct.pack("<Iii", 40, 256, 144)))
    np.testing.assert_array_equal(bgr(first(path)), numbered(5, 256, 144))


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize(("hflip", "vflip"), [(True, False), (False, True), (True, True)])
def test_mirrored_clip_is_shown_upright(tmp_path: Path, degrees: int, hflip: bool, vflip: bool) -> None:
    path = tmp_path / "clip.mp4"
    stored = numbered(5, 256, 144)
    with av.open(str(path), "w") as clip:
        stream = clip.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 256, 144, "yuv420p"
        stream.set_display_rotation(degrees, hflip=hflip, vflip=vflip)
        clip.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="bgr24")))
        clip.mux(stream.encode(None))
    expected = np.rot90(stored, degrees // 90)
    expected = expected[:, ::-1] if hflip else expected
    expected = expected[::-1] if vflip else expected
    picture = first(path)
    assert is_upright(bgr(picture), expected)
    luma = picture.luma()
    assert is_upright(luma, cv2.resize(expected[:, :, 0], luma.shape[::-1], interpolation=cv2.INTER_AREA))


# -- pixel aspect ratio


def write_wide(path: Path, size: tuple[int, int], aspect: Fraction, turn: int = 0, pictures: int = 1) -> Path:
    with av.open(str(path), "w") as clip:
        stream = clip.add_stream("libx264", rate=25, options={"tune": "zerolatency", "g": "10"})
        stream.width, stream.height = size
        stream.pix_fmt, stream.codec_context.sample_aspect_ratio = "yuv420p", aspect
        if turn:
            stream.set_display_rotation(turn)
        for _ in range(pictures):
            clip.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(5, *size), format="bgr24")))
        clip.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("container", ["mp4", "ts", "h264"])
@pytest.mark.parametrize(
    ("stored", "aspect", "shown"),
    [
        ((720, 576), Fraction(64, 45), (1024, 576)),
        ((704, 288), Fraction(6, 11), (704, 528)),
        ((704, 480), Fraction(10, 11), (704, 528)),
    ],
)
def test_pixels_become_square_without_losing_detail(
    tmp_path: Path, container: str, stored: tuple[int, int], aspect: Fraction, shown: tuple[int, int]
) -> None:
    picture = first(write_wide(tmp_path / f"clip.{container}", stored, aspect))
    assert (picture.width, picture.height) == shown
    assert is_upright(bgr(picture), cv2.resize(numbered(5, *stored), shown))


def test_turned_clip_has_square_pixels(tmp_path: Path) -> None:
    picture = first(write_wide(tmp_path / "clip.mp4", (320, 240), Fraction(4, 3), turn=90))
    assert (picture.width, picture.height) == (240, 427)
    assert is_upright(bgr(picture), np.rot90(cv2.resize(numbered(5, 320, 240), (427, 240))))


def test_rtsp_camera_has_square_pixels(tmp_path: Path) -> None:
    clip = write_wide(tmp_path / "clip.mp4", (720, 576), Fraction(64, 45), pictures=20)
    with RtspServer(clip) as server:
        source = Rtsp.model_validate({"url": server.url}).open(5.0)
        shown = bgr(next(picture for picture in source if picture is not None))
        source.close()
    assert is_upright(shown, cv2.resize(numbered(5, 720, 576), (1024, 576)))


@pytest.mark.parametrize("aspect", [None, Fraction(1), Fraction(136, 135), Fraction(1, 5), Fraction(1000)])
def test_square_and_damaged_pixel_aspect_keep_the_size(aspect: Fraction | None) -> None:
    image = np.random.default_rng(1).integers(0, 255, (50, 101, 3), np.uint8)
    picture = AvPicture(av.VideoFrame.from_ndarray(image, format="bgr24"), None, aspect)
    np.testing.assert_array_equal(bgr(picture), image)


def test_square_pixels_keep_the_pixel_limit() -> None:
    frame = av.VideoFrame(7680, 4320, "gray")
    assert frame.width * frame.height == MAX_PIXELS
    picture = AvPicture(frame, None, Fraction(4, 3))
    assert (picture.width, picture.height) == (7680, 4320)


# -- colours


def yuv_frame(matrix: int, stated: int, colour_range: int, lines: int, pixel_format: str) -> av.VideoFrame:
    """Return a frame of the colour RGB, coded with that matrix, that states `stated`."""
    full = colour_range == FULL or pixel_format.startswith("yuvj")
    red, blue = WEIGHTS[matrix]
    luma = red * RGB[0] + (1 - red - blue) * RGB[1] + blue * RGB[2]
    chroma = (RGB[2] - luma) / (2 - 2 * blue), (RGB[0] - luma) / (2 - 2 * red)
    values = (luma, *(128 + c for c in chroma))
    if not full:
        values = (16 + luma * 219 / 255, *(128 + c * 224 / 255 for c in chroma))
    frame = av.VideoFrame(64, lines, pixel_format)
    for plane, value in zip(frame.planes, values, strict=True):
        plane.update(bytes([round(value)]) * plane.buffer_size)
    frame.colorspace, frame.color_range = stated, colour_range
    return frame


def assert_colour(image: np.ndarray) -> None:
    assert np.abs(image.reshape(-1, 3)[:, ::-1].astype(int) - RGB).max() <= 4, image[0, 0, ::-1]


@pytest.mark.parametrize("colour_range", [0, LIMITED, FULL])
@pytest.mark.parametrize(
    ("matrix", "stated", "lines"),
    [
        (709, UNSTATED, 1080),
        (709, UNSTATED, 720),
        (601, UNSTATED, 718),
        (601, UNSTATED, 480),
        (709, BT709, 480),
        (601, BT470BG, 1080),
        (601, SMPTE170M, 1080),
        (2020, BT2020_NCL, 1080),
        (2020, BT2020_NCL, 480),
    ],
)
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "yuv444p"])
def test_colours_follow_the_stated_matrix_or_the_size(
    matrix: int, stated: int, lines: int, colour_range: int, pixel_format: str
) -> None:
    assert_colour(bgr(AvPicture(yuv_frame(matrix, stated, colour_range, lines, pixel_format), None)))


@pytest.mark.parametrize("lines", [480, 720])
@pytest.mark.parametrize("stated", range(20))
def test_no_stated_matrix_makes_a_picture_unusable(stated: int, lines: int) -> None:
    """A camera can state reserved numbers, and matrices that libswscale refuses to convert."""
    assumed = 2020 if stated == BT2020_CL else 709 if lines == 720 else 601
    for pixel_format in ("yuv420p", "yuv420p10le", "gbrp", "gray", "bgr24"):
        picture = AvPicture(av.VideoFrame(64, lines, pixel_format), None)
        picture._frame.colorspace = stated
        assert bgr(picture).shape == (lines, 64, 3)
        assert picture.luma().shape == (lines, 64)
    if stated not in KNOWN:
        assert_colour(bgr(AvPicture(yuv_frame(assumed, stated, LIMITED, lines, "yuv420p"), None)))


def test_hd_clip_without_colour_tags_is_bt709(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "clip.mp4"), "w") as clip:
        stream = clip.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 720, "yuv420p"
        frame = yuv_frame(709, UNSTATED, 0, 720, "yuv420p")
        frame.pts, frame.time_base = 0, Fraction(1, 25)
        clip.mux(stream.encode(frame))
        clip.mux(stream.encode(None))
    assert_colour(bgr(first(tmp_path / "clip.mp4")))


def test_webcam_without_colour_tags_is_bt601(tmp_path: Path) -> None:
    """V4L2 defines BT.601 for every size. The test reads raw video of a file."""
    path = tmp_path / "clip.nut"
    with av.open(str(path), "w") as clip:
        stream = clip.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 720, "yuv422p"
        clip.mux(stream.encode(yuv_frame(601, UNSTATED, 0, 720, "yuv422p")))
    source = AvSource(str(path), {}, read_limit=None, allowed=FILE, unstated_matrix=BT601)
    assert_colour(bgr(next(picture for picture in source if picture is not None)))
    source.close()


def test_hd_jpeg_is_bt601(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    cv2.imwrite(str(path), np.full((720, 64, 3), RGB[::-1], np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 100])
    assert_colour(bgr(first(path)))


def test_rgb_pictures_keep_their_values() -> None:
    image = np.random.default_rng(1).integers(0, 255, (720, 64, 3), np.uint8)
    for pixel_format in ("bgr24", "rgb24", "gbrp"):
        frame = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format=pixel_format)
        np.testing.assert_array_equal(bgr(AvPicture(frame, None)), image)


# -- fields, faults


def test_interlaced_video_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as clip:
        stream = clip.add_stream("libx264", rate=25, options={"x264-params": "tff=1"})
        stream.width, stream.height, stream.pix_fmt = 256, 144, "yuv420p"
        clip.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(1, 256, 144), format="bgr24")))
        clip.mux(stream.encode(None))
    for clip_path, note in ((path, INTERLACED), (write_clip(tmp_path / "progressive.mp4", 2), None)):
        source = File(path=clip_path).open()
        assert len(list(source)) > 0
        assert source.note == note
        source.close()


def test_frame_that_cannot_be_converted_is_a_frame_error() -> None:
    picture = AvPicture(av.VideoFrame(64, 48, "bgr4"), None)
    with pytest.raises(FrameError, match="cannot be converted"):
        bgr(picture)
    with pytest.raises(FrameError, match="cannot be converted"):
        picture.luma()


def test_frames_are_freed_without_garbage_collection(tmp_path: Path) -> None:
    """Hundreds of frames of a large camera would otherwise stay in memory until the collector runs."""
    source = File(path=write_clip(tmp_path / "clip.mp4", pictures=30)).open()
    gc.collect()
    gc.disable()
    try:
        assert len(list(source)) == 30
        frames = [one for one in gc.get_objects() if type(one) in (AvPicture, av.VideoFrame)]
        assert len(frames) < 3, "a decoder may keep its last frame"
    finally:
        gc.enable()
        source.close()
