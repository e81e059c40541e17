"""YOLO (Ultralytics): a folder with `data.yaml`, pictures in `images/` and a text file for each in `labels/`.

A line of a text file is a class number with a box (centre and size) or with the corners of an outline, in fractions of
the picture. A picture without a text file shows no object.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipelines.dataset.labels import DECIMALS, Collector, LabelledObject, LabelledPicture, Labels, read_bytes
from streamer.core import atomic_file
from streamer.core.picture_files import find_pictures, size_of

INDEX = "data.yaml"
_PLACES = DECIMALS + 3
"""Decimals of written fractions, one thousandth of the error of a pixel."""


def read(folder: Path) -> Labels:
    """Read a YOLO folder; the size of each picture is read from its file. Raises ConfigError with file and line."""
    index = folder / INDEX
    names = _names(index)
    collector = Collector(index)
    images = folder / "images"
    pictures = []
    for file in find_pictures(images):
        name = collector.file("images", file.relative_to(images).as_posix())
        width, height = size_of(file)
        text = (folder / "labels" / name).with_suffix(".txt")
        lines = read_bytes(text).decode(errors="replace").splitlines() if text.exists() else []
        objects = [
            _object(collector, f"{text.relative_to(folder)}:{number}", line.split(), names)
            for number, line in enumerate(lines, start=1)
            if line.strip()
        ]
        pictures.append(LabelledPicture(name, width, height, tuple(one for one in objects if one is not None)))
    return Labels(tuple(names.values()), tuple(pictures), dict(collector.left_out))


def _names(index: Path) -> Mapping[int, str]:
    """Return the labels by class number."""
    try:
        data: Any = YAML(typ="safe", pure=True).load(read_bytes(index).decode())
        listed = data["names"]
        pairs = (
            enumerate(listed)
            if isinstance(listed, list)
            else sorted((int(key), value) for key, value in listed.items())
        )
        collector = Collector(index)
        return {number: collector.label("names", str(name)) for number, name in pairs}
    except (YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise _wrong_index(index) from None


def _wrong_index(index: Path) -> Exception:
    return Collector(index).error("names", "must be a list of labels, or labels by class number")


def _object(collector: Collector, where: str, words: list[str], names: Mapping[int, str]) -> LabelledObject | None:
    try:
        number, values = int(words[0]), [float(word) for word in words[1:]]
    except ValueError:
        raise collector.error(where, "must be a class number and fractions of the picture") from None
    if number not in names:
        raise collector.error(where, f"{INDEX} has no class {number}")
    if not all(map(math.isfinite, values)):
        raise collector.error(where, "coordinates must be finite numbers")
    if any(abs(value) > 2 for value in values):
        raise collector.error(where, "must be fractions of the picture, not pixels")
    if len(values) in (4, 5):
        x, y, w, h = values[:4]
        box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        return collector.object(where, names[number], box, score=values[4] if len(values) == 5 else None)
    if len(values) < 6 or len(values) % 2:
        raise collector.error(where, f"{len(values)} numbers are neither a box (4) nor an outline (6, 8, …)")
    return collector.object(where, names[number], outline=[zip(values[::2], values[1::2], strict=True)])


def write(folder: Path, labels: Labels) -> None:
    """Write `data.yaml` and the text files into a folder; the pictures belong into its `images/`. Raises OSError.

    A format of one line per object has no place for an outline of several parts: its box is written.
    """
    numbers = {name: number for number, name in enumerate(labels.names)}
    for picture in labels.pictures:
        text = (folder / "labels" / PurePosixPath(picture.file)).with_suffix(".txt")
        text.parent.mkdir(parents=True, exist_ok=True)
        lines = [" ".join(_words(found, numbers[found.label])) for found in picture.objects]
        atomic_file.write(text, "".join(line + "\n" for line in lines), sync=False)
    out = StringIO()
    # Training takes both sets from here until somebody splits the dataset.
    index = {"path": ".", "train": "images", "val": "images", "names": dict(enumerate(labels.names))}
    YAML(typ="safe", pure=True).dump(index, out)
    atomic_file.write(folder / INDEX, out.getvalue())


def _words(found: LabelledObject, number: int) -> Iterator[str]:
    yield str(number)
    if len(found.outline) == 1:
        yield from (_number(value) for point in found.outline[0] for value in point)
        return
    x0, y0, x1, y1 = found.box
    yield from map(_number, ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0))
    if found.score is not None:
        yield _number(found.score)


def _number(value: float) -> str:
    return f"{value:.{_PLACES}f}".rstrip("0").rstrip(".")
