"""A model's answers about the pictures of a dataset, as a file that grows: one JSON line per picture and task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipelines.dataset.labels import safe_file
from streamer.core.dataset_folder import ANNOTATIONS
from streamer.core.errors import ConfigError
from streamer.core.json_input import read_json_lines
from streamer.core.json_lines import JsonLinesFile
from streamer.types.dataset import Annotation as Annotation


class AnnotationFile(JsonLinesFile):
    """Appends annotations to a file."""

    def add(self, annotation: Annotation) -> None:
        """Append an annotation. Raises ConfigError."""
        self.add_line(ANNOTATIONS.dump_json(annotation, exclude_defaults=True))


def read_annotations(path: Path, inside: bool = False) -> Iterator[Annotation]:
    """Yield the annotations of a file. Raises ConfigError with file and line.

    `inside`: a picture outside the folder is an error too. Reports have answers about pictures elsewhere.
    """
    for where, annotation in read_json_lines(path, ANNOTATIONS):
        try:
            if inside:
                safe_file(annotation.image)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None
        yield annotation
