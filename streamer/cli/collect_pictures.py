"""Pictures of a folder or a source for `streamer dataset collect`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from streamer.cli.source_frames import spaced
from streamer.core import atomic_file
from streamer.core.dataset_folder import DatasetFolder
from streamer.core.errors import ConfigError
from streamer.core.jpeg import encode_jpeg
from streamer.core.paths import state_folder
from streamer.core.picture_blocks import from_text, picture_blocks
from streamer.core.picture_files import SUFFIXES, find_pictures, read_picture
from streamer.events.collected import CollectedFolder, masked
from streamer.types import Image, Point
from streamer.types.dataset import PictureRecord

AGENT = "agent:"
"""First part of `--from` for the pictures of an agent."""
QUALITY = 92
"""Quality of a JPEG that is made of a frame."""
PROGRESS = 100
"""Pictures between two lines of progress."""
_UNSAFE = re.compile(r"[^a-zA-Z0-9._-]+")


@dataclass(slots=True)
class Counts:
    """Pictures by their outcome."""

    added: int = 0
    known: int = 0
    """The dataset has a picture of this name."""
    repeated: int = 0
    """A near-duplicate is in the dataset."""
    empty: int = 0
    """All of it has one colour."""
    unreadable: int = 0


def collect_folder(folder: Path, dataset: DatasetFolder, most: int, tell: Callable[[str], None]) -> Counts:
    """Copy the pictures below a folder, but none of the dataset itself, into it, at most `most`. Raises ConfigError."""
    counts, own = Counts(), dataset.path.resolve()
    for path in find_pictures(folder):
        image = path.relative_to(folder).as_posix()
        if path.resolve().is_relative_to(own):
            continue
        if counts.added == most:
            break
        if dataset.has(image):
            counts.known += 1
            continue
        try:
            if not image.isprintable():
                raise ConfigError(f"{path}: its name cannot be printed")
            content = atomic_file.read(path)
            pixels = read_picture(path, content)
        except OSError as error:
            problem = f"{path}: {(error.strerror or 'cannot be read').lower()}"
        except ConfigError as error:
            problem = str(error)
        else:
            _add(dataset, PictureRecord(image), pixels, content, counts, tell)
            continue
        counts.unreadable += 1
        tell(f"skipped: {problem}")
    if counts == Counts():
        raise ConfigError(f"--from: {folder} has no pictures ({', '.join(SUFFIXES)})")
    return counts


def collect_source(
    name: str,
    source: Any,
    masks: Sequence[Sequence[Point]],
    every: float,
    dataset: DatasetFolder,
    most: int,
    tell: Callable[[str], None],
) -> Counts:
    """Add frames of a source to a dataset until it ends, or until there are `most` new ones. Raises StreamerError.

    `name`: the stream, "" if no config has it. `masks`: polygons that are black in the pictures. Times of a recording
    count from the time of its file.
    """
    counts = Counts()
    recording = getattr(source, "path", None) if source.pace == "file" else None
    name = name or _UNSAFE.sub("-", recording.stem if recording else source.kind).strip("-.") or "source"
    begin = recording.stat().st_mtime if recording else None
    for moment in spaced(source, every, name):
        if begin is None:
            taken_at = time.time()
        elif moment.pts is None:
            taken_at = None
        else:
            taken_at = begin + moment.pts
        stamp = f"{moment.pts or 0:011.3f}" if taken_at is None or begin is not None else _stamp(taken_at)
        record = PictureRecord(f"{name}/{stamp}.jpg", name, taken_at)
        if dataset.has(record.image):
            counts.known += 1
            continue
        image = masked(moment.image, masks)
        jpeg = encode_jpeg(image, QUALITY)
        if jpeg is None:
            counts.unreadable += 1
            continue
        _add(dataset, record, image, jpeg.content, counts, tell)
        if counts.added == most:
            break
    return counts


def collect_agent(agent: str, dataset: DatasetFolder, most: int, tell: Callable[[str], None]) -> Counts:
    """Add what the `collect` of an agent has stored, with its answers, in the order of time. Raises ConfigError.

    `agent`: name or state folder. It may run meanwhile.
    """
    folder = CollectedFolder(Path(agent).expanduser() if "/" in agent else state_folder(agent))
    pictures = [one.picture for stream in folder.streams() for one in folder.stored(stream)]
    if not pictures:
        raise ConfigError(f"--from: {folder.path} has no pictures; `collect` of a stream says which an agent stores")
    counts = Counts()
    for picture in sorted(pictures, key=lambda one: one.record.taken_at or 0.0):
        if dataset.has(picture.record.image):
            counts.known += 1
            continue
        content, blocks = folder.read(picture), from_text(picture.record.blocks)
        if content is None or blocks is None:
            counts.unreadable += 1
            tell(f"{folder.path / picture.record.image}: skipped, it is gone or damaged")
        elif dataset.add(picture.record, blocks, content, picture.answers):
            counts.added += 1
        else:
            counts.repeated += 1
        if counts.added == most:
            break
    return counts


def _add(
    dataset: DatasetFolder,
    record: PictureRecord,
    image: Image,
    content: bytes,
    counts: Counts,
    tell: Callable[[str], None],
) -> None:
    blocks = picture_blocks(image)
    if blocks is None:
        counts.empty += 1
    elif not dataset.add(record, blocks, content, ()):
        counts.repeated += 1
    else:
        counts.added += 1
        if counts.added % PROGRESS == 0:
            tell(f"{counts.added} pictures")


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
