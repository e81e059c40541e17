"""A confined capture process decodes every kind of source, and reaches nothing else."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from streamer.core import landlock
from streamer.processes.confinement import KnownFiles
from tests.support.agents import until
from tests.support.capturing import CaptureProcess, Consumer
from tests.support.clips import write_clip
from tests.support.fuzzing import TalkServer, read_head, write_media
from tests.support.rtsp import RtspServer
from tests.support.ts_camera import mpeg_ts, ts_camera

needs_landlock = pytest.mark.skipif(not landlock.version(), reason="this kernel has no Landlock")

TRY = """
import json, os, socket, sys
from pathlib import Path
import numpy as np
from pydantic import TypeAdapter
from streamer.capture.sources import SourceField
from streamer.core import loopback
from streamer.core.memory_limit import allow_pictures
from streamer.processes.confinement import Confinement

source, runtime, attempts = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
settings = TypeAdapter(SourceField).validate_python(source)
confinement = Confinement(settings, runtime)

def serve(host):
    with loopback.listen(host, 1) as listener:
        socket.create_connection(listener.getsockname()).close()

def paint(pictures):
    image = np.empty((2160, 3840, 3), np.uint8)
    for picture, _ in zip(settings.open(), range(pictures)):
        picture.write_bgr(image)

ways = {
    "paint": paint,
    "read": lambda path: Path(path).read_bytes(),
    "write": lambda path: Path(path).write_bytes(b"x"),
    "list": os.listdir,
    "run": lambda path: os.execv(path, [path]),
    "connect": lambda port: socket.create_connection(("127.0.0.1", port)).close(),
    "listen": lambda port: socket.create_server(("127.0.0.1", port)).close(),
    "serve": serve,
    "signal": lambda pid: os.kill(pid, 0),
    "allocate": lambda megabytes: bytearray(megabytes << 20),
    "decode": allow_pictures,
}
results = []
for way, target in attempts:
    try:
        ways[way](target)
        results.append("done")
    except PermissionError:
        results.append("forbidden")
    except MemoryError:
        results.append("no memory")
    except OSError as error:
        results.append(error.strerror)
