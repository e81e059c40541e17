"""Hostile media and hostile conversations, made from a seed: the same number always gives the same bytes."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import av
from av.video.stream import VideoStream

from tests.support.clips import numbered

EXTREMES = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFF0, 0x00FFFFFF)
KINDS = {
    "clip.mp4": ("libx264", {"movflags": "faststart"}), "clip.ts": ("libx264", {}), "clip.h264": ("libx264", {}),
    "hevc.mp4": ("libx265", {"movflags": "faststart"}), "hevc.ts": ("libx265", {}), "clip.mjpeg": ("mjpeg", {}),
    "clip.mkv": ("libx264", {}), "clip.avi": ("mpeg4", {}), "clip.flv": ("libx264", {}),
}  # fmt: skip
"""File name -> encoder and options of the container. The file is small, so that a mutation hits its structure."""
CONTENT_TYPES = {".ts": "video/mp2t", ".mp4": "video/mp4", ".mjpeg": "video/x-motion-jpeg"}
PICTURES = 12


def write_media(folder: Path) -> list[Path]:
    """Write one small intact file of each kind."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(folder / name, encoder, options) for name, (encoder, options) in KINDS.items()]


def _write(path: Path, encoder: str, options: dict[str, str]) -> Path:
    with av.open(str(path), "w", options=options) as container:
        quiet = {"x265-params": "log-level=none:pools=1:frame-threads=1"} if encoder == "libx265" else {}
        stream = cast(VideoStream, container.add_stream(encoder, rate=10, options={"g": "5", **quiet}))
        stream.width, stream.height = 192, 112
        stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        for number in range(PICTURES):
            frame = av.VideoFrame.from_ndarray(numbered(number, 192, 112), format="bgr24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def mutate(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Return a damaged copy: some of its bytes, sizes, order or length are wrong. `other` is spliced in at times."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(max(1, len(out)))
        size = rng.choice((1, 4, 16, 188, 1024))
        match rng.randrange(8):
            case 0:
                out[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                out[at : at + 4] = struct.pack(">I", rng.choice(EXTREMES))
            case 2:
                del out[at : at + size]
            case 3:
                out[at:at] = rng.randbytes(size)
            case 4:
                out[at : at + size] = bytes(min(size, len(out) - at))
            case 5:
                out[at:at] = out[at : at + size] * rng.choice((1, 3, 50))
            case 6:
                del out[at:]
            case 7:
                begin = rng.randrange(max(1, len(other)))
                out[at:at] = other[begin : begin + size]
    return bytes(out)


class Corpus:
    """Numbered damaged files."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._files = [(path.name, path.read_bytes()) for path in write_media(folder)]
        self._seed = seed

    def file(self, number: int) -> tuple[str, bytes]:
        """Return name and bytes of a file."""
        rng = random.Random(self._seed * 1_000_003 + number)
        name, data = self._files[number % len(self._files)]
        return name, mutate(data, rng.choice(self._files)[1], rng)

    def intact(self) -> bytes:
        """Return an MPEG-TS that plays."""
        return dict(self._files)["clip.ts"]


Talk = Callable[[socket.socket], None]
"""One connection of a hostile server, which it may leave open when it returns."""


def serve_file(name: str, data: bytes) -> Talk:
    """Return a talk that answers one HTTP request with the bytes."""
    kind = CONTENT_TYPES.get(Path(name).suffix, "application/octet-stream")
    return serve_http(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode() + data)


def serve_http(answer: bytes) -> Talk:
    def talk(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(answer)

    return talk


def http_talk(number: int, seed: int, corpus: Corpus) -> Talk:
    """Return a hostile HTTP answer: status, headers, lengths, chunks, parts and playlists are wrong in turn."""
    rng = random.Random(seed * 1_000_033 + number)
    _, body = corpus.file(number)
    status = rng.choice(
        ("HTTP/1.1 200 OK", "HTTP/1.0 200", "ICY 200 OK", "HTTP/1.1 206 x", "HTTP/9.9 200 OK", "HTTP/1.1 999 ?",
         "HTTP/1.1 401 Unauthorized", "HTTP/1.1 302 Found", "HTTP/1.1 -1 OK", "", "\0\0")
    )  # fmt: skip
    lines = rng.sample(
        (
            "Content-Type: multipart/x-mixed-replace; boundary=b", "Content-Type: application/vnd.apple.mpegurl",
            "Content-Type: video/mp2t", f"Content-Length: {rng.choice((-1, 0, 1, 2**31, 2**63, 2**64, 10**40))}",
            "Transfer-Encoding: chunked", "Content-Encoding: gzip", "Location: file:///etc/passwd",
            "Location: rtsp://127.0.0.1:1/x", "Location: /again", "icy-metaint: 1", "Set-Cookie: a=" + "v" * 5000,
            "WWW-Authenticate: Digest realm=\"" + "r" * 3000 + "\", nonce=\"x\", algorithm=MD5, qop=\"auth\"",
            "X: " + "a" * 20000, "no colon", ": no name", "\x80\xff: \x00", "Content-Range: bytes 5-1/0",
            "Retry-After: 1e400",
        ),
        rng.randrange(1, 6),
    )  # fmt: skip
    bodies = (
        body,
        b"--b\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % rng.choice(EXTREMES) + body + b"\r\n--b--",
        b"7fffffffffffffff\r\n" + body, b"-1\r\n" + body, b"zz\r\n",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:%d\n#EXTINF:nan,\n%s\n" % (rng.choice(EXTREMES), b"../" * 400),
        b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n/again.m3u8\n",
        b"#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI=\"file:///etc/passwd\"\n#EXTINF:5,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n", b"<html><body>login</body></html>", rng.randbytes(5000),
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    )  # fmt: skip
    head = "\r\n".join((status, *lines)).encode("latin-1")
    return serve_http(head + b"\r\n\r\n" + rng.choice(bodies))


SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
_CODECS = ("H264/90000", "H265/90000", "JPEG/90000", "MP4V-ES/90000", "AV1/90000", "VP8/90000", "x-asf-pf/1000", "X/0")


def rtsp_talk(number: int, seed: int) -> Talk:
    """Return a hostile RTSP conversation: each answer, the SDP and the RTP packets may be wrong."""

    def talk(connection: socket.socket) -> None:
        rng = random.Random(seed * 1_000_081 + number)
        for _ in range(12):
            head = read_head(connection)
            if not head:
                return
            method = head.split(b" ", 1)[0]
            connection.sendall(_rtsp_answer(method, head, rng))
            if method == b"PLAY":
                connection.sendall(b"".join(_rtp(rng, sequence) for sequence in range(rng.randrange(200))))
                return

    return talk


def _rtsp_answer(method: bytes, head: bytes, rng: random.Random) -> bytes:
    sequence = next((line[5:].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"cseq:")), b"1")
    good = rng.random() < 0.7
    status = b"RTSP/1.0 200 OK" if good else rng.choice(
        (b"RTSP/1.0 401 x", b"RTSP/1.0 302 x", b"RTSP/1.0 454 x", b"HTTP/1.1 200 OK", b"RTSP/1.0 x", b"\0",
         b"RTSP/9 200 OK")
    )  # fmt: skip
    lines = [status, b"CSeq: " + (sequence if rng.random() < 0.9 else rng.choice((b"-1", b"x", b"9" * 40)))]
    lines += rng.sample(
        (
            b"Location: rtsp://127.0.0.1:1/x", b"Location: file:///etc/passwd", b"Session: 1;timeout=-5",
            b"Session: " + b"1" * 300 + b";timeout=0",
            b"WWW-Authenticate: Digest realm=\"x\", nonce=\"" + b"n" * 4000 + b"\"",
            b"WWW-Authenticate: Basic realm=x", b"X: " + b"a" * 9000, b"Content-Base: rtsp://user:pw@127.0.0.1:1/",
            b"junk",
            b"RTP-Info: url=x;seq=99999999999;rtptime=-1", b"Range: npt=nan-", b"Content-Length: -1",
        ),
        rng.randrange(3) if good else rng.randrange(1, 6),
    )  # fmt: skip
    body = b""
    if method == b"DESCRIBE":
        body = _sdp(rng)
        length = len(body) if rng.random() < 0.9 else rng.choice((-1, 0, 2**31, 10**20))
        lines += [b"Content-Type: application/sdp", b"Content-Length: %d" % length]
    elif method == b"SETUP":
        channels = rng.choice((b"0-1", b"0-1", b"0-1", b"-5-9", b"300-301", b"1"))
        lines += [
            b"Session: 1",
            b"Transport: RTP/AVP/TCP;unicast;interleaved=" + channels + b";x" * rng.choice((0, 0, 9000)),
        ]
    elif method == b"OPTIONS":
        lines.append(b"Public: DESCRIBE, SETUP, PLAY, GET_PARAMETER")
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _sdp(rng: random.Random) -> bytes:
    text = (
        SDP
        if rng.random() < 0.8
        else SDP.replace("0.0.0.0", rng.choice(("224.2.3.4/127/100", "x", "::1", "127.0.0.1")))
    )
    for number in range(rng.choice((1, 1, 1, 2, 100))):
        codec = rng.choice(_CODECS) if rng.random() < 0.5 else "H264/90000"
        text += f"m=video {rng.choice((0, 0, 5004, 99999))} RTP/AVP 96\r\na=rtpmap:96 {codec}\r\n"
        text += f"a=control:{rng.choice((f'track{number}', '*', 'rtsp://user:pw@127.0.0.1:1/t', '', '../' * 500))}\r\n"
        text += rng.choice(
            ("", "", "a=fmtp:96 packetization-mode=1;sprop-parameter-sets=" + "A" * 4000 + ",Z0LAHtkDxWhA,aMuMsg==\r\n",
             "a=framesize:96 99999-99999\r\n", "a=framerate:nan\r\n", "b=AS:-1\r\n", "a=fmtp:96 sprop-vps=====\r\n")
        )  # fmt: skip
    return text.encode()


def _rtp(rng: random.Random, sequence: int) -> bytes:
    """Return one interleaved packet with H.264, aggregated, fragmented or random payload."""
    payload = rng.choice(
        (
            bytes([rng.choice((0x65, 0x67, 0x68, 0x41))]) + rng.randbytes(rng.choice((0, 1, 40, 1400))),
            b"\x78" + struct.pack(">H", rng.choice((0, 1, 5, 65535))) + rng.randbytes(40),
            b"\x7c" + bytes([rng.choice((0x85, 0x05, 0x45, 0xC5))]) + rng.randbytes(rng.choice((0, 1, 1400))),
            rng.randbytes(rng.choice((0, 1, 12, 1400))),
        )
    )
    first, kind = rng.choice((0x80, 0x80, 0x80, 0x9F, 0xB0, 0x00)), rng.choice((0x60, 0xE0, 0x60, 0x7F))
    stamp = rng.choice((sequence * 3600, 0, 0xFFFFFFFF))
    packet = struct.pack(">BBHII", first, kind, sequence & 0xFFFF, stamp & 0xFFFFFFFF, 1) + payload
    length = len(packet) if rng.random() < 0.95 else rng.choice((0, 1, 65535))
    return b"$" + bytes([rng.choice((0, 0, 0, 0, 1, 7))]) + struct.pack(">H", length) + packet


def read_head(connection: socket.socket) -> bytes:
    """Return the bytes of a request up to its empty line, as far as they came."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < 1 << 16:
        data = connection.recv(4096)
        if not data:
            break
        head += data
    return head


class TalkServer:
    """Serves each connection with the talk that `choose` returns for its number. A context manager."""

    def __init__(self, choose: Callable[[int], Talk], hold_s: float = 0.0) -> None:
        """`hold_s`: how long a connection stays open after its talk."""
        self._choose, self._hold_s = choose, hold_s
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.served = 0
        """Connections so far; the number of the next one."""
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            number, self.served = self.served, self.served + 1
            threading.Thread(target=self._talk, args=(connection, number), daemon=True).start()

    def _talk(self, connection: socket.socket, number: int) -> None:
        with connection, suppress(OSError):
            connection.settimeout(10)
            self._choose(number)(connection)
            time.sleep(self._hold_s)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
