"""The files of snapshots: `<state>/snapshots/<stream>/<id of the result's event>.jpg`.

A new file may be deleted after some minutes. One that an incident names is marked by its mode: only reading is allowed.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path

from streamer.core import atomic_file
from streamer.core.errors import SnapshotError
from streamer.core.reasons import reason_of
from streamer.events.result_data import Snapshot

FOLDER = "snapshots"
"""Folder in the state folder of the agent."""
SUFFIX = ".jpg"
KEPT_MODE = 0o400
"""Mode of a file that an incident names."""
_EVENT = re.compile(r"[0-9a-f]{32}")
_STREAM = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class SnapshotFolder:
    """The snapshots of an agent."""

    def __init__(self, state: Path, name: str = FOLDER) -> None:
        """`state`: the state folder of the agent. `name`: folder in it."""
        self.path = state / name

    def file(self, stream: str, event: str) -> Path:
        """Return the path of the snapshot of a result. Raises SnapshotError for names that no result has."""
        if not (_STREAM.fullmatch(stream) and _EVENT.fullmatch(event)):
            raise SnapshotError("no snapshot has such a name: the id of an event has 32 hexadecimal digits")
        return self.path / stream / f"{event}{SUFFIX}"

    def write(self, stream: str, event: str, jpeg: bytes) -> None:
        """Store a snapshot. It outlives the process; `keep` makes it outlive a power loss. Raises OSError."""
        file = self.file(stream, event)
        try:
            atomic_file.write_bytes(file, jpeg, sync=False)
        except FileNotFoundError:  # the first one, or the empty folder was deleted
            for folder in (self.path, file.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
            atomic_file.write_bytes(file, jpeg, sync=False)

    def read(self, stream: str, event: str, snapshot: Snapshot | None) -> bytes:
        """Return the JPEG that `snapshot` describes. Raises SnapshotError if the file is gone or has other content."""
        file = self.file(stream, event)
        if snapshot is None:
            raise SnapshotError(f"result {event} of stream {stream} has no snapshot")
        try:
            content = atomic_file.read(file)
        except FileNotFoundError:
            raise SnapshotError(f"the snapshot of result {event} of stream {stream} is no longer kept") from None
        except OSError as error:
            reason = reason_of(error, "snapshots")
            raise SnapshotError(f"the snapshot of result {event} of stream {stream} is unreadable: {reason}") from None
        if len(content) != snapshot.bytes or hashlib.sha256(content).hexdigest() != snapshot.sha256:
            raise SnapshotError(
                f"the snapshot of result {event} of stream {stream} is damaged: its hash is not that of the event"
            )
        return content

    def find(self, stream: str, event: str) -> Path | None:
        """Return the path of a snapshot that is still kept, else None."""
        with suppress(SnapshotError, OSError):
            file = self.file(stream, event)
            return file if file.is_file() else None
        return None

    def keep(self, stream: str, event: str) -> None:
        """Mark a snapshot as one that an incident names, and return once it is on the disk. Raises OSError."""
        descriptor = os.open(self.file(stream, event), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, KEPT_MODE)
            os.utime(descriptor)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        atomic_file.sync_to_disk(self.path / stream)

    def renew(self, stream: str, event: str) -> None:
        """Let the age of a snapshot begin again: an incident may still name it. Raises OSError."""
        os.utime(self.file(stream, event), follow_symlinks=False)
