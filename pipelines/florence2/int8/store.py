"""The stored int8 model of a checkpoint: two OpenVINO models and the report that admits tasks.

The report is written last and names its files with their hashes, so a model is complete, or there is none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.florence2.checkpoint_files import CheckpointFiles, sha256_of
from streamer.core import atomic_file
from streamer.core.errors import ConfigError
from streamer.core.paths import state_home

log = logging.getLogger(__name__)

FORMAT = 1
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


def write(folder: Path, models: Mapping[str, Path], report: dict[str, Any]) -> None:
    """Put the models (files by name) and the report in place of older ones. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    names: dict[str, dict[str, str]] = {}
    for name, file in models.items():
        hashes = {part: sha256_of(part) for part in (file, file.with_suffix(".bin"))}
        unique = hashlib.sha256("".join(hashes.values()).encode()).hexdigest()[:16]
        names[name] = {f"{name}-{unique}{part.suffix}": found for part, found in hashes.items()}
        for part, target in zip(hashes, names[name], strict=True):
            os.replace(part, folder / target)
    for path in folder.iterdir():
        if path.is_file():
            atomic_file.sync_to_disk(path)
    atomic_file.write(folder / REPORT, json.dumps({"format": FORMAT, "files": names, **report}, indent=1) + "\n")
    kept = {REPORT, *(part for parts in names.values() for part in parts)}
    for path in folder.iterdir():
        if path.name not in kept:
            with suppress(OSError):
                path.unlink()


def find(checkpoint: str | None, files: CheckpointFiles) -> Int8Model | None:
    """Return the checkpoint's int8 model, or None: there is none, no task passed, or it does not fit (logged)."""
    try:
        folder = folder_of(checkpoint)
        report = json.loads(atomic_file.read(folder / REPORT))
    except FileNotFoundError:
        return None
    except ConfigError:
        return None  # no home folder, so there is no model
    except (OSError, ValueError):
        _warn(files.name, "its report is damaged")
        return None
    try:
        if report["format"] != FORMAT or report["key"] != content_key(files):
            _warn(files.name, "the checkpoint, its image size or the program has changed since it was made")
            return None
        tasks = frozenset(name for name, row in report["tasks"].items() if row["passed"] is True)
        hashes = {folder / part: found for parts in report["files"].values() for part, found in parts.items()}
        if any(sha256_of(part) != found for part, found in hashes.items()):
            raise ValueError("a file has another hash")
        models = {
            name: next(folder / part for part in parts if part.endswith(".xml"))
            for name, parts in report["files"].items()
        }
        return Int8Model(tasks, models, report["dtype"]) if tasks and models else None
    except (OSError, KeyError, TypeError, AttributeError, ValueError, StopIteration):
        _warn(files.name, "its files are damaged")
        return None


def _warn(name: str, reason: str) -> None:
    log.warning("int8 model of %s not used: %s; %s", name, reason, REPEAT)
