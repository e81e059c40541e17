"""Small media that claim or unpack to absurd sizes."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np

_MEGABYTE = 1 << 20


def jpeg(width: int = 160, height: int = 120) -> bytes:
    """Return a JPEG whose header tells these sizes. Its data are of a picture of 160x120."""
    _, data = cv2.imencode(".jpg", np.full((120, 160, 3), 99, np.uint8))
    picture = data.tobytes()
    at = picture.index(b"\xff\xc0") + 5
    return picture[:at] + struct.pack(">HH", height, width) + picture[at + 4 :]


def png_bomb(width: int = 16_000, height: int = 16_000) -> bytes:
    """Return a PNG of a few megabytes that decodes to 8 bytes a pixel."""
    size, block = width * height * 8, 16 * _MEGABYTE
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = compressor.compress(bytes(block)) + compressor.flush(zlib.Z_FULL_FLUSH)
    data = b"\x78\xda" + zeros * (size // block + 1)
    header = struct.pack(">IIBBBBB", width, height, 16, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def gif_bomb() -> bytes:
    """Return a GIF whose header tells 65,535 pixels a side."""
    head = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0xF7, 0, 0) + bytes(768)
    return head + b"\x2c" + struct.pack("<HHHHB", 0, 0, 16000, 16000, 0) + b"\x08\xfe" + bytes(254) + b"\0\x3b"


def h264_bomb(width: int = 16_384, height: int = 8_640) -> bytes:
    """Return bare H.264 whose headers tell these sizes, followed by damaged pictures."""
    sps = _bits(
        *("01000010", "00000000", f"{62:08b}"),  # baseline profile, level 6.2
        *map(_exp_golomb, (0, 0, 0, 0, 1)), "0",  # order of pictures, one reference
        *map(_exp_golomb, (width // 16 - 1, height // 16 - 1)), "1100",  # frames only, no cropping, no VUI
    )  # fmt: skip
    pps = _bits(
        *map(_exp_golomb, (0, 0)), "00", *map(_exp_golomb, (0, 0, 0)), "000", *map(_exp_golomb, (0, 0, 0)), "000"
    )
    start = b"\0\0\0\1"
    picture = start + b"\x65" + _bits(*map(_exp_golomb, (0, 7, 0)), "0000", _exp_golomb(0)) + b"\x5a" * 3000
    return (start + b"\x67" + sps + start + b"\x68" + pps + picture) * 3


def _exp_golomb(value: int) -> str:
    code = f"{value + 1:b}"
    return "0" * (len(code) - 1) + code


def _bits(*parts: str) -> bytes:
    text = "".join(parts) + "1"
    text += "0" * (-len(text) % 8)
    return bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8))
