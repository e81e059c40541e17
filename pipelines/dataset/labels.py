"""Pictures with labelled objects, as all file formats are read into and written from, and the checks of their values.

A file of labels comes from outside: its names could leave the dataset's folder, and its numbers can be anything.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipelines.florence2.tasks import MODEL_TOKEN
from streamer.core.boxes import Rect, bounds
from streamer.core.errors import ConfigError
from streamer.core.picture_limits import MAX_SIDE
from streamer.types import Point

MAX_FILE_BYTES = 512 << 20
"""Largest file of labels that is read; that of COCO's 118,000 training pictures has 450 MB."""
MAX_OBJECTS = 5_000_000
"""Most objects of one dataset."""
MAX_LABEL = 200
"""Most characters of a label."""
DECIMALS = 6
"""Decimals of written pixels. Rounding hides the error of a division by the size and a multiplication with it."""


@dataclass(frozen=True, slots=True)
class LabelledObject:
    """One object in a picture."""

    label: str
    box: Rect
    outline: tuple[tuple[Point, ...], ...] = ()
    """Its visible parts, each a polygon of at least three corners; empty if only the box is known."""
    score: float | None = None
    """0 to 1; None if a person labelled it."""

    @property
    def certainty(self) -> float:
        """The score; 1 for an object that a person labelled."""
        return 1.0 if self.score is None else self.score


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """One picture; all its objects are labelled, so no objects means that it shows none."""

    file: str
    """Path relative to the folder of the pictures, with `/`."""
    width: int
    """Pixels, as height; 0 if the file of labels does not say."""
    height: int
    objects: tuple[LabelledObject, ...] = ()


@dataclass(frozen=True, slots=True)
class Labels:
    """The content of a file or folder of labels."""

    names: tuple[str, ...]
    """All labels that the dataset knows, in its order."""
    pictures: tuple[LabelledPicture, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Number of objects that could not be read, by reason."""


class Collector:
    """Checks the objects of a file while it is read. Its errors name the file and the place in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left_out: Counter[str] = Counter()
        self._objects = 0
        self._files: set[str] = set()

    def error(self, where: str, problem: str) -> ConfigError:
        return ConfigError(f"{self.path}: {where}: {problem}")

    def file(self, where: str, name: str) -> str:
        """Return the name of a picture. Raises ConfigError if it is unsafe, or was there before."""
        try:
            safe = safe_file(name)
        except ValueError as error:
            raise self.error(where, str(error)) from None
        if safe in self._files:
            raise self.error(where, f"the picture `{safe}` is listed twice")
        self._files.add(safe)
        return safe

    def label(self, where: str, text: str) -> str:
        try:
            return checked_label(text)
        except ValueError as error:
            raise self.error(where, str(error)) from None

    def size(self, where: str, width: int, height: int) -> tuple[int, int]:
        if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
            raise self.error(where, f"the size {width}x{height} is not within 1 to {MAX_SIDE}")
        return width, height

    def object(
        self,
        where: str,
        label: str,
        box: Rect | None = None,
        outline: Iterable[Iterable[Point]] = (),
        score: float | None = None,
    ) -> LabelledObject | None:
        """Return an object, clipped to the picture; None, counted in `left_out`, if nothing of it is in the picture.

        Coordinates are fractions. Without a box it is that of the outline. Raises ConfigError.
        """
        self._objects += 1
        if self._objects > MAX_OBJECTS:
            raise self.error(where, f"more than {MAX_OBJECTS} objects")
        if score is not None and not 0 <= score <= 1:
            raise self.error(where, f"the score {score} is not within 0 to 1")
        parts = tuple(tuple((_clip(x), _clip(y)) for x, y in part) for part in outline)
        if box is None:
            points = [point for part in parts for point in part]
            if not points:
                raise self.error(where, "an object without box and outline")
            box = bounds(points)
        if not all(map(math.isfinite, box)) or any(math.isnan(value) for part in parts for p in part for value in p):
            raise self.error(where, "coordinates must be finite numbers")
        x0, y0, x1, y1 = map(_clip, box)
        if x0 >= x1 or y0 >= y1:
            self.left_out["no area in the picture"] += 1
            return None
        return LabelledObject(label, (x0, y0, x1, y1), tuple(part for part in parts if len(part) >= 3), score)


def rotated(box: Rect, degrees: float, about: Point, width: int, height: int) -> tuple[Point, ...]:
    """Return the four corners of a box after a clockwise rotation in pixels about a point; all in fractions."""
    x0, y0, x1, y1 = box
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = []
    for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1)):
        right, down = (x - about[0]) * width, (y - about[1]) * height
        corners.append((about[0] + (right * cos - down * sin) / width, about[1] + (right * sin + down * cos) / height))
    return tuple(corners)


def pixels(value: float, size: int) -> float:
    """Return a fraction of `size` in pixels, as written into files."""
    return round(value * size, DECIMALS)


def safe_file(name: str) -> str:
    """Return the name of a picture. Raises ValueError if it could leave the folder, or is no name for a file."""
    path = PurePosixPath(name.replace("\\", "/"))
    if not name or not name.isprintable():
        raise ValueError("a picture needs a printable name")
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise ValueError(f"`{name}` leaves the folder of the pictures")
    if len(str(path).encode()) > 1024 or any(len(part.encode()) > 255 for part in path.parts):
        raise ValueError(f"`{name[:40]}…` is too long for a file name")
    return str(path)


def checked_label(text: str) -> str:
    """Return a label without outer spaces. Raises ValueError."""
    label = text.strip()
    if not label or len(label) > MAX_LABEL or not label.isprintable():
        raise ValueError(f"a label has 1 to {MAX_LABEL} printable characters")
    if token := MODEL_TOKEN.search(label):
        raise ValueError(f"the label `{label}` contains the model token {token[0]}")
    return label


def read_bytes(path: Path) -> bytes:
    """Return the content of a file of labels. Raises ConfigError."""
    try:
        if not path.is_file():
            raise ConfigError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB; split the dataset")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _clip(value: float) -> float:
    return value if math.isnan(value) else min(max(value, 0.0), 1.0)
