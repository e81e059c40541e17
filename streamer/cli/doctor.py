"""`streamer doctor`: check whether this computer can run a config; each finding says where, what and how to fix it."""

from __future__ import annotations

import gc
import os
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import typer

from streamer.cli.doctor_host import clock, graphics_cards, runtime, state, system_limits, time_zone
from streamer.cli.doctor_network import keys, ports
from streamer.cli.finding import Finding
from streamer.cli.options import ConfigFile
from streamer.core.errors import AddressError, ConfigError
from streamer.core.printable import counted
from streamer.core.reasons import internal_error, reason_of

if TYPE_CHECKING:
    from streamer.capture.interfaces import SourceSettings
    from streamer.config.model import Config

CONNECT_S = 3.0
"""Timeout of a TCP connection to a broker or server."""
CAMERA_S = 10.0
"""Longest wait for a camera's answer, and then for its first picture."""
MAX_PROBES = 16
"""Cameras that are opened at the same time."""
PORTS = {
    "rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "mqtt": 1883, "mqtts": 8883, "streamer": 5600, "nats": 4222,
    "tls": 4222, "kafka": 9092, "kafkas": 9092, "redis": 6379, "rediss": 6379,
}  # fmt: skip


def doctor(config: ConfigFile) -> None:
    """Check whether this computer can run a config.

    Prints one line per finding: ok, warn or fail, and what to do. Exits with 1 if one of them is a failure.
    """
    from streamer.config.model import load

    raise typer.Exit(examine(load(config), config))


def examine(config: Config, file: Path) -> int:
    """Print all findings; return the exit code, 1 if one of them is a failure."""
    failed = False
    for check in (
        _python,
        _ffmpeg,
        _confinement,
        _config_file,
        clock,
        graphics_cards,
        state,
        runtime,
        system_limits,
        time_zone,
        ports,
        keys,
        _sources,
        _targets,
        _model,
        _load,
    ):
        for finding in _findings(check, config, file):
            failed = failed or finding.level == "fail"
            print(finding, flush=True)
    return 1 if failed else 0


def _findings(check: Callable[[Config, Path], Iterator[Finding]], config: Config, file: Path) -> Iterator[Finding]:
    """Yield the findings of one check. An unexpected exception is a finding, so that the other checks still run."""
    try:
        yield from check(config, file)
    except Exception as error:
        where = check.__name__.strip("_")
        yield Finding("fail", where, internal_error(error, f"doctor: {where}"), "report it with this stack")


def _python(_config: Config, _file: Path) -> Iterator[Finding]:
    yield Finding("ok", "Python", f"{sys.version.split()[0]}, {os.cpu_count()} processors")


def _ffmpeg(config: Config, _file: Path) -> Iterator[Finding]:
    from streamer.core.ffmpeg_faults import FAULTS, bundled_version, parse_version

    text = bundled_version()
    where, version = f"FFmpeg {text}", parse_version(text)
    if version is None:
        yield Finding("warn", where, "not a release: its known faults cannot be looked up", "install `av` from PyPI")
        return
    unused = []
    for fault in FAULTS:
        if not fault.affects(version):
            continue
        users = [name for name, stream in config.streams.items() if fault.is_reached_by(stream.source)]
        if users:
            fix = f"remove `{fault.name}` from `allow`, or update the package `av` when it is cured"
            yield Finding("warn", where, f"{fault} can be reached by {', '.join(users)}", fix)
        else:
            unused.append(str(fault))
    yield Finding(
        "ok", where, f"no stream reaches its known faults: {', '.join(unused)}" if unused else "no known fault"
    )


def _confinement(_config: Config, _file: Path) -> Iterator[Finding]:
    from streamer.core import landlock

    supported = landlock.version()
    where = "confinement"
    if not supported:
        fix = "use Linux 5.13 or later, with `landlock` in its list of security modules (`lsm=`)"
        yield Finding("warn", where, "this kernel cannot confine the processes that decode", fix)
    elif supported < landlock.NET_VERSION:
        what = "processes that decode are confined to their files, but not to the ports of their cameras"
        yield Finding("ok", where, f"{what}, which needs Linux 6.7")
    else:
        yield Finding("ok", where, "processes that decode are confined to the files and ports of their cameras")


def _config_file(config: Config, file: Path) -> Iterator[Finding]:
    yield Finding("ok", str(file), f"agent {config.name}, {counted(len(config.streams), 'stream')}")
    mode = file.stat().st_mode
    if mode & stat.S_IROTH and "@" in file.read_text():
        yield Finding("warn", str(file), "every user can read it", f"if it holds passwords: chmod 640 {file}")


def _sources(config: Config, _file: Path) -> Iterator[Finding]:
    with ThreadPoolExecutor(MAX_PROBES) as pool:
        yield from pool.map(lambda item: _source(f"stream {item[0]}", item[1].source), config.streams.items())


