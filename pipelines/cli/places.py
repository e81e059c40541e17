"""Labels as commands name them: `coco:labels.json`, a format and a path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamer.core.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.dataset.labels import Labels

FORMATS = ("coco", "yolo", "label-studio", "cvat", "review")

LabelPlace = Annotated[str, typer.Argument(metavar="FORMAT:PATH", help=f"Format ({', '.join(FORMATS)}) and path.")]


def read_labels(place: str) -> Labels:
    """Return the labels at a place. Raises ConfigError."""
    module, path = _format(place)
    labels: Labels = module.read(path)
    return labels


def write_labels(place: str, labels: Labels) -> None:
    """Write labels to a place. Raises ConfigError."""
    module, path = _format(place)
    try:
        module.write(path, labels)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None


def _format(place: str) -> tuple[Any, Path]:
    """Return the module of a format, and the path. Raises ConfigError."""
    from pipelines.dataset.formats import coco, cvat, label_studio, review, yolo

    name, _, path = place.partition(":")
    modules = dict(zip(FORMATS, (coco, yolo, label_studio, cvat, review), strict=True))
    if name not in modules or not path:
        raise ConfigError(f"`{place}`: write a format and a path, such as coco:labels.json ({', '.join(FORMATS)})")
    return modules[name], Path(path).expanduser()
