"""The result of `streamer dataset review`: a folder of pictures with its file of decisions, read only."""

from __future__ import annotations

from pathlib import Path

from pipelines.dataset.labels import Collector, LabelledObject, LabelledPicture, Labels
from pipelines.dataset.review.decisions import FILE, DecisionFile
from streamer.core.errors import ConfigError
from streamer.core.picture_files import size_of


def read(path: Path) -> Labels:
    """Read the labels of the reviewed pictures in a folder, as people left them. Raises ConfigError."""
    file = path / FILE
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; `streamer dataset review {path}` makes it")
    decisions, collector = DecisionFile(file), Collector(file)
    decisions.refresh()
    pictures = []
    for decision in decisions:
        image = collector.file(f"picture `{decision.image}`", decision.image)
        objects = [
            collector.object(image, collector.label(image, one.label), one.box, one.outline)
            for one in decision.objects
            if one.verdict != "wrong"
        ]
        pictures.append(LabelledPicture(image, *size_of(path / image), tuple(_kept(objects))))
    pictures.sort(key=lambda picture: picture.file)
    names = sorted({one.label for picture in pictures for one in picture.objects})
    return Labels(tuple(names), tuple(pictures), dict(collector.left_out))


def write(path: Path, _: Labels) -> None:
    """Raise ConfigError: a review holds what people decided, and nothing else."""
    raise ConfigError(f"{path}: labels cannot be written as a review; `streamer dataset review --labels` reads them")


def _kept(objects: list[LabelledObject | None]) -> list[LabelledObject]:
    return [one for one in objects if one is not None]
