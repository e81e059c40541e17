"""The pictures of a dataset's folder with their cameras and times, as `pictures.jsonl` names them."""

from __future__ import annotations

from pathlib import Path

from pipelines.dataset.annotate import Shot
from streamer.core.dataset_folder import read_records
from streamer.core.picture_files import find_pictures
from streamer.core.progress import tell
from streamer.types.dataset import PictureRecord


def find_shots(folder: Path) -> list[Shot]:
    """Return the pictures below a folder in the order of their names, which can be printed. Raises ConfigError."""
    records = read_records(folder)
    shots = []
    for path in find_pictures(folder):
        image = path.relative_to(folder).as_posix()
        if not image.isprintable():
            tell(f"skipped: {path}: its name cannot be printed")
            continue
        record = records.get(image, PictureRecord(image))
        shots.append(Shot(image, record.stream, record.taken_at))
    return shots