print(json.dumps(results))
"""


def attempt(source: str, runtime: Path, *attempts: tuple[str, Any]) -> list[str]:
    """Return what became of attempts in a process that is confined for a source."""
    runtime.mkdir(exist_ok=True)
    command = [sys.executable, "-c", TRY, source, str(runtime), json.dumps(attempts)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    results: list[str] = json.loads(done.stdout)
    return results


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", pictures=60)


@needs_landlock
def test_file_source_reads_its_file_and_nothing_else(tmp_path: Path, clip: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / "ledger.db").write_bytes(b"")
    (tmp_path / "other.mp4").write_bytes(b"")
    forbidden = [
        ("read", str(state / "ledger.db")), ("write", str(state / "ledger.db")), ("list", str(state)),
        ("read", str(tmp_path / "other.mp4")), ("write", str(clip)), ("read", "/etc/passwd"), ("list", "/etc"),
        ("run", "/bin/true"), ("connect", 1), ("listen", 0), ("signal", os.getppid()),
        ("read", f"/proc/{os.getpid()}/environ"),
    ]  # fmt: skip
    allowed = [("read", str(clip)), ("write", str(tmp_path / "run/x")), ("read", os.__file__)]
    results = attempt(str(clip), tmp_path / "run", *forbidden, *allowed)
    assert dict(zip(map(str, forbidden), results, strict=False)) == {str(one): "forbidden" for one in forbidden}
    assert results[len(forbidden) :] == ["done"] * len(allowed)


@needs_landlock
@pytest.mark.skipif(landlock.version() < 4, reason="this kernel's Landlock does not restrict TCP")
def test_camera_process_connects_to_its_port_only(tmp_path: Path) -> None:
    with listening() as own, listening() as other:
        attempts = [("connect", own), ("connect", other), ("listen", 0), ("serve", "127.0.0.1")]
        results = attempt(f"http://user:pass@127.0.0.1:{own}/1", tmp_path / "run", *attempts)
    assert results == ["done", "forbidden", "forbidden", "done"]


@needs_landlock
def test_synthetic_source_reaches_no_network(tmp_path: Path) -> None:
    with listening() as port:
        assert attempt("synthetic", tmp_path / "run", ("connect", port), ("listen", 0)) == ["forbidden"] * 2


def test_memory_is_limited_by_size_of_pictures(tmp_path: Path) -> None:
    attempts = [("allocate", 150), ("allocate", 300), ("decode", 3840 * 2160), ("allocate", 400), ("allocate", 2000)]
    results = attempt("synthetic", tmp_path / "run", *attempts, ("decode", 1 << 40), ("allocate", 4000))
    assert results == ["done", "no memory", "done", "done", "no memory", "done", "no memory"]


def test_drawn_camera_has_memory_for_large_pictures(tmp_path: Path) -> None:
    results = attempt("synthetic?size=3840x2160&pace=file", tmp_path / "run", ("paint", 8), ("allocate", 2000))
    assert results == ["done", "no memory"]


def test_replaced_file_is_noticed(tmp_path: Path) -> None:
    device, settings, library = tmp_path / "video0", tmp_path / "resolv.conf", Path("/usr/lib/os-release")
    settings.write_text("1")
    known = KnownFiles([device, settings, library])
    assert known.replaced() is None
    settings.write_text("2")
    assert known.replaced() is None  # the same file with other content
    device.write_text("")
    assert known.replaced() == device
    device.unlink()
    assert known.replaced() is None
    (tmp_path / "new").write_text("3")
    (tmp_path / "new").rename(settings)
    assert known.replaced() == settings


def test_capture_ends_when_its_runtime_folder_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with CaptureProcess(folder, "synthetic?fps=25") as capture:
        capture.statuses.wait("up")
        folder.rename(tmp_path / "old")
        folder.mkdir()
        until(lambda: capture.process.poll() is not None, 10, "its end")
        assert capture.reports()[-1]["reason"] == "the runtime folder was made again: only a new process may use it"


@contextmanager
def listening() -> Iterator[int]:
    """Listen on a port of this computer and yield it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def huge_sample(folder: Path) -> bytes:
    """Return an MP4 whose sixth frame has, as it says, 480 MB."""
    path = folder / "clip.mp4"
    write_media(path.parent)
    data = bytearray(path.read_bytes())
    entry = data.index(b"stsz") + 4 + 12 + 5 * 4
    data[entry : entry + 4] = struct.pack(">I", 480 << 20)
    return bytes(data)


def test_frame_of_absurd_size_takes_little_memory(tmp_path: Path) -> None:
    zeros = bytes(1 << 20)

    def talk(connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n\r\n" + sample)
        while True:
            connection.sendall(zeros)

    sample = huge_sample(tmp_path / "media")
    with (
        TalkServer(lambda _: talk) as server,
        CaptureProcess(tmp_path, f"http://127.0.0.1:{server.port}/x") as capture,
    ):
        capture.statuses.wait("down", timeout=60)
        until(lambda: server.served > 1, 30, "it connects again")
        status = Path(f"/proc/{capture.process.pid}/status").read_text()
        assert int(status.partition("VmHWM:")[2].split()[0]) < 400 << 10


def decodes(folder: Path, source: Any) -> bool:
    """Return whether a capture process, which is confined, yields a frame."""
    with CaptureProcess(folder, source) as capture, Consumer(folder) as consumer:
        frame = consumer.next()
        limits = Path(f"/proc/{capture.process.pid}/limits").read_text()
        assert any(line.startswith("Max data size") and "unlimited" not in line for line in limits.splitlines())
        return frame.image.size > 0


def test_confined_capture_decodes_file(tmp_path: Path, clip: Path) -> None:
    assert decodes(tmp_path, str(clip))


def test_confined_capture_decodes_rtsp(tmp_path: Path, clip: Path) -> None:
    with RtspServer(clip) as server:
        assert decodes(tmp_path, server.url)


def test_confined_capture_decodes_rtsp_over_udp(tmp_path: Path, clip: Path) -> None:
    with RtspServer(clip) as server:
        assert decodes(tmp_path, {"kind": "rtsp", "url": server.url, "transport": "udp"})


def test_confined_capture_decodes_http(tmp_path: Path) -> None:
    with ts_camera(mpeg_ts(100, 25), 25) as url:
        assert decodes(tmp_path, url.replace("127.0.0.1", "localhost"))


def test_confined_capture_paints_synthetic_frames(tmp_path: Path) -> None:
    assert decodes(tmp_path, "synthetic?fps=25")
