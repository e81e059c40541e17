"""The origin of each set and model of a dataset: one JSON line for each finished step of a round, `lineage.jsonl`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pipelines.florence2.checkpoint_files import sha256_of
from streamer.core.errors import ConfigError
from streamer.core.json_input import read_json_lines
from streamer.core.json_lines import JsonLinesFile

FILE = "lineage.jsonl"


@dataclass(frozen=True, slots=True)
class StepRecord:
    """A finished step. Hashes are SHA-256 in hexadecimal, by name of the file, model or set."""

    round: int
    step: str
    at: str
    """Time of its end, UTC."""
    settings: Mapping[str, Any]
    """Settings of the round."""
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    counts: Mapping[str, Any]
    """Numbers of pictures, objects, examples and the like."""


_ADAPTER: TypeAdapter[StepRecord] = TypeAdapter(StepRecord)


class Lineage:
    """The finished steps of all rounds of a dataset."""

    def __init__(self, folder: Path) -> None:
        """Read the file of a dataset's folder, if there is one. Raises ConfigError with the line of a fault."""
        self.path = folder / FILE
        if self.path.exists():
            JsonLinesFile(self.path).close()  # removes a line that a crash cut off
        self.records = [one for _, one in read_json_lines(self.path, _ADAPTER)] if self.path.exists() else []

    @property
    def last_round(self) -> int:
        """Number of the newest round; 0 without one."""
        return max((one.round for one in self.records), default=0)

    def find(self, number: int, step: str) -> StepRecord | None:
        """Return the newest record of a step of a round."""
        return next((one for one in reversed(self.records) if (one.round, one.step) == (number, step)), None)

    def add(
        self,
        number: int,
        step: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        outputs: Mapping[str, str],
        counts: Mapping[str, Any],
    ) -> StepRecord:
        """Append a record and return once it is on the disk. Raises ConfigError."""
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        record = StepRecord(number, step, now, settings, inputs, outputs, counts)
        with JsonLinesFile(self.path) as file:
            file.add_line(_ADAPTER.dump_json(record))
        self.records.append(record)
        return record


def file_hashes(paths: Iterable[Path]) -> dict[str, str]:
    """Return the hashes of files by their names. Raises ConfigError."""
    try:
        return {path.name: sha256_of(path) for path in paths}
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be read: {error.strerror}") from None


def pictures_hash(folder: Path, images: Iterable[str]) -> str:
    """Return one hash of the names and contents of pictures. Raises ConfigError."""
    digest = hashlib.sha256()
    for image in images:
        (content,) = file_hashes([folder / image]).values()
        digest.update(f"{content} {image}\n".encode())
    return digest.hexdigest()
