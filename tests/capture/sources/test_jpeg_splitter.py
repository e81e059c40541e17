"""JPEGs are found in streams of bytes, however they are framed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.capture.sources._jpeg_splitter import MAX_GAP_BYTES, MAX_PICTURE_BYTES, MAX_SCANS, JpegSplitter
from streamer.core.errors import SourceLost
from tests.support.http_camera import jpeg

PICTURES = [jpeg(number) for number in range(3)]
THUMBNAIL = b"\xff\xe1" + (len(PICTURES[0]) + 2).to_bytes(2) + PICTURES[0]


def split(data: bytes, size: int = 1 << 16) -> list[bytes]:
    splitter = JpegSplitter()
    found = [picture for at in range(0, len(data), size) for picture in splitter.feed(data[at : at + size])]
    last = splitter.finish()
    return found if last is None else [*found, last]


@pytest.mark.parametrize("size", [1, 2, 7, 1000, 1 << 20])
def test_pictures_are_found_in_pieces_of_any_size(size: int) -> None:
    stream = b"".join(b"--b\r\nContent-Type: image/jpeg\r\n\r\n" + picture + b"\r\n" for picture in PICTURES)
    assert split(stream, size) == PICTURES


def test_pictures_without_anything_between_are_found() -> None:
    assert split(b"".join(PICTURES)) == PICTURES


def test_thumbnail_inside_a_picture_is_no_picture() -> None:
    with_thumbnail = PICTURES[1][:2] + THUMBNAIL + PICTURES[1][2:]
    assert split(with_thumbnail + PICTURES[2]) == [with_thumbnail, PICTURES[2]]


def test_picture_without_end_ends_at_the_next_one() -> None:
    cut = PICTURES[0][:-2]
    assert split(cut + b"\r\n--b\r\n\r\n" + PICTURES[1]) == [cut + b"\r\n--b\r\n\r\n\xff\xd9", PICTURES[1]]
    assert split(cut) == [PICTURES[0]]


def test_picture_without_content_is_left_out() -> None:
    empty = PICTURES[0][: PICTURES[0].index(b"\xff\xda")] + b"\xff\xd9"
    assert split(empty + PICTURES[1] + empty[:-2]) == [PICTURES[1]]


def test_bytes_between_pictures_are_limited() -> None:
    assert split(b"\0" * MAX_GAP_BYTES + PICTURES[0]) == [PICTURES[0]]
    with pytest.raises(SourceLost, match="sends no JPEG picture in 1 MiB of data"):
        split(b"\0" * (MAX_GAP_BYTES + 10) + PICTURES[0])


def test_size_of_a_picture_is_limited() -> None:
    with pytest.raises(SourceLost, match="picture of more than 32 MiB refused"):
        split(b"\xff\xd8\xff" + b"\1" * (MAX_PICTURE_BYTES + 1), 1 << 20)


def test_pixels_of_a_picture_are_limited() -> None:
    frame = PICTURES[0].index(b"\xff\xc0")
    bomb = PICTURES[0][: frame + 5] + b"\xff\xff\xff\xff" + PICTURES[0][frame + 9 :]
    with pytest.raises(SourceLost, match="frame of 65535x65535 pixels refused"):
        split(bomb, 16)


def test_scans_of_a_picture_are_limited() -> None:
    scan = PICTURES[0].index(b"\xff\xda")
    with pytest.raises(SourceLost, match="picture with more than 100 scans refused"):
        split(PICTURES[0][:scan] + PICTURES[0][scan:-2] * (MAX_SCANS + 1) + b"\xff\xd9")


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([*PICTURES, b"\xff\xd8\xff", b"\xff", b"\xff\xd9"]))))
def test_any_bytes_are_split_alike_in_any_pieces(parts: list[bytes]) -> None:
    data = b"".join(parts)

    def outcome(size: int) -> list[bytes] | None:
        try:
            return split(data, size)
        except SourceLost:
            return None

    assert outcome(3) == outcome(1 << 16)
