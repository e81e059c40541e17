"""Collected pictures of an agent: `<state>/collected/<stream>/<id>.jpg`, each with its answers in `<id>.json`.

The JSON file is written last. A picture without one, or with another hash, is incomplete.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from pydantic import TypeAdapter, ValidationError

from streamer.core import atomic_file
from streamer.core.boxes import Rect, area, bounds, covered
from streamer.core.errors import SnapshotError
from streamer.core.jpeg import encode_jpeg
from streamer.core.picture_blocks import picture_blocks, to_text
from streamer.events.snapshots.folder import SUFFIX, SnapshotFolder
from streamer.types import Answer, Image, Point
from streamer.types.dataset import CollectedPicture

FOLDER = "collected"
"""Folder in the state folder of the agent."""
QUALITY = 92
"""Quality of a JPEG that is made again because of its masks."""
INCOMPLETE_S = 60.0
"""Age from which a picture without its JSON file is that of a killed process."""
_ADAPTER: TypeAdapter[CollectedPicture] = TypeAdapter(CollectedPicture)


class StoredPicture(NamedTuple):
    """A picture that is stored, and when."""

    picture: CollectedPicture
    stored_at: float
    """Unix second."""


class CollectedFolder:
    """The collected pictures of an agent. Each stream is written by one process at a time, by rules for feedback."""

    def __init__(self, state: Path) -> None:
        """`state`: the state folder of the agent."""
        self._files = SnapshotFolder(state, FOLDER)
        self.path = self._files.path

    def write(self, stream: str, event: str, picture: CollectedPicture, jpeg: bytes) -> None:
        """Store a picture under the id of an event. Raises OSError."""
        self._files.write(stream, event, jpeg)
        path = self._files.file(stream, event).with_suffix(".json")
        atomic_file.write_bytes(path, _ADAPTER.dump_json(picture, exclude_defaults=True) + b"\n")

    def streams(self) -> list[str]:
        """Return the names of the streams that have pictures."""
        with suppress(OSError):
            return sorted(entry.name for entry in os.scandir(self.path) if entry.is_dir(follow_symlinks=False))
        return []

    def stored(self, stream: str) -> list[StoredPicture]:
        """Return the pictures of a stream, the oldest first. Files of another version are passed over."""
        found = []
        for path in self._paths(stream, ".json"):
            with suppress(OSError, ValidationError, SnapshotError):
                self._files.file(stream, path.stem)
                picture = _ADAPTER.validate_json(atomic_file.read(path))
                if picture.record.image == f"{stream}/{path.stem}{SUFFIX}":
                    found.append(StoredPicture(picture, path.stat().st_mtime))
        return sorted(found, key=lambda one: (one.picture.record.taken_at or 0.0, one.stored_at))

    def read(self, picture: CollectedPicture) -> bytes | None:
        """Return the JPEG of a picture; None if it is gone or damaged."""
        with suppress(OSError):
            content = atomic_file.read(self.path / picture.record.image)
            if hashlib.sha256(content).hexdigest() == picture.record.sha256:
                return content
        return None

    def sweep(self, stream: str, keep: float, max_bytes: int, now: float) -> None:
        """Delete the pictures of a stream that are older than `keep` seconds, and the oldest above `max_bytes`."""
        left, files = 0, []
        for path in self._paths(stream, SUFFIX):
            with suppress(OSError):
                found, beside = path.stat(follow_symlinks=False), path.with_suffix(".json")
                size = beside.stat().st_size if beside.exists() else 0
                age = now - found.st_mtime
                if age > keep or (not size and age > INCOMPLETE_S):
                    _delete(path)
                else:
                    left += found.st_size + size
                    files.append((found.st_mtime, found.st_size + size, path))
        for _, size, path in sorted(files):
            if left <= max_bytes:
                return
            _delete(path)
            left -= size

    def _paths(self, stream: str, ending: str) -> Iterator[Path]:
        with suppress(OSError):
            for entry in os.scandir(self.path / stream):
                if entry.name.endswith(ending) and entry.is_file(follow_symlinks=False):
                    yield Path(entry.path)


def _delete(path: Path) -> None:
    """Delete a picture: its JSON file first, so that no line names a picture that is gone."""
    with suppress(OSError):
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink()


def masked(image: Image, masks: Sequence[Sequence[Point]]) -> Image:
    """Return a copy of a picture with these polygons in black; the picture itself if there are none."""
    if not masks:
        return image
    copy, (height, width) = image.copy(), image.shape[:2]
    for mask in masks:
        corners = np.rint(np.array(mask) * (width, height)).astype(np.int32)
        cv2.fillPoly(copy, [corners], (0, 0, 0))
    return copy


def masked_jpeg(jpeg: bytes, masks: Sequence[Sequence[Point]]) -> tuple[bytes, str | None]:
    """Return a JPEG with these polygons in black, and its blocks as text. Raises SnapshotError if it is no picture."""
    image: Any = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise SnapshotError("the snapshot is not a picture")
    image = masked(image, masks)
    encoded = encode_jpeg(image, QUALITY) if masks else None
    blocks = picture_blocks(image)
    return encoded.content if encoded else jpeg, None if blocks is None else to_text(blocks)


def unmasked(answer: Answer, masks: Sequence[Sequence[Point]]) -> Answer:
    """Return an answer without what it says about masked places: shapes with half of their box in them, and all texts,
    which can be about any place."""
    if not masks:
        return answer

    def is_visible(box: Rect) -> bool:
        return all(covered(box, mask) < 0.5 * area(box) for mask in masks)

    return Answer(
        boxes=tuple(box for box in answer.boxes if is_visible((box.x0, box.y0, box.x1, box.y1))),
        polygons=tuple(one for one in answer.polygons if one.points and is_visible(bounds(one.points))),
    )
