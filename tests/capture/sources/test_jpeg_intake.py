"""JPEG pictures of a camera: decoded when they are fetched, as long as their headers are enough."""

from __future__ import annotations

import io

import numpy as np
import pytest

from streamer.capture.interfaces import Picture
from streamer.capture.sources import _jpeg_intake
from streamer.capture.sources._allowed import HTTP
from streamer.capture.sources._av import AvSource
from streamer.capture.sources._encoded_picture import EncodedPicture, decode
from streamer.capture.sources._jpeg_intake import CHECK_S, JpegIntake
from streamer.capture.sources._picture import AvPicture
from streamer.core.errors import FrameError, SourceLost
from tests.support.clips import bgr, number_in
from tests.support.http_camera import jpeg

FIRST, SECOND = jpeg(1), jpeg(2)
SIDES = FIRST.index(b"\xff\xc0") + 5
BROKEN = FIRST[: SIDES + 4] + b"\x07" + FIRST[SIDES + 5 :]
"""The number of colours is wrong."""


def with_density(picture: bytes, x: int, y: int) -> bytes:
    """Return the picture with this pixel density in its JFIF header: other than 1 and 1, it is to be scaled."""
    at = picture.index(b"JFIF\0") + 8
    return picture[:at] + x.to_bytes(2, "big") + y.to_bytes(2, "big") + picture[at + 4 :]


def test_pictures_are_decoded_when_they_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    intake = JpegIntake()
    assert isinstance(intake.take(FIRST, 0.0, 10.0), EncodedPicture)
    monkeypatch.delattr(_jpeg_intake, "decode")
    kept = intake.take(SECOND, 0.1, 10.1)
    assert isinstance(kept, EncodedPicture)
    assert (kept.width, kept.height, kept.pts, kept.captured_mono) == (256, 144, 0.1, 10.1)
    at_once = decode(SECOND, 0.1, strict=False)
    assert np.array_equal(bgr(kept), bgr(at_once))
    assert np.array_equal(kept.luma(), at_once.luma())


def test_camera_whose_pictures_become_damaged_is_noticed() -> None:
    intake = JpegIntake()
    assert intake.take(FIRST, 0.0, 10.0) is not None
    unseen = intake.take(BROKEN, 0.0, 10.0 + CHECK_S / 2)
    with pytest.raises(FrameError, match="a damaged picture"):
        bgr(unseen)
    assert [intake.take(BROKEN, 0.0, 10.0 + CHECK_S + late) for late in (0.0, 0.1, 0.2)] == [None] * 3
    assert isinstance(intake.take(FIRST, 0.0, 10.3 + CHECK_S), AvPicture)
    assert isinstance(intake.take(FIRST, 0.0, 10.0 + 2 * CHECK_S), EncodedPicture)


def test_picture_that_is_shown_with_a_fault_is_decoded_at_once() -> None:
    """A strict decoder refuses it: neither this host nor another one would have a picture later."""
    cut = FIRST[: (FIRST.index(b"\xff\xda") + len(FIRST)) // 2] + b"\xff\xd9"
    intake = JpegIntake()
    assert isinstance(intake.take(cut, 0.0, 10.0), AvPicture)
    assert isinstance(intake.take(FIRST, 0.0, 10.1), AvPicture)


def test_picture_with_another_size_than_its_header_is_decoded_at_once() -> None:
    intake = JpegIntake()
    for _ in range(3):
        picture = intake.take(with_density(FIRST, 1, 2), 0.0, 10.0)
        assert isinstance(picture, AvPicture)
        assert (picture.width, picture.height) == (256, 288)
    assert isinstance(intake.take(FIRST, 0.0, 10.0 + CHECK_S), EncodedPicture)
    stretched = intake.take(with_density(FIRST, 1, 2), 0.0, 10.0 + CHECK_S)
    with pytest.raises(FrameError):
        bgr(stretched)
    larger = FIRST[:SIDES] + (160).to_bytes(2, "big") + FIRST[SIDES + 2 :]
    assert isinstance(intake.take(larger, 0.0, 10.0 + CHECK_S), AvPicture)


def test_picture_with_many_scans_is_decoded_at_once() -> None:
    """A decoder needs the time of a whole picture for each: that of the connection, not that of the frame server."""
    scan = FIRST.index(b"\xff\xda")
    slow = FIRST[:-2] + FIRST[scan:-2] * 5 + FIRST[-2:]
    intake = JpegIntake()
    assert [type(intake.take(slow, 0.0, 10.0)) for _ in range(3)] == [AvPicture] * 3
    intake.take(FIRST, 0.0, 10.0 + CHECK_S)
    unexpected = intake.take(slow, 0.0, 10.0 + CHECK_S)
    with pytest.raises(FrameError, match="scans"):
        bgr(unexpected)


def test_webcam_keeps_pictures_as_they_were_encoded() -> None:
    """Bytes stand in for the device. FFmpeg gives its packets in the same way."""
    source = AvSource(
        io.BytesIO(FIRST + SECOND + jpeg(3)),
        {},
        read_limit=5,
        container_format="mjpeg",
        allowed=HTTP,
        keeps_jpegs=True,
    )
    found: list[Picture] = []
    with pytest.raises(SourceLost, match="the stream ended"):
        found.extend(picture for picture in source if picture is not None)
    source.close()
    assert [type(picture) for picture in found] == [EncodedPicture] * 3
    assert [number_in(picture) for picture in found] == [1, 2, 3]
    assert [picture.pts for picture in found] == pytest.approx([0.0, 0.04, 0.08])