def _source(where: str, source: Any) -> Finding:
    if (device := getattr(source, "device", None)) is not None:
        if not Path(device).exists():
            return Finding("fail", where, f"no device {device}", "plug the camera in; list: v4l2-ctl --list-devices")
        if not os.access(device, os.R_OK | os.W_OK):
            return Finding("fail", where, f"no permission to open {device}", "add the user to the group `video`")
        return Finding("ok", where, f"{device} can be opened")
    if (url := getattr(source, "url", None)) is not None:
        return _camera(where, url.reveal(), source)
    return Finding("ok", where, source.kind)


def _camera(where: str, url: str, source: SourceSettings) -> Finding:
    """Return whether a network camera sends pictures, with the reason that its `stream.down` event would have."""
    parts = urlsplit(url)
    host = f"{parts.hostname}:{parts.port or PORTS[parts.scheme]}"
    until = time.monotonic() + CAMERA_S
    try:
        with closing(source.open(CAMERA_S)) as camera:
            for picture in camera:
                if picture is not None:
                    return Finding("ok", where, f"{host} sends {picture.width}x{picture.height} pictures")
                if time.monotonic() > until:
                    break
    except Exception as error:  # an error of a library concerns this camera only
        reason = reason_of(error, f"doctor: {where}") or "ended without a picture"
        return Finding("fail", where, f"{host}: {reason}", "change the URL, the camera's settings or the network")
    return Finding("warn", where, f"{host} sends no picture in {CAMERA_S:g} s", "look at it: streamer check --probe")


def _host(where: str, url: str) -> Finding:
    """Return whether the host of a URL accepts a TCP connection. The URL may be that of a proxy."""
    from streamer.core.addresses import connect, resolve
    from streamer.core.network_failures import describe_os_error

    parts = urlsplit(url)
    port = parts.port or PORTS[parts.scheme]
    host = f"{parts.hostname}:{port}"
    try:
        connect(resolve(parts.hostname or "", in_config=True), port, CONNECT_S).close()
    except AddressError as error:
        return Finding("fail", where, str(error), "check its name and the name servers of this computer")
    except OSError as error:
        fix = "check that it is switched on, its address, and firewalls"
        return Finding("fail", where, f"{host} does not answer ({describe_os_error(error)})", fix)
    return Finding("ok", where, f"{host} answers")


def _unix_socket(where: str, path: str) -> Finding:
    """Return whether a server accepts connections on a socket file."""
    from streamer.core.network_failures import describe_os_error

    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(CONNECT_S)
            one.connect(path)
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else describe_os_error(error)
        return Finding("fail", where, f"{path} does not answer ({reason})", "start the server, or change `socket`")
    return Finding("ok", where, f"{path} answers")


def _targets(config: Config, _file: Path) -> Iterator[Finding]:
    for kind, targets in (("sink", config.sinks), ("output", config.outputs)):
        for target in targets:
            where = f"{kind} {getattr(target, 'name', None) or getattr(target, 'label', kind)}"
            try:
                target.check()
            except ConfigError as error:
                yield Finding("fail", where, str(error), "see configs/full.yaml")
            else:
                yield Finding("ok", where, "usable")
                if getattr(target, "socket", None) is not None:
                    yield _unix_socket(where, str(target.socket))
                elif (url := getattr(target, "proxy", None) or getattr(target, "url", None)) is not None:
                    yield _host(where, url.reveal())
                    for broker in getattr(target, "brokers", ()):
                        yield _host(where, f"{target.url.scheme}://{broker}")


def _model(config: Config, _file: Path) -> Iterator[Finding]:
    from streamer.config.model import find_pipeline

    found = find_pipeline().devices(config.model)
    for name, settings in {device.name: device.settings for device in found}.items():
        yield from _device("model" if len(found) == 1 else f"model on {name}", settings)
        gc.collect()  # parts of an engine refer to each other, and the next one needs the memory


def _device(where: str, settings: Any) -> Iterator[Finding]:
    """Yield whether the model runs with the settings of one device."""
    from streamer.config.model import find_pipeline

    started = time.monotonic()
    try:
        engine = find_pipeline().open(settings)
    except ConfigError as error:
        yield Finding("fail", where, f"does not run: {error}", "see `model:` in configs/full.yaml")
    except Exception as error:  # a fault of one device says nothing about the others
        yield Finding("fail", where, internal_error(error, f"doctor: {where}"), "report it with this stack")
    else:
        took = time.monotonic() - started
        yield Finding("ok", where, f"{engine.model} loads and answers, {took:.1f} s: {engine.description}")
        for warning in engine.warnings:
            yield Finding("warn", where, warning, "see GPU and OpenVINO in docs/usage.md")


def _load(config: Config, _file: Path) -> Iterator[Finding]:
    from streamer.cli.load_estimate import estimate, percent

    load = estimate(config)
    if load is not None and load.total > len(load.devices):
        fix = "`streamer check` prints the tasks that cost most, and the intervals that would fit"
        yield Finding("warn", "load", f"the tasks need up to {percent(load.total)} of the device", fix)
