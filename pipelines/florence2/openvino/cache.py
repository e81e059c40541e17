"""Keeps converted models on disk, so that only the first start with a checkpoint converts it.

An entry is a folder with OpenVINO models and a list of their hashes. The list is written last and checked before use,
so an entry is complete and undamaged, or it is made again. Its name is a hash of all that the models depend on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from pipelines.florence2.checkpoint_files import CheckpointFiles, sha256_of
from pipelines.florence2.fast import davit, encoder, layers
from pipelines.florence2.openvino import graphs
from pipelines.florence2.openvino.library import openvino
from streamer.core import atomic_file
from streamer.core.errors import ConfigError
from streamer.core.paths import cache_home

log = logging.getLogger(__name__)

MAX_ENTRIES = 3
"""Entries kept, the ones used last. One takes as much room as the float32 weights of vision tower and encoder."""
_HASHES = "hashes.json"
_CODE = davit, encoder, layers, graphs
"""Modules that a converted model depends on."""


def entry_of(files: CheckpointFiles) -> Path:
    """Return the folder of a checkpoint's entry, which may not exist. Raises ConfigError when there is no place for it.

    Reads all files of the checkpoint.
    """
    home = cache_home() / "openvino"
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise _unwritable(home, error) from None
    key = hashlib.sha256(f"{files.digest()} {openvino().__version__} {torch.__version__}".encode())
    for module in _CODE:
        key.update(Path(str(module.__file__)).read_bytes())
    return home / key.hexdigest()[:32]


def read(folder: Path) -> dict[str, Any]:
    """Return the models of an entry by name, empty if there is none; a damaged one is deleted."""
    try:
        hashes: dict[str, str] = json.loads(atomic_file.read(folder / _HASHES))
        is_whole = all(sha256_of(folder / Path(name).name) == found for name, found in hashes.items())
        models = {Path(name).stem: folder / name for name in hashes if name.endswith(".xml")}
    except FileNotFoundError:
        is_whole, models = not folder.exists(), {}
    except (OSError, ValueError, AttributeError, TypeError):
        is_whole, models = False, {}
    if not is_whole:
        log.warning("OpenVINO: cache %s is damaged: it is made again", folder)
        shutil.rmtree(folder, ignore_errors=True)
        return {}
    with suppress(OSError):
        os.utime(folder)  # used now
    return models


def write(folder: Path, models: Iterable[tuple[str, Any]]) -> None:
    """Make an entry, and delete those that were not used for the longest time. Raises ConfigError if that fails.

    `models` are an `openvino.Model` each, with its name. Each is written before the next one is asked for.
    """
    try:
        _write(folder, models)
    except OSError as error:
        raise _unwritable(folder.parent, error) from None
    entries = sorted((entry for entry in folder.parent.iterdir() if entry.is_dir()), key=lambda entry: -_used(entry))
    for entry in entries[MAX_ENTRIES:]:
        log.info("OpenVINO: cache %s deleted: not used for the longest time", entry)
        shutil.rmtree(entry, ignore_errors=True)
        for verdict in folder.parent.glob(f"{entry.name}-*.json"):  # see `trial.py`
            verdict.unlink(missing_ok=True)


def _write(folder: Path, models: Iterable[tuple[str, Any]]) -> None:
    new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
    try:
        for name, model in models:
            openvino().save_model(model, str(new / f"{name}.xml"), compress_to_fp16=False)
        paths = sorted(new.iterdir())
        for path in paths:
            atomic_file.sync_to_disk(path)
        atomic_file.write(new / _HASHES, json.dumps({path.name: sha256_of(path) for path in paths}, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(new, folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def _used(entry: Path) -> float:
    with suppress(OSError):
        return entry.stat().st_mtime
    return 0.0


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{folder} cannot be written: {error.strerror}")
