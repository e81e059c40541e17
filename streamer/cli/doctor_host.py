"""Checks of `streamer doctor` about the computer: clock, graphics cards, disk, runtime folder, limits, time zone."""

from __future__ import annotations

import ctypes
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.cli.finding import Finding
from streamer.core import limits, nvidia
from streamer.core.paths import memory_folder, runtime_folder, state_folder

if TYPE_CHECKING:
    from streamer.config.model import Config

GIB = 1 << 30
MEGABYTE = 1e6
MIN_FREE, GOOD_FREE = GIB // 4, 2 * GIB
"""Free bytes of the state folder's disk: less is a failure, a warning."""
SLOW_SYNC_S = 0.05
"""Longest fsync without a warning: the ledger commits every 20 ms at most and waits for the disk each time."""
SYNCS = 9
"""Number of fsyncs of which the median counts."""
PICTURE = "1920x1080"
"""Width and height of a camera's pictures where the source does not give them."""
HLS_BYTES = 16 << 20
"""Segments of an HLS output in the runtime folder."""
MIN_UNIX_TIME = 1_760_000_000
"""A clock before this second (October 2025) is wrong: this program is newer."""
_STATUS_AT, _UNSYNCHRONISED = 40, 0x40
"""Offset of `status` in `struct timex`, and its bit STA_UNSYNC, see adjtimex(2)."""


def clock(_config: Config, _file: Path) -> Iterator[Finding]:
    """Check that the clock is right and synchronised."""
    if time.time() < MIN_UNIX_TIME:
        yield Finding("fail", "clock", f"wrong time, {time.ctime()}", "set it: timedatectl set-ntp true")
        return
    libc = ctypes.CDLL(None, use_errno=True)
    timex = ctypes.create_string_buffer(256)  # struct timex with modes 0: read only
    if libc.adjtimex(timex) < 0:
        yield Finding("warn", "clock", "cannot read whether it is synchronised", "see the output of timedatectl")
        return
    status = ctypes.c_int.from_buffer(timex, _STATUS_AT).value
    if status & _UNSYNCHRONISED:
        yield Finding("warn", "clock", "not synchronised, event times will drift", "timedatectl set-ntp true")
    else:
        yield Finding("ok", "clock", "synchronised")


def graphics_cards(_config: Config, _file: Path) -> Iterator[Finding]:
    """Check the driver of NVIDIA cards; without one there is nothing to say."""
    version = nvidia.driver_version()
    if version is None:
        return
    where = f"NVIDIA driver {version}"
    if not (cards := nvidia.cards()):
        yield Finding("warn", where, "it finds no card", "check the card's seat and power; see dmesg")
    elif closed := nvidia.closed_devices():
        what = f"{', '.join(cards)}: this user cannot open {', '.join(map(str, closed))}"
        yield Finding("warn", where, what, "give the user or the container access to these files")
    else:
        yield Finding("ok", where, ", ".join(cards))


def state(config: Config, _file: Path) -> Iterator[Finding]:
    """Check space and speed of the disk with the ledger."""
    folder = state_folder(config.name)
    where = f"state folder {folder}"
    existing = _existing(folder)
    if not os.access(existing, os.W_OK | os.X_OK):
        yield _not_writable(where, existing)
        return
    free = shutil.disk_usage(existing).free
    space = f"{free / GIB:.1f} GiB free"
    if free < MIN_FREE:
        yield Finding("fail", where, space, "free some disk space: events cannot be stored on a full disk")
    elif free < GOOD_FREE:
        yield Finding("warn", where, space, "free some disk space: the ledger may take 1 GiB, logs and videos more")
    else:
        yield Finding("ok", where, space)
    seconds = _sync_time(existing)
    latency = f"fsync takes {seconds * 1000:.1f} ms"
    if seconds > SLOW_SYNC_S:
        yield Finding("warn", where, latency, "use a faster disk ($XDG_STATE_HOME): each batch of events waits for it")
    else:
        yield Finding("ok", where, latency)


def _existing(folder: Path) -> Path:
    """Return the folder, or its nearest parent that exists."""
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _not_writable(where: str, existing: Path) -> Finding:
    return Finding("fail", where, "not writable", f"give {existing} to the user that runs the agent")


def _sync_time(folder: Path) -> float:
    """Return the median seconds of an fsync after a write of 4 KiB."""
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(SYNCS):
            started = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def runtime(config: Config, _file: Path) -> Iterator[Finding]:
    """Check that the frames of all streams fit into the runtime folder, and that it is in memory."""
    folder = runtime_folder(config.name) or Path(memory_folder() or tempfile.gettempdir())
    where = f"runtime folder {folder}"
    existing = _existing(folder)
    if not os.access(existing, os.W_OK | os.X_OK):
        yield _not_writable(where, existing)
        return
    free, needed = shutil.disk_usage(existing).free, runtime_bytes(config)
    if free < needed:
        space = f"{free / MEGABYTE:.1f} MB free, {needed / MEGABYTE:.1f} MB are needed for the frames of its streams"
        yield Finding("fail", where, space, "enlarge its file system, or set $XDG_RUNTIME_DIR to a larger tmpfs")
    elif _file_system(existing) not in ("tmpfs", "ramfs"):
        yield Finding("warn", where, "not in memory", "set $XDG_RUNTIME_DIR to a folder on a tmpfs such as /dev/shm")
    else:
        yield Finding("ok", where, f"in memory, {free / GIB:.1f} GiB free")


def runtime_bytes(config: Config) -> int:
    """Return the bytes that frames take in the runtime folder: two for inference, two for a view, one for the page."""
    sizes = {name: 3 * _pixels(stream.source) for name, stream in config.streams.items()}
    views = {(output.stream, getattr(output, "sync", False)) for output in config.outputs}
    needed = sum((3 if config.web else 2) * size for size in sizes.values())
    needed += sum(2 * sizes.get(stream, 0) for stream, _ in views)
    return needed + HLS_BYTES * len([output for output in config.outputs if output.kind == "hls"])


def _pixels(source: object) -> int:
    """Return the pixels of a source's pictures, as far as its settings give their size."""
    size: str | None = getattr(source, "size", None)
    width, _, height = (size or PICTURE).partition("x")
    return int(width) * int(height)


def _file_system(folder: Path) -> str:
    """Return the type of the file system that holds a folder."""
    best, kind = "", ""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, found, *_ = line.split()
        if folder.resolve().is_relative_to(mount) and len(mount) >= len(best):
            best, kind = mount, found
    return kind


def system_limits(config: Config, _file: Path) -> Iterator[Finding]:
    """Check the limits of `ulimit`, after raising those that may be raised."""
    limits.raise_open_files()
    if problem := limits.problem_of(len(config.streams)):
        what, _, fix = problem.partition(": ")
        yield Finding("fail", "limits", what, fix)
    else:
        yield Finding("ok", "limits", "open files, virtual memory and processes suffice")


def time_zone(_config: Config, _file: Path) -> Iterator[Finding]:
    """Check that `TZ` is a time zone."""
    from streamer.config.calendar import local_zone, zone_of_variable

    text = os.environ.get("TZ")
    if text is not None and zone_of_variable(text) is None:
        yield Finding("warn", "time zone", f"$TZ is no time zone ({text}): UTC is used", "set a name: TZ=Europe/Berlin")
    else:
        yield Finding("ok", "time zone", local_zone().key or "as in $TZ")
