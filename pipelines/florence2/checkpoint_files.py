"""Finds a checkpoint's folder and checks its files without loading the model. Code in a checkpoint is never run."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.florence2.image_settings import ImageSettings
from streamer.core.errors import ConfigError
from streamer.core.model_name import HASH_SHOWN, model_name

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent / "models" / "tiny"
"""Folder of the small model that is part of the package."""
_HUB_FILES = ("*.json", "*.safetensors", "merges.txt")
_CODE_KEYS = ("auto_map", "custom_pipelines", "trust_remote_code")
_REMOTE_CODE = re.compile(r"microsoft/(florence-2-.+)", re.IGNORECASE)
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_ADAPTER, _ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_DEFAULT_POSITIONS = 1024
"""Maximum positions of a checkpoint whose config does not name them."""
_GENERATION_KEYS = (
    *("num_beams", "no_repeat_ngram_size", "early_stopping", "length_penalty"),
    *("forced_bos_token_id", "forced_eos_token_id", "bos_token_id", "eos_token_id", "pad_token_id"),
    "decoder_start_token_id",
)
_BART_TOKENS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2} | {
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
"""Token ids of a text config that does not name them."""


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """A complete checkpoint on disk."""

    name: str
    """Model name in events."""
    path: Path
    config: dict[str, Any]
    generation: dict[str, Any]
    images: ImageSettings
    banned_phrases: frozenset[str]
    weights: tuple[Path, ...]
    adapter: Path | None = None
    """Folder of the LoRA adapter that is merged into the weights when they are loaded."""

    @property
    def max_positions(self) -> int:
        """Maximum prompt length in tokens, the image's included."""
        return int(self.config["text_config"].get("max_position_embeddings", _DEFAULT_POSITIONS))

    def digest(self) -> str:
        """Return a hash of all that the model's numbers depend on: settings, weights and adapter. Reads every file."""
        digest = hashlib.sha256(f"{self.config} {self.images}".encode())
        adapter = sorted(path for path in self.adapter.iterdir() if path.is_file()) if self.adapter else []
        for path in (*self.weights, *adapter):
            digest.update(bytes.fromhex(sha256_of(path)))
        return digest.hexdigest()

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in float32."""
        stored = sum(path.stat().st_size for path in self.weights)
        return stored * (2 if str(self.config.get("dtype") or self.config.get("torch_dtype")).endswith("16") else 1)

    def checked_digest(self, start: str) -> str:
        """Return `digest`. Raises ConfigError if it does not begin with `start`, or if a file cannot be read."""
        try:
            found = self.digest()
        except OSError as error:
            raise ConfigError(f"checkpoint {self.name} cannot be read: {error.strerror}") from None
        if not found.startswith(start):
            raise ConfigError(
                f"checkpoint {self.name} has the hash {found[:HASH_SHOWN]}, not {start[:HASH_SHOWN]}: "
                "its files are not those that were chosen"
            )
        return found

    def with_hash(self, start: str) -> CheckpointFiles:
        """Return the files with their hash in the name. Raises ConfigError as `checked_digest` does."""
        return replace(self, name=model_name(self.name, self.checked_digest(start)))

    def with_image_size(self, side: int | None) -> CheckpointFiles:
        """Return the files with pictures of `side` pixels; None: the checkpoint's own size. Raises ConfigError."""
        if side is None:
            return self
        return replace(
            self, images=self.images.resized(self.name, side, self.config["vision_config"], self.max_positions)
        )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def open_folder(checkpoint: str | None, download: bool = True) -> CheckpointFiles:
    """Return the files of a checkpoint: a local folder, else a name on the hub; None is the shipped model.

    A folder of a LoRA adapter stands for its base checkpoint, which its `adapter_config.json` names.

    A hub checkpoint is downloaded once and then read from the cache; with `download=False` only from the cache. Raises
    ConfigError when the checkpoint is missing, incomplete or not a Florence-2.
    """
    if checkpoint is None:
        if not SHIPPED.is_dir():
            raise ConfigError(f"the small model is missing from this installation ({SHIPPED}): name a checkpoint")
        return _read("tiny", SHIPPED)
    path = Path(checkpoint).expanduser()
    if (path / _ADAPTER).is_file():
        return _adapted(path, download)
    if path.is_dir():
        return _read(path.resolve().name, path)
    if path.exists():
        raise ConfigError(f"checkpoint {checkpoint} is a file; a checkpoint is a folder")
    if checkpoint.startswith((".", "/", "~")):
        raise ConfigError(f"no such checkpoint folder: {checkpoint}")
    return _read(checkpoint, _download(checkpoint, cached=not download))


def _adapted(path: Path, download: bool) -> CheckpointFiles:
    """Return the files of the base checkpoint of the adapter at `path`."""
    name = path.resolve().name
    settings = _load_json(path / _ADAPTER)
    _check_code(name, settings)
    base = settings.get("base_model_name_or_path")
    if settings.get("peft_type") != "LORA" or not isinstance(base, str) or not base:
        raise ConfigError(f"{path / _ADAPTER} does not describe a LoRA adapter: it needs peft_type LORA and its base")
    if not (path / _ADAPTER_WEIGHTS).is_file():
        raise _missing(name, path, _ADAPTER_WEIGHTS)
    if (Path(base).expanduser() / _ADAPTER).is_file():
        raise ConfigError(f"checkpoint {name} is an adapter of {base}, which is an adapter too: merge that one first")
    try:
        files = open_folder(base, download)
    except ConfigError as error:
        raise ConfigError(
            f"checkpoint {name} is an adapter of {base}, which cannot be used: {error}. "
            f"Write the folder of its base into {path / _ADAPTER} as base_model_name_or_path"
        ) from None
    return replace(files, name=name, adapter=path)


