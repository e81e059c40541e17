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
from streamer.core.ownership import foreign
from streamer.core.paths import cache_home
from streamer.core.work_folder import work_folder

log = logging.getLogger(__name__)

MAX_ENTRIES = 3
"""Entries kept, the ones used last. One takes as much room as the float32 weights of vision tower and encoder."""
_HASHES = "hashes.json"
_CODE = davit, encoder, layers, graphs
"""Modules that a converted model depends on."""


def entry_of(files: CheckpointFiles) -> Path:
    """Return the folder of a checkpoint's entry, which may not exist. Raises ConfigError when there is no place for it.

    A place that another user can write to is none: OpenVINO parses a model in native code. Reads all files of the
    checkpoint.
    """
    home = cache_home() / "openvino"
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        reason = foreign(home)
    except OSError as error:
        raise _unwritable(home, error) from None
    if reason:
        raise ConfigError(reason)
    key = hashlib.sha256(f"{files.digest()} {openvino().__version__} {torch.__version__}".encode())
    for module in _CODE:
        key.update(Path(str(module.__file__)).read_bytes())
    return home / key.hexdigest()[:32]


def read(folder: Path) -> dict[str, Any]:
    """Return the models of an entry by name, empty if there is none. One that is damaged or not ours is deleted."""
    reason = "is damaged"
    try:
        hashes: dict[str, str] = json.loads(atomic_file.read(folder / _HASHES))
        paths = [folder / Path(name).name for name in hashes]
        if foreigner := next(filter(None, map(foreign, (folder, folder / _HASHES, *paths))), None):
            is_whole, reason = False, f"is not trusted ({foreigner})"
        else:
            is_whole = all(sha256_of(path) == found for path, found in zip(paths, hashes.values(), strict=True))
        models = {path.stem: path for path in paths if path.suffix == ".xml"}
    except FileNotFoundError:
        is_whole, models = not folder.exists(), {}
    except (OSError, ValueError, AttributeError, TypeError):
        is_whole, models = False, {}
    if not is_whole:
        log.warning("OpenVINO: cache %s %s: it is made again", folder, reason)
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
    found = (entry for entry in folder.parent.glob("[!.]*") if entry.is_dir())
    entries = sorted(found, key=lambda entry: -_used(entry))
    for entry in entries[MAX_ENTRIES:]:
        log.info("OpenVINO: cache %s deleted: not used for the longest time", entry)
        shutil.rmtree(entry, ignore_errors=True)
        for verdict in folder.parent.glob(f"{entry.name}-*.json"):  # see `trial.py`
            verdict.unlink(missing_ok=True)


def _write(folder: Path, models: Iterable[tuple[str, Any]]) -> None:
    with work_folder(folder.parent) as new:
        for name, model in models:
            openvino().save_model(model, str(new / f"{name}.xml"), compress_to_fp16=False)
        paths = sorted(new.iterdir())
        for path in paths:
            path.chmod(0o600)  # whatever the umask is: what others can write is not trusted
            atomic_file.sync_to_disk(path)
        atomic_file.write(new / _HASHES, json.dumps({path.name: sha256_of(path) for path in paths}, indent=1) + "\n")
        (new / _HASHES).chmod(0o600)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(new, folder)


def _used(entry: Path) -> float:
    with suppress(OSError):
        return entry.stat().st_mtime
    return 0.0


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{folder} cannot be written: {error.strerror}")
