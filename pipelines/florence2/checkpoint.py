"""Loads a checkpoint's weights and tokenizer with the native Florence-2 classes."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, Florence2Config, Florence2ForConditionalGeneration, GenerationConfig
from transformers.utils import logging as hf_logging

from pipelines.florence2.checkpoint_files import CheckpointFiles
from pipelines.florence2.image_settings import ImageSettings
from pipelines.florence2.tasks import BINS
from streamer.core.errors import ConfigError

log = logging.getLogger(__name__)

_HEAD, _EMBEDDING = "lm_head.weight", "model.language_model.shared.weight"
_SMALL = 50_000_000
"""Parameters below which float32 is quick enough on a CPU."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model and what it takes to use it."""

    name: str
    model: Any
    """Florence2ForConditionalGeneration, in evaluation mode on its device."""
    tokenizer: Any
    first_location: int
    """Id of `<loc_0>`; the others follow it in a row."""
    images: ImageSettings
    generation: GenerationConfig
    banned_phrases: frozenset[str]
    encoder_limit: int
    """Tokens a prompt may have, the image's included."""
    decoder_limit: int
    """Tokens an answer may have."""


def load(folder: CheckpointFiles, device: str, dtype: str) -> Checkpoint:
    """Read `folder` into memory. Raises ConfigError when the checkpoint or the device cannot be used."""
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    place = _device(device)
    size, tied = _weights(folder)
    number = _dtype(dtype, place, size)
    log.info("loading %s (%.1f M parameters, %s on %s)", folder.name, size / 1e6, str(number)[6:], place)
    started = time.monotonic()
    model = _model(folder, tied, number, place)
    text = model.config.text_config
    tokenizer, first_location = _tokenizer(folder)
    log.info("loaded %s in %.1f s", folder.name, time.monotonic() - started)
    return Checkpoint(
        name=folder.name,
        model=model,
        tokenizer=tokenizer,
        first_location=first_location,
        images=folder.images,
        generation=_generation(folder, text),
        banned_phrases=folder.banned_phrases,
        encoder_limit=text.max_position_embeddings,
        decoder_limit=text.max_position_embeddings,
    )


def _device(wanted: str) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"no such device: {wanted} (this machine offers {count} to this program); try device: auto")
    return device


def _dtype(wanted: str, device: torch.device, size: int) -> torch.dtype:
    if wanted != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[wanted]
    return torch.float32 if device.type == "cpu" and size < _SMALL else torch.bfloat16


def _weights(folder: CheckpointFiles) -> tuple[int, bool]:
    """(Number of parameters, whether the output head is the embedding). Fine-tunes exist where it is not."""
    size, found = 0, {}
    for path in folder.weights:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118  (not a mapping)
                    size += math.prod(file.get_slice(key).get_shape())
                    if key in (_HEAD, _EMBEDDING):
                        found[key] = file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"checkpoint {folder.name}: {path.name} is damaged: {error}") from None
    head, embedding = found.get(_HEAD), found.get(_EMBEDDING)
    tied = head is None or embedding is None or torch.equal(head, embedding)
    if not tied:
        log.info("the output head of %s differs from its embedding: kept untied", folder.name)
    return size, tied


def _model(folder: CheckpointFiles, tied: bool, dtype: torch.dtype, device: torch.device) -> Any:
    try:
        config = Florence2Config.from_dict({**folder.config, "tie_word_embeddings": tied})
        loaded: Any = Florence2ForConditionalGeneration.from_pretrained(
            folder.path,
            config=config,
            dtype=dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        model, info = loaded
        model.to(device)
    except torch.OutOfMemoryError:
        raise ConfigError(f"checkpoint {folder.name} does not fit into the memory of {device}") from None
    # Whatever stands in a checkpoint's files, the libraries answer with exceptions of every kind.
    except Exception as error:
        raise ConfigError(f"checkpoint {folder.name} cannot be loaded: {error}") from error
    # The library fills gaps with random numbers, which would answer nonsense.
    if missing := sorted(info["missing_keys"]):
        raise ConfigError(f"checkpoint {folder.name} is not complete: {len(missing)} weights such as {missing[0]}")
    return model.eval().requires_grad_(False)


def _tokenizer(folder: CheckpointFiles) -> tuple[Any, int]:
    """The tokenizer, and its id of `<loc_0>`."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # As above: a damaged file can end in anything.
        raise ConfigError(f"checkpoint {folder.name}: its tokenizer cannot be loaded: {error}") from error
    known = tokenizer.get_vocab()
    ids = [known.get(f"<loc_{index}>") for index in range(BINS)]
    if ids[0] is None or ids != list(range(ids[0], ids[0] + BINS)):
        raise ConfigError(f"checkpoint {folder.name} is not a Florence-2: its tokenizer lacks the location tokens")
    return tokenizer, ids[0]


def _generation(folder: CheckpointFiles, text: Any) -> GenerationConfig:
    start = {"decoder_start_token_id": text.decoder_start_token_id}
    return GenerationConfig.from_dict({**start, **folder.generation})
