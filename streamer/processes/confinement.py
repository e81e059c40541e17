"""Confinement of a capture process: FFmpeg reads bytes from outside, so the process gets only what its camera needs.

It can read the program, the libraries and its source's own files, write in the runtime folder, and connect to the ports
of its source. It can read no ledger, config or file of another camera, and run no program. Open files, memory and core
files are limited.
"""

from __future__ import annotations

import os
import resource
import site
import sys
import sysconfig
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import streamer
from streamer.capture.interfaces import SourceSettings
from streamer.core import landlock, loopback
from streamer.core.memory_limit import limit_memory

MAX_DESCRIPTORS = 256
"""Open files of a capture process. A camera needs about 20, a playlist with several connections 40."""
STACK_BYTES = 2 << 20
"""Stack of a thread, instead of 8 MB: all of it counts towards the memory limit."""
GATEWAY_PORTS = 4
"""Ports to serve this process itself. The RTSP gateways need one for each family of addresses."""
_DNS_PORT = 53
"""Long answers of a name server come over TCP."""
_LIBRARIES = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/sys/devices/system")
_NETWORK = (
    "/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf", "/etc/services",
    "/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/crypto-policies", "/run/systemd/resolve",
)  # fmt: skip
"""Settings of name resolution and TLS."""
_GRAPHICS = ("/sys", "/proc", "/etc/OpenCL", "/etc/vulkan", "/etc/drirc", "/run/nvidia-persistenced")
"""Files that drivers of graphics cards read. They also map gigabytes, so that memory is not limited."""
_CLOCK = ("/etc/localtime", "/etc/timezone")
_COMMON_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


class Confinement:
    """The restrictions of this process, which last as long as it runs."""

    def __init__(self, source: SourceSettings, runtime: Path) -> None:
        """Restrict this process. Call it before threads are started: only later ones are restricted. Raises OSError."""
        needs = source.needs() if hasattr(source, "needs") else landlock.Rules()
        decodes_on_card = getattr(source, "hwaccel", "none") != "none"
        files, devices = [*map(Path, (*_NETWORK, *_CLOCK)), *needs.read], list(needs.devices)
        self._runtime, self._known_runtime = runtime, _identity(runtime)
        self._known = KnownFiles([*files, *devices])
        rules = landlock.Rules(
            read=[*map(Path, (*_LIBRARIES, *(_GRAPHICS if decodes_on_card else ()))), *program(), *files],
            write=[runtime],
            devices=[*map(Path, _COMMON_DEVICES), *devices],
            connect=[*needs.connect, _DNS_PORT] if needs.connect else needs.connect,
            serve=loopback.reserve(GATEWAY_PORTS) if needs.connect else (),
        )
        _limit(resource.RLIMIT_CORE, 0)  # a core file would hold the password of the camera
        _limit(resource.RLIMIT_NOFILE, MAX_DESCRIPTORS)
        threading.stack_size(STACK_BYTES)
        if not decodes_on_card:
            limit_memory()
        landlock.restrict(rules)

    def is_runtime_replaced(self) -> bool:
        """Return True if the runtime folder was deleted and made again: this process cannot use the new one."""
        return _identity(self._runtime) not in (None, self._known_runtime)

    def replaced(self) -> Path | None:
        """Return a file or device that was replaced since the start, such as a camera that was plugged in again.

        The rules hold for files, not for names, so only a new process can use it.
        """
        return self._known.replaced()


class KnownFiles:
    """Files by name, as they are now."""

    def __init__(self, paths: Sequence[Path]) -> None:
        folders = [path.resolve() for path in map(Path, (*_LIBRARIES, *_NETWORK)) if path.is_dir()]
        self._identities = {
            path: _identity(path)
            for path in paths
            if not any(path.resolve().is_relative_to(folder) for folder in folders)  # all files in them are allowed
        }

    def replaced(self) -> Path | None:
        """Return one whose name is now that of another file."""
        return next((path for path, known in self._identities.items() if _identity(path) != known), None)


@cache
def program() -> Sequence[Path]:
    """Return the folders of Python, of the installed packages, of this program and of the loaded libraries.

    The fork server calls it once for all its children: looking for them takes 1.6 MB.
    """
    return tuple(dict.fromkeys(_program()))


def _program() -> Iterator[Path]:
    yield from map(Path, (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix))
    yield from map(Path, sysconfig.get_paths().values())
    yield from map(Path, streamer.__path__)
    if site.ENABLE_USER_SITE:
        yield Path(site.getusersitepackages())
    working = Path.cwd()  # often in `sys.path`, and often the state folder
    yield from (place for place in map(Path, sys.path) if place.resolve() != working)
    for line in Path("/proc/self/maps").read_text().splitlines():
        if ".so" in line:
            yield Path(line.split(maxsplit=5)[5]).parent
    yield from map(Path, filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":")))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _limit(kind: int, value: int) -> None:
    """Lower a resource limit to `value`, soft and hard."""
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
