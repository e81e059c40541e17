"""A model's answers about the pictures of a dataset, as a file that grows: one JSON line per picture and task."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from pipelines.json_input import read_json_lines
from streamer.core.errors import ConfigError
from streamer.types import Answer, Region


@dataclass(frozen=True, slots=True)
class Annotation:
    """One answer about one picture."""

    image: str
    """Path of the picture, relative to the dataset's folder."""
    task: str
    answer: Answer
    model: str
    """Checkpoint, with a hash of its weights: `tiny@1f3a…`; or `person:` and a name."""
    text: str | None = None
    region: Region | None = None
    stream: str | None = None
    """Camera of the picture; None if unknown."""
    taken_at: float | None = None
    """Unix seconds; None if unknown."""

    @property
    def key(self) -> tuple[str, str, str | None, Region | None, str]:
        """Equal for two answers of one model to one question."""
        return self.image, self.task, self.text, self.region, self.model


_ADAPTER: TypeAdapter[Annotation] = TypeAdapter(Annotation)


class AnnotationFile:
    """Appends annotations to a file. A line that was cut off by a crash is removed when the file is opened."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError for a file that cannot be used."""
        self.path = path
        try:
            self._file = path.open("ab+")
            self._file.seek(0)
            content_end = end = 0
            for line in self._file:
                end += len(line)
                if line.endswith(b"\n"):
                    content_end = end
            self._file.truncate(content_end)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be opened: {error.strerror}") from None

    def add(self, annotation: Annotation) -> None:
        """Append an annotation. Raises OSError."""
        self._file.write(_ADAPTER.dump_json(annotation, exclude_defaults=True) + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Return once all annotations are on the disk. Raises OSError."""
        os.fsync(self._file.fileno())
        self._file.close()


def read_annotations(path: Path) -> Iterator[Annotation]:
    """Yield the annotations of a file. Raises ConfigError with file and line."""
    for _, annotation in read_json_lines(path, _ADAPTER):
        yield annotation
