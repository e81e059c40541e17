"""The folder of a dataset: pictures, and `pictures.jsonl` with a line for each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from streamer.core import atomic_file
from streamer.core.closing import Closing
from streamer.core.errors import ConfigError
from streamer.core.json_input import read_json_lines
from streamer.core.json_lines import JsonLinesFile
from streamer.core.picture_blocks import PictureBlocks, SeenPictures, from_text, to_text
from streamer.types.dataset import ANSWERS, PICTURES, Annotation, PictureRecord

RECORDS: TypeAdapter[PictureRecord] = TypeAdapter(PictureRecord)
ANNOTATIONS: TypeAdapter[Annotation] = TypeAdapter(Annotation)


class DatasetFolder(Closing):
    """Adds pictures to a dataset. The line of a picture is written last: what a crash leaves is made again."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError for a folder that cannot be used, or with the place of a fault in its lines."""
        self.path = path
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be made: {error.strerror}") from None
        self._records = JsonLinesFile(path / PICTURES)
        self._answers: JsonLinesFile | None = None
        records = read_records(path)
        self._images = set(records)
        kept = [from_text(record.blocks) for record in records.values()]
        self._seen = SeenPictures([blocks for blocks in kept if blocks is not None])

    def close(self) -> None:
        for file in (self._answers, self._records):
            if file is not None:
                file.close()

    def has(self, image: str) -> bool:
        """Return whether the dataset has a picture of this name."""
        return image in self._images

    def add(self, record: PictureRecord, blocks: PictureBlocks, content: bytes, answers: Iterable[Annotation]) -> bool:
        """Add a picture; return False for a near-duplicate. `record.image` must be a safe path in the folder.

        Raises ConfigError if it cannot be written.
        """
        if not self._seen.add(blocks):
            return False
        path = self.path / record.image
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_file.write_bytes(path, content)
            for answer in answers:
                if self._answers is None:
                    self._answers = JsonLinesFile(self.path / ANSWERS)
                self._answers.add_line(ANNOTATIONS.dump_json(answer, exclude_defaults=True))
            whole = replace(record, blocks=to_text(blocks), sha256=hashlib.sha256(content).hexdigest())
            self._records.add_line(RECORDS.dump_json(whole, exclude_defaults=True))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
        self._images.add(record.image)
        return True


def read_records(folder: Path) -> dict[str, PictureRecord]:
    """Return the records of a dataset by picture; none without `pictures.jsonl`. Raises ConfigError."""
    path = folder / PICTURES
    return {record.image: record for _, record in read_json_lines(path, RECORDS)} if path.exists() else {}
