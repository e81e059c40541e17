"""Shared memory for frames: files in the runtime directory (a tmpfs), owned by the consumers.

Each consumer creates a few files, each sized once for the largest picture (sparse: memory is used as it is written) and
never truncated. Capture maps the file that a request names and writes into it. It never creates or removes one.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
import stat
from collections import OrderedDict
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from streamer.core.errors import WireError
from streamer.core.picture_limits import MAX_PIXELS
from streamer.types import Image

BUFFER_BYTES = 3 * MAX_PIXELS

_NAME = re.compile(r"[a-z]+-(\d{1,10})-[0-9a-f]{8}-\d{1,9}\.buf")
"""Owner (role, process id, random part) and index."""
_MAX_MAPPED = 64
"""Buffers that capture keeps mapped, for all consumers together."""


def buffers_directory(runtime: Path) -> Path:
    """Return the folder of the buffers of all consumers."""
    return runtime / "buffers"


class NoBuffer(Exception):
    """Raised when all buffers hold frames or wait for one. Settle a frame, then fetch again."""


class BufferLost(Exception):
    """Raised when the file of a buffer was deleted or cut by another program. Its owner makes a new one."""


class OwnBuffers:
    """A consumer's buffers. Not thread-safe."""

    def __init__(self, runtime: Path, owner: str, number: int) -> None:
        self._directory = buffers_directory(runtime)
        self._owner = owner
        self._made = 0
        self._maps: dict[str, mmap.mmap] = {}
        self._free: list[str] = []
        self._directory.mkdir(mode=0o700, exist_ok=True)
        _remove_orphans(self._directory)
        for _ in range(number):
            self._add()

    def reserve(self) -> str:
        """Reserve a buffer and return its name. Raises NoBuffer."""
        if not self._free:
            raise NoBuffer("all frame buffers are in use")
        return self._free.pop()

    def release(self, name: str) -> None:
        self._free.append(name)

    def replace(self, name: str) -> None:
        """Make a new buffer in place of a reserved one that is lost. Raises OSError."""
        del self._maps[name]
        (self._directory / name).unlink(missing_ok=True)
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self._add()

    def view(self, name: str, width: int, height: int) -> Image:
        """Return the picture in a buffer, read-only, without copying."""
        pixels = np.frombuffer(self._maps[name], np.uint8, count=3 * width * height)
        return pixels.reshape(height, width, 3)

    def read(self, name: str, size: int) -> bytes:
        """Return a copy of the first bytes in a buffer."""
        return self._maps[name][:size]

    def close(self) -> None:
        """Remove the files. Pictures that are still referenced stay readable."""
        for name in self._maps:
            (self._directory / name).unlink(missing_ok=True)
        self._maps.clear()
        self._free.clear()

    def _add(self) -> None:
        """Make a buffer with a new name: capture processes may still map the file of an earlier one."""
        name = f"{self._owner}-{self._made}.buf"
        self._made += 1
        self._maps[name] = self._create(name)
        self._free.append(name)

    def _create(self, name: str) -> mmap.mmap:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._directory / name, flags, 0o600)
        try:
            os.ftruncate(descriptor, BUFFER_BYTES)
            return mmap.mmap(descriptor, BUFFER_BYTES, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)


def _remove_orphans(directory: Path) -> None:
    """Remove the buffers of killed processes: nothing else frees their memory."""
    for path in directory.glob("*.buf"):
        match = _NAME.fullmatch(path.name)
        if match and not Path("/proc", match[1]).exists():
            path.unlink(missing_ok=True)


class _Mapped:
    """One buffer, mapped by capture."""

    def __init__(self, directory: Path, name: str) -> None:
        """Raises BufferLost, or OSError when memory or descriptors are short."""
        with ExitStack() as undo:
            self._descriptor = _open_buffer(directory, name)
            undo.callback(os.close, self._descriptor)
            status = os.fstat(self._descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != os.geteuid():
                raise BufferLost("not a buffer file")
            self._check_size()
            self._map = mmap.mmap(self._descriptor, BUFFER_BYTES)
            undo.pop_all()
        self._reserved = 0

    def _check_size(self) -> None:
        """Raise BufferLost for a file that was cut: writing beyond its end would end the process (SIGBUS)."""
        if os.fstat(self._descriptor).st_size != BUFFER_BYTES:
            raise BufferLost("not of a buffer's size")

    def view(self, width: int, height: int) -> Image:
        self._check_size()
        size = 3 * width * height
        if size > self._reserved:
            # Makes a full tmpfs an OSError here instead of a SIGBUS while writing.
            os.posix_fallocate(self._descriptor, 0, size)
            self._reserved = size
        return np.frombuffer(self._map, np.uint8, count=size).reshape(height, width, 3)

    def close(self) -> None:
        os.close(self._descriptor)  # the mapping is freed with its last view


def _open_buffer(directory: Path, name: str) -> int:
    """Return a descriptor of a buffer file. The folder is opened each time: it may have been deleted and made again."""
    folder = -1
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        raise BufferLost(f"no such buffer: {error.strerror}") from None
    finally:
        if folder >= 0:
            os.close(folder)


class MappedBuffers:
    """Capture's mappings of the consumers' buffers, checked and mapped at first use. Not thread-safe."""

    def __init__(self, runtime: Path) -> None:
        self._directory = buffers_directory(runtime)
        self._mapped: OrderedDict[str, _Mapped] = OrderedDict()

    def view(self, name: str, owner: str, width: int, height: int) -> Image:
        """Return the buffer as a writable picture.

        Raises WireError when it is not a buffer of that owner, BufferLost when its file is not as the owner made it,
        OSError when memory, descriptors or the space of the tmpfs are short.
        """
        if _NAME.fullmatch(name) is None or not name.startswith(f"{owner}-"):
            raise WireError(f"{name!r} is not the name of a buffer of {owner}")
        if width * height > MAX_PIXELS:
            raise WireError("the picture is larger than a buffer")
        if name not in self._mapped:
            self._mapped[name] = _Mapped(self._directory, name)
        self._mapped.move_to_end(name)
        while len(self._mapped) > _MAX_MAPPED:
            self._mapped.popitem(last=False)[1].close()
        try:
            return self._mapped[name].view(width, height)
        except BufferLost:
            self._mapped.pop(name).close()
            raise

    def unmap_owner(self, owner: str) -> None:
        """Unmap the buffers of a dead owner."""
        for name in [name for name in self._mapped if name.startswith(f"{owner}-")]:
            self._mapped.pop(name).close()

    def close(self) -> None:
        while self._mapped:
            self._mapped.popitem()[1].close()