def _download(name: str, cached: bool) -> Path:
    if match := _REMOTE_CODE.fullmatch(name):
        raise _remote_code(name, match[1])
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
    )

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # each failed attempt is a warning with an exception
    try:
        # The small file first, so that a wrong name fails before a long download.
        _check_config(name, _load_json(Path(hf_hub_download(name, "config.json", local_files_only=cached))))
        return Path(snapshot_download(name, allow_patterns=list(_HUB_FILES), local_files_only=cached))
    except HFValidationError:
        raise ConfigError(f"checkpoint {name} is neither a folder here nor a name on the hub") from None
    except GatedRepoError:
        raise ConfigError(f"checkpoint {name} is gated on the hub: ask for access there and log in") from None
    except RepositoryNotFoundError:
        raise ConfigError(f"checkpoint {name} is not on the hub, and there is no such folder here") from None
    except RemoteEntryNotFoundError:
        raise ConfigError(f"checkpoint {name} is not a Florence-2: it has no config.json") from None
    except LocalEntryNotFoundError:
        raise ConfigError(
            f"checkpoint {name} is not in the local cache and the hub cannot be reached: "
            "check the connection, or give the folder of a downloaded checkpoint"
        ) from None
    except HfHubHTTPError as error:
        raise ConfigError(f"checkpoint {name}: the hub answered {error.response.status_code}, try again") from None


def _read(name: str, path: Path) -> CheckpointFiles:
    for needed in ("config.json", "tokenizer.json"):
        if not (path / needed).is_file():
            raise _missing(name, path, needed)
    config = _load_json(path / "config.json")
    _check_config(name, config)
    processor, tokenizer = (_optional_json(path / file) for file in ("processor_config.json", "tokenizer_config.json"))
    images = _optional_json(path / "preprocessor_config.json") or processor.get("image_processor")
    if not images:
        raise _missing(name, path, "preprocessor_config.json")
    for content in (processor, tokenizer, images):
        _check_code(name, content)
    rules = processor.get("post_processor_config") or {}
    return CheckpointFiles(
        name=name,
        path=path,
        config=config,
        generation=_generation(path, config),
        images=ImageSettings.read(name, images, config["vision_config"]),
        banned_phrases=frozenset(rules.get("phrase_grounding", {}).get("banned_grounding_tokens", ())),
        weights=_weight_files(name, path),
    )


def _check_config(name: str, config: dict[str, Any]) -> None:
    _check_code(name, config)
    parts = [config, config.get("text_config") or {}, config.get("vision_config") or {}]
    kinds = [part.get("model_type") for part in parts]
    if kinds[0] == "florence2" and kinds[1:] != ["bart", "florence_vision"]:
        raise _remote_code(name)
    if kinds[0] != "florence2":
        raise ConfigError(f"checkpoint {name} is not a Florence-2: its model_type is {kinds[0]!r}")


def _check_code(name: str, content: Any) -> None:
    if found := next(_code_keys(content), None):
        raise _remote_code(name, reason=found)


def _code_keys(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        yield from (key for key in _CODE_KEYS if content.get(key))
        content = list(content.values())
    if isinstance(content, list):
        for part in content:
            yield from _code_keys(part)


def _remote_code(name: str, suffix: str = "Florence-2-base", reason: str | None = None) -> ConfigError:
    detail = f" ({reason})" if reason else ""
    return ConfigError(
        f"checkpoint {name} brings code of its own{detail}, which is never run: "
        f"use the native conversion instead, for example florence-community/{suffix}"
    )


def _weight_files(name: str, path: Path) -> tuple[Path, ...]:
    if (path / _INDEX).is_file():
        index = _load_json(path / _INDEX).get("weight_map", {})
        files = sorted({path / part for part in index.values()})
    else:
        files = [path / _WEIGHTS]
    for file in files:
        if not file.is_file():
            raise _missing(name, path, file.name)
    return tuple(files)


def _generation(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the generation settings, with the start token from the text config, as in transformers.

    Old checkpoints have all of them in config.json, where transformers drops all but token ids.
    """
    text = config["text_config"]
    if found := _optional_json(path / "generation_config.json"):
        return {"decoder_start_token_id": text.get("decoder_start_token_id", 2)} | found
    sections = (text, config)
    own = {key: section[key] for section in sections for key in _GENERATION_KEYS if section.get(key) is not None}
    return _BART_TOKENS | own


def _missing(name: str, path: Path, file: str) -> ConfigError:
    return ConfigError(f"checkpoint {name} is not complete: {file} is missing in {path}")


def _optional_json(path: Path) -> dict[str, Any]:
    return _load_json(path) if path.is_file() else {}


def _load_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{path} cannot be read: it is not JSON") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} cannot be read: it does not hold a JSON object")
    return content
