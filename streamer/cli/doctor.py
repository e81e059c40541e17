"""`streamer doctor`: whether this computer can run a config, each finding with what to do about it."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import socket
import stat
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from streamer.cli.load_estimate import load_of, percent
from streamer.config.model import Config, find_pipeline
from streamer.core.errors import ConfigError
from streamer.core.paths import memory_folder, runtime_folder, state_folder
from streamer.core.redact import redact

Level = Literal["ok", "warn", "fail"]
GIB = 1 << 30
MIN_FREE, GOOD_FREE = GIB // 4, 2 * GIB
SLOW_SYNC_S = 0.05
SYNCS = 9
CONNECT_S = 3.0
PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "mqtt": 1883, "mqtts": 8883}
DESCRIPTORS_EACH = 64
EPOCH_OF_THIS = 1_760_000_000
"""A clock that says it is earlier than this program is wrong."""
_STATUS_AT, _UNSYNCHRONISED = 40, 0x40


class Finding(NamedTuple):
    level: Level
    what: str
    todo: str = ""


def examine(config: Config, file: Path) -> int:
    """Print all findings; the exit code: 1 when one of them is a failure."""
    failed = False
    for check in (_python, _config_file, _clock, _state, _runtime, _limits, _ports, _sources, _places, _model, _load):
        for finding in _findings(check, config, file):
            failed = failed or finding.level == "fail"
            todo = f" -> {finding.todo}" if finding.todo else ""
            print(redact(f"{finding.level:<4}  {finding.what}{todo}"), flush=True)
    return 1 if failed else 0


def _findings(check: Callable[[Config, Path], Iterator[Finding]], config: Config, file: Path) -> Iterator[Finding]:
    """One check that fails in a way nobody foresaw must not hide the others."""
    try:
        yield from check(config, file)
    except Exception as error:
        yield Finding("fail", f"{check.__name__.strip('_')}: {type(error).__name__}: {error}", "see the message")


def _python(_config: Config, _file: Path) -> Iterator[Finding]:
    yield Finding("ok", f"Python {sys.version.split()[0]}, {os.cpu_count()} processors")


def _config_file(config: Config, file: Path) -> Iterator[Finding]:
    yield Finding("ok", f"{file}: agent {config.name}, {len(config.streams)} streams")
    mode = file.stat().st_mode
    if mode & stat.S_IROTH and "@" in file.read_text():
        yield Finding("warn", f"{file} can be read by everybody", f"if it holds passwords: chmod 640 {file}")


def _clock(_config: Config, _file: Path) -> Iterator[Finding]:
    if time.time() < EPOCH_OF_THIS:
        yield Finding("fail", f"the clock says {time.ctime()}", "set it: timedatectl set-ntp true")
        return
    libc = ctypes.CDLL(None, use_errno=True)
    timex = ctypes.create_string_buffer(256)  # struct timex, modes 0: only read
    if libc.adjtimex(timex) < 0:
        yield Finding("warn", "whether the clock is synchronised cannot be seen", "look at timedatectl")
        return
    status = ctypes.c_int.from_buffer(timex, _STATUS_AT).value
    if status & _UNSYNCHRONISED:
        yield Finding("warn", "the clock is not synchronised", "timedatectl set-ntp true, else times of events drift")
    else:
        yield Finding("ok", "the clock is synchronised")


def _state(config: Config, _file: Path) -> Iterator[Finding]:
    folder = state_folder(config.name)
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Finding("fail", f"{folder} cannot be written", f"give {existing} to the user that runs the agent")
        return
    free = shutil.disk_usage(existing).free
    words = f"{folder} has {free / GIB:.1f} GiB free"
    if free < MIN_FREE:
        yield Finding("fail", words, "make room: events cannot be kept on a full disk")
    elif free < GOOD_FREE:
        yield Finding("warn", words, "the ledger may take a gigabyte, and the log and videos more")
    else:
        yield Finding("ok", words)
    seconds = _sync_time(existing)
    words = f"a write reaches that disk in {seconds * 1000:.1f} ms"
    if seconds > SLOW_SYNC_S:
        yield Finding("warn", words, "use a faster disk ($XDG_STATE_HOME): each group of events waits for it")
    else:
        yield Finding("ok", words)


def _sync_time(folder: Path) -> float:
    """Median seconds of an fsync of a few bytes."""
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(SYNCS):
            started = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def _runtime(config: Config, _file: Path) -> Iterator[Finding]:
    folder = runtime_folder(config.name) or Path(memory_folder() or tempfile.gettempdir())
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Finding("fail", f"{folder} cannot be written", f"give {existing} to the user that runs the agent")
    elif _file_system(existing) not in ("tmpfs", "ramfs"):
        yield Finding(
            "warn", f"{folder} is not in memory", "set $XDG_RUNTIME_DIR to a folder on a tmpfs such as /dev/shm"
        )
    else:
        yield Finding("ok", f"{folder} is in memory, {shutil.disk_usage(existing).free / GIB:.1f} GiB free")


def _file_system(folder: Path) -> str:
    """Type of the file system that a folder is on."""
    best, kind = "", ""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, found, *_ = line.split()
        if folder.resolve().is_relative_to(place) and len(place) >= len(best):
            best, kind = place, found
    return kind


def _limits(config: Config, _file: Path) -> Iterator[Finding]:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = DESCRIPTORS_EACH + 4 * len(config.streams)
    if files < needed:
        yield Finding("fail", f"{files} open files are allowed, {needed} are needed", f"ulimit -n {2 * needed}")
    else:
        yield Finding("ok", f"{files} open files are allowed")


def _ports(config: Config, _file: Path) -> Iterator[Finding]:
    if config.web is None:
        return
    bind = config.web.bind
    with socket.socket(socket.AF_INET6 if ":" in bind.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(bind)
        except OSError as error:
            todo = "stop what uses it (ss -lntp), or change web.bind; the agent itself uses it while it runs"
            yield Finding("fail", f"the page cannot be served on {bind}: {error.strerror}", todo)
        else:
            yield Finding("ok", f"the page can be served on {bind}")


def _sources(config: Config, _file: Path) -> Iterator[Finding]:
    for name, stream in config.streams.items():
        yield _source(name, stream.source)


def _source(name: str, source: Any) -> Finding:
    if (device := getattr(source, "device", None)) is not None:
        if not Path(device).exists():
            return Finding("fail", f"{name}: there is no {device}", "plug the camera in; v4l2-ctl --list-devices")
        if not os.access(device, os.R_OK | os.W_OK):
            return Finding("fail", f"{name}: {device} may not be opened", "add the user to the group `video`")
        return Finding("ok", f"{name}: {device} may be opened")
    if (url := getattr(source, "url", None)) is not None:
        return _host(name, url.reveal())
    return Finding("ok", f"{name}: {source.kind}")


def _host(name: str, url: str) -> Finding:
    parts = urlsplit(url)
    port = parts.port or PORTS[parts.scheme]
    where = f"{parts.hostname}:{port}"
    try:
        socket.create_connection((parts.hostname, port), CONNECT_S).close()
    except OSError as error:
        todo = "is it on, is the address right, is a firewall between? `streamer check --probe` opens cameras"
        return Finding("fail", f"{name}: {where} does not answer ({error.strerror or error})", todo)
    return Finding("ok", f"{name}: {where} answers")


def _places(config: Config, _file: Path) -> Iterator[Finding]:
    for kind, places in (("sink", config.sinks), ("output", config.outputs)):
        for place in places:
            name = getattr(place, "name", None) or getattr(place, "label", kind)
            try:
                place.check()
            except ConfigError as error:
                yield Finding("fail", f"{kind} {name}: {error}", "see configs/full.yaml")
            else:
                yield Finding("ok", f"{kind} {name} is usable")
                if (url := getattr(place, "url", None)) is not None:
                    yield _host(f"{kind} {name}", url.reveal())


def _model(config: Config, _file: Path) -> Iterator[Finding]:
    started = time.monotonic()
    try:
        engine = find_pipeline().open(config.model)
    except ConfigError as error:
        yield Finding("fail", f"the model does not run: {error}", "see `model:` in configs/full.yaml")
        return
    yield Finding("ok", f"the model {engine.model} loads and answers, in {time.monotonic() - started:.1f} s")


def _load(config: Config, _file: Path) -> Iterator[Finding]:
    load = load_of(config)
    if load is not None and load.total > 1:
        todo = "`streamer check` says which tasks cost most, and what would fit"
        yield Finding("warn", f"the tasks ask for up to {percent(load.total)} of the device", todo)
