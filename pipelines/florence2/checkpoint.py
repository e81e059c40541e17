"""Loads a checkpoint's weights and tokenizer with the Florence-2 classes of transformers."""

from __future__ import annotations

import logging
import math
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, Florence2Config, Florence2ForConditionalGeneration, GenerationConfig
from transformers.utils import logging as hf_logging

from pipelines.florence2.checkpoint_files import CheckpointFiles
from pipelines.florence2.dtype import choose
from pipelines.florence2.image_settings import ImageSettings
from pipelines.florence2.tasks import BINS
from streamer.core.errors import ConfigError
from streamer.core.reasons import reason_of

log = logging.getLogger(__name__)

_HEAD, _EMBEDDING = "lm_head.weight", "model.language_model.shared.weight"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model with its tokenizer and settings."""

    name: str
    model: Any
    """Florence2ForConditionalGeneration, in evaluation mode on its device."""
    tokenizer: Any
    first_location: int
    """Token id of `<loc_0>`; the other locations follow it."""
    images: ImageSettings
    generation: GenerationConfig
    banned_phrases: frozenset[str]
    max_positions: int
    """Maximum length in tokens of a prompt, the image's included, and of an answer."""
    runs_in: str
    """Device and number type, with the reason for the type, for users."""


def load(files: CheckpointFiles, device: str, dtype: str) -> Checkpoint:
    """Load a checkpoint into memory. Raises ConfigError when the checkpoint or the device cannot be used."""
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    torch_device = _device(device)
    size, tied = _weights(files)
    choice = choose(dtype, torch_device, size)
    runs_in = f"{torch_device}, {str(choice.dtype)[6:]} ({choice.reason})"
    log.info("loading %s (%.1f M parameters) on %s", files.name, size / 1e6, runs_in)
    started = time.monotonic()
    model = _model(files, tied, choice.dtype, torch_device)
    text = model.config.text_config
    start = {"decoder_start_token_id": text.decoder_start_token_id}
    tokenizer, first_location = _tokenizer(files)
    log.info("loaded %s in %.1f s", files.name, time.monotonic() - started)
    return Checkpoint(
        name=files.name,
        model=model,
        tokenizer=tokenizer,
        first_location=first_location,
        images=files.images,
        generation=GenerationConfig.from_dict(start | files.generation),
        banned_phrases=files.banned_phrases,
        max_positions=text.max_position_embeddings,
        runs_in=runs_in,
    )


def _device(name: str) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"no such device: {name} (this process sees {count} CUDA devices); try device: auto")
    return device


def _weights(files: CheckpointFiles) -> tuple[int, bool]:
    """Return the number of parameters, and whether the output head equals the embedding (not in all fine-tunes)."""
    size, found = 0, {}
    for path in files.weights:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118  (not a mapping)
                    size += math.prod(file.get_slice(key).get_shape())
                    if key in (_HEAD, _EMBEDDING):
                        found[key] = file.get_tensor(key)
        except (SafetensorError, OSError):
            raise ConfigError(f"checkpoint {files.name}: {path.name} is damaged") from None
    head, embedding = found.get(_HEAD), found.get(_EMBEDDING)
    tied = head is None or embedding is None or torch.equal(head, embedding)
    if not tied:
        log.info("the output head of %s differs from its embedding: kept untied", files.name)
    return size, tied


def _model(files: CheckpointFiles, tied: bool, dtype: torch.dtype, device: torch.device) -> Any:
    try:
        config = Florence2Config.from_dict({**files.config, "tie_word_embeddings": tied})
        loaded: Any = Florence2ForConditionalGeneration.from_pretrained(
            files.path,
            config=config,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        model, info = loaded
        model.to(device)
    except torch.OutOfMemoryError:
        raise ConfigError(f"checkpoint {files.name} does not fit into the memory of {device}") from None
    # The libraries raise any exception on damaged or foreign files.
    except Exception as error:
        raise ConfigError(f"checkpoint {files.name} cannot be loaded: {reason_of(error, 'model')}") from error
    # transformers fills missing weights with random numbers.
    if missing := sorted(info["missing_keys"]):
        raise ConfigError(f"checkpoint {files.name} is not complete: {len(missing)} weights such as {missing[0]}")
    if files.adapter is not None:
        model = _merged(model, files.name, files.adapter)
    return model.eval().requires_grad_(False)


def _merged(model: Any, name: str, adapter: Path) -> Any:
    """Return the model with a LoRA adapter merged into its weights."""
    try:
        from peft import PeftModel
    except ImportError:
        raise ConfigError(
            f"checkpoint {name} is a LoRA adapter, which needs peft: run `pip install 'florence-streamer[lora]'`"
        ) from None
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(model, str(adapter), local_files_only=True).merge_and_unload()
    # The libraries raise any exception on damaged or foreign files.
    except Exception as error:
        log.debug("adapter %s", name, exc_info=True)
        raise ConfigError(f"checkpoint {name}: its LoRA adapter does not fit its base or is damaged") from error
    if missing := [str(warning.message) for warning in warned if "missing adapter keys" in str(warning.message)]:
        log.debug("adapter %s: %s", name, missing[0])
        raise ConfigError(f"checkpoint {name}: its LoRA adapter does not fit its base: weights are missing")
    return model


def _tokenizer(files: CheckpointFiles) -> tuple[Any, int]:
    """Return the tokenizer and its id of `<loc_0>`."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as in `_model`
        raise ConfigError(
            f"checkpoint {files.name}: its tokenizer cannot be loaded: {reason_of(error, 'model')}"
        ) from error
    known = tokenizer.get_vocab()
    ids = [known.get(f"<loc_{index}>") for index in range(BINS)]
    if ids[0] is None or ids != list(range(ids[0], ids[0] + BINS)):
        raise ConfigError(f"checkpoint {files.name} is not a Florence-2: its tokenizer lacks the location tokens")
    return tokenizer, ids[0]
