"""Opens a checkpoint: checks its weights and loads its tokenizer. The weights are read when an engine is built."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import Any

import torch

from pipelines.florence2.architecture import Architecture
from pipelines.florence2.card import card_of
from pipelines.florence2.checkpoint_files import CheckpointFiles
from pipelines.florence2.dtype import choose
from pipelines.florence2.generation_settings import GenerationSettings
from pipelines.florence2.image_settings import ImageSettings
from pipelines.florence2.tokenizer import Tokenizer, load_tokenizer
from pipelines.florence2.weights import Weights, find_weights
from streamer.core.errors import ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that an engine can be built from."""

    name: str
    files: CheckpointFiles
    architecture: Architecture
    weights: Weights
    tokenizer: Tokenizer
    first_location: int
    """Token id of `<loc_0>`; the other locations follow it."""
    images: ImageSettings
    generation: GenerationSettings
    """The generation settings that the fast engine knows; `files` has all."""
    banned_phrases: frozenset[str]
    max_positions: int
    """Maximum length in tokens of a prompt, the image's included, and of an answer."""
    runs_in: str
    """Device and number type, with the reason for the type, for users."""
    network: Any = None
    """The model of transformers, where reading the weights needed it."""


def load(files: CheckpointFiles, device: str, dtype: str) -> Checkpoint:
    """Open a checkpoint. Raises ConfigError when the checkpoint or the device cannot be used."""
    torch_device = _device(device)
    architecture = Architecture.read(files.name, files.config)
    settings = GenerationSettings.read(files.name, files.generation)
    stored = find_weights(files.name, files.weights)
    size = sum(math.prod(weight.shape) for weight in stored.values())
    choice = choose(dtype, torch_device, size)
    card = card_of(torch_device)
    runs_in = f"{torch_device}{f' ({card})' if card else ''}, {str(choice.dtype)[6:]} ({choice.reason})"
    log.info("loading %s (%.1f M parameters) on %s", files.name, size / 1e6, runs_in)
    weights, network = Weights(files.name, stored, choice.dtype, torch_device), None
    if not weights.is_tied:
        log.info("the output head of %s differs from its embedding: kept untied", files.name)
    is_plain = weights.fit(architecture.shapes())
    if files.adapter is not None or not is_plain:
        from pipelines.florence2.transformers_model import load_model

        if not is_plain:
            log.info("weights of %s: read with transformers, their names, shapes or types are unusual", files.name)
        network = load_model(files, weights.is_tied, choice.dtype, torch_device)
        weights = Weights(files.name, network.state_dict(), choice.dtype, torch_device)
    tokenizer, first_location = load_tokenizer(files)
    return Checkpoint(
        name=files.name,
        files=files,
        architecture=architecture,
        weights=weights,
        tokenizer=tokenizer,
        first_location=first_location,
        images=files.images,
        generation=settings,
        banned_phrases=files.banned_phrases,
        max_positions=architecture.text.max_position_embeddings,
        runs_in=runs_in,
        network=network,
    )


def _device(name: str) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device(("cuda" if count else "cpu") if name == "auto" else name)
    if device.type != "cuda":
        return device
    # Some functions of torch need the index.
    index = device.index or 0
    if index >= count:
        raise ConfigError(f"no such device: {name} (this process sees {count} CUDA devices); try device: auto")
    return torch.device("cuda", index)
