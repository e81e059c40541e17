"""The stored int8 model of a checkpoint: OpenVINO models and the report that admits tasks.

The report is written last and names its files with their hashes, so a model is complete, or there is none.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.florence2.checkpoint_files import CheckpointFiles, sha256_of
from pipelines.florence2.openvino.instructions import instructions
from streamer.core import atomic_file
from streamer.core.errors import ConfigError
from streamer.core.ownership import foreign
from streamer.core.paths import state_home

FORMAT = 3
"""Number of the graphs and the report in this version; another one is not used."""
FOLDER = "int8.models"
"""Name of the folder of all int8 models; with a dot, as no agent's name has one."""
REPORT = "report.json"
REPEAT = "run `streamer model quantize` again"


@dataclass(frozen=True, slots=True)
class Int8Model:
    """An int8 model that passed, of the checkpoint as it is now."""

    tasks: frozenset[str]
    """Tasks that it may run."""
    files: Mapping[str, Path]
    """OpenVINO models by name."""
    dtype: str
    """Number type of the rest of the engine with which it was compared."""


def folder_of(checkpoint: str | None) -> Path:
    """Return the folder of a checkpoint's int8 model. Raises ConfigError for a user without a home."""
    given = os.environ.get("STATE_DIRECTORY")
    home = Path(given) if given else state_home()
    local = Path(checkpoint).expanduser() if checkpoint else None
    name = str(local.resolve()) if local and local.is_dir() else checkpoint or ""
    return home / FOLDER / hashlib.sha256(name.encode()).hexdigest()[:16]


def content_key(files: CheckpointFiles) -> str:
    """Return a hash of everything in a checkpoint that its answers depend on."""
    return hashlib.sha256(f"{FORMAT} {files.digest()}".encode()).hexdigest()


def processor_key() -> str:
    """Return a hash of the instructions of this processor, on which times and roundings of int8 depend."""
    return hashlib.sha256(instructions().encode()).hexdigest()


def write(folder: Path, models: Mapping[str, Path], report: dict[str, Any]) -> None:
    """Put the models (files by name) and the report in place of older ones. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    names: dict[str, dict[str, str]] = {}
    for name, file in models.items():
        hashes = {part: sha256_of(part) for part in (file, file.with_suffix(".bin"))}
        unique = hashlib.sha256("".join(hashes.values()).encode()).hexdigest()[:16]
        names[name] = {f"{name}-{unique}{part.suffix}": found for part, found in hashes.items()}
        for part, target in zip(hashes, names[name], strict=True):
            part.chmod(0o600)
            os.replace(part, folder / target)
    for path in folder.iterdir():
        if path.is_file():
            atomic_file.sync_to_disk(path)
    atomic_file.write(folder / REPORT, json.dumps({**report, "format": FORMAT, "files": names}, indent=1) + "\n")
    (folder / REPORT).chmod(0o600)
    kept = {REPORT, *(part for parts in names.values() for part in parts)}
    for path in folder.iterdir():
        if path.name not in kept:
            with suppress(OSError):
                path.unlink()


def find(checkpoint: str | None, files: CheckpointFiles) -> Int8Model | None:
    """Return the checkpoint's int8 model, or None if none was made. Raises ConfigError with why it must not be used."""
    try:
        folder = folder_of(checkpoint)
    except ConfigError:
        return None  # no home folder, so there is no model
    try:
        if not (folder / REPORT).exists():
            return None
        _check_owner(folder, folder / REPORT)
        return _read(folder, json.loads(atomic_file.read(folder / REPORT)), files)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be read: {error.strerror}; {REPEAT}") from None
    # Anything can be in a damaged report: a wrong type, a missing key, brackets nested deeper than Python allows.
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError):
        raise ConfigError(f"its report {folder / REPORT} is damaged; {REPEAT}") from None


def _read(folder: Path, report: dict[str, Any], files: CheckpointFiles) -> Int8Model:
    """Return the model of a report. Raises OSError, ConfigError, and others for a damaged report."""
    if report["format"] != FORMAT or report["key"] != content_key(files):
        raise ConfigError(f"the checkpoint, its image size or the program has changed since it was made; {REPEAT}")
    if report["processor"] != processor_key():
        raise ConfigError(f"it was compared on another processor, or with another ONEDNN_MAX_CPU_ISA; {REPEAT}")
    tasks = frozenset(name for name, row in report["tasks"].items() if row["passed"] is True)
    if not tasks:
        raise ConfigError(f"no task passed the comparison, see {folder / REPORT}; {REPEAT}, or set `int8: off`")
    models = {}
    for name, hashes in report["files"].items():
        for part, found in hashes.items():
            path = folder / Path(part).name
            _check_owner(path)
            if sha256_of(path) != found:
                raise ConfigError(f"its file {path} is damaged; {REPEAT}")
        models[name] = next(folder / Path(part).name for part in hashes if part.endswith(".xml"))
    if "vision" not in models:
        raise ValueError("no vision tower")
    return Int8Model(tasks, models, str(report["dtype"]))


def _check_owner(*paths: Path) -> None:
    for path in paths:
        if reason := foreign(path):
            raise ConfigError(f"{reason}; {REPEAT}")
