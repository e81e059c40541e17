"""Frames for `streamer model quantize`: from the config's streams, a folder of pictures, a source, or the toy world.

The frames that judge the int8 model are never among those that calibrate it, and a source's are later ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from streamer.cli.source_frames import find_sources, spaced
from streamer.core.errors import ConfigError
from streamer.core.picture_blocks import SeenPictures, picture_blocks
from streamer.core.picture_files import SUFFIXES, find_pictures, read_picture
from streamer.core.redact import redact
from streamer.types import Frame, Image

if TYPE_CHECKING:
    from streamer.capture.interfaces import SourceSettings
    from streamer.config.model import Config

MAX_WIDTH = 1280
"""Pixels; wider pictures are reduced, so that all frames fit into memory. The model reduces them further."""
PROGRESS = 16
"""Frames between two lines of progress."""
MIN_PICTURES = 3
"""Pictures of a stream or folder below which there is nothing to calibrate and to compare."""
CHANGED_BLOCKS = 4
"""Blocks that must be changed for a picture to be another one, as of `SeenPictures`. A clock in the picture changes
fewer."""
FIRST_SEED = 800_000
"""Number of the first toy world; the shipped model was not trained on worlds from here on."""


class FrameSets(NamedTuple):
    """Frames of the config's streams; those of a folder, another source and the toy world have the stream name ""."""

    calibration: list[Frame]
    held_out: list[Frame]


def collect(
    config: Config | None, source: str | None, every: float, counts: tuple[int, int], tell: Callable[[str], None]
) -> FrameSets:
    """Read frames for calibration and as held-out ones, in these `counts` over all streams.

    `source`: the option `--from`. Raises ConfigError or StreamerError when it does not give enough frames.
    """
    total = sum(counts)
    if source is None and config is None:
        tell(f"painting {total} frames of a synthetic camera")
        images = {"": _toy_images(total)}
    elif source is not None and Path(source).expanduser().is_dir():
        images = {"": _folder_images(Path(source).expanduser(), total, tell)}
    else:
        sources = find_sources(config, source)
        images = {
            name: _source_images(name, one, -(-total // len(sources)), every, tell) for name, one in sources.items()
        }
    sets = FrameSets([], [])
    for name, read in images.items():
        found = _distinct(_where(name, source), read, tell)
        cut = min(max(1, round(len(found) * counts[0] / total)), len(found) - 1)
        frames = [Frame(name, 0, index, 0.0, 0.0, None, image) for index, image in enumerate(found)]
        sets.calibration.extend(frames[:cut])
        sets.held_out.extend(frames[cut:])
    return sets


def _where(stream: str, source: str | None) -> str:
    return f"stream {stream}" if stream else redact(f"--from: {source}") if source else "synthetic camera"


def _distinct(where: str, images: Sequence[Image], tell: Callable[[str], None]) -> list[Image]:
    """Return the images that show something, each of them once. Raises ConfigError if there are too few.

    A repeated picture is no further evidence that int8 answers well, however often it is compared.
    """
    kept: list[Image] = []
    seen = SeenPictures(changed=CHANGED_BLOCKS)
    empty = 0
    for image in images:
        blocks = picture_blocks(image)
        if blocks is None:
            empty += 1
        elif seen.add(blocks):
            kept.append(image)
    repeated = len(images) - empty - len(kept)
    skipped = f"{where}: {empty} of {len(images)} frames show nothing (one colour), {repeated} repeat an earlier one"
    if len(kept) < MIN_PICTURES:
        raise ConfigError(
            f"{skipped}; at least {MIN_PICTURES} different ones are needed: choose a time at which the camera sees "
            "what it usually sees, or a larger --every"
        )
    if empty or repeated:
        tell(f"{skipped}; skipped")
    return kept


def _source_images(
    name: str, source: SourceSettings, count: int, every: float, tell: Callable[[str], None]
) -> list[Image]:
    where = f"stream {name}" if name else "source"
    tell(f"{where}: reading {count} frames, one per {every:g} s")
    images: list[Image] = []
    for moment in islice(spaced(source, every, where), count):
        images.append(_ready(moment.image))
        if len(images) % PROGRESS == 0 or len(images) == count:
            tell(f"{where}: {len(images)} of {count} frames")
    if len(images) < count:
        raise ConfigError(
            f"{where}: it ended after {len(images)} frames, one per {every:g} s, and {count} are needed: "
            "choose a smaller --every or --frames"
        )
    return images


def _ready(image: Image) -> Image:
    """Return the image at most MAX_WIDTH wide, read-only."""
    height, width = image.shape[:2]
    if width > MAX_WIDTH:
        size = MAX_WIDTH, max(1, round(height * MAX_WIDTH / width))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    image.flags.writeable = False
    return image


def _folder_images(folder: Path, count: int, tell: Callable[[str], None]) -> list[Image]:
    """Return pictures of a folder in an order that mixes its cameras and times, the same at each call."""
    paths = [*find_pictures(folder)]
    random.Random(0).shuffle(paths)
    tell(f"{folder}: reading {min(count, len(paths))} of {len(paths)} pictures")
    images: list[Image] = []
    for path in paths:
        if len(images) == count:
            break
        try:
            images.append(_ready(read_picture(path)))
        except ConfigError as error:
            tell(f"skipped: {error}")
    if len(images) < MIN_PICTURES:
        raise ConfigError(
            f"--from: {folder} has {len(images)} usable pictures ({', '.join(SUFFIXES)}), and {MIN_PICTURES} are needed"
        )
    return images


def _toy_images(count: int) -> list[Image]:
    from streamer.toyworld.world import World

    return [_ready(World(FIRST_SEED + number).scene(number % 7 / 2).paint(640, 480)) for number in range(count)]
