"""The checkpoint as an object of transformers: for the reference engine, LoRA adapters and files of another layout.

Importing transformers takes seconds, so this module is imported only where it is needed.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, Florence2Config, Florence2ForConditionalGeneration
from transformers.utils import logging as hf_logging

from pipelines.florence2.checkpoint_files import CheckpointFiles
from streamer.core.errors import ConfigError
from streamer.core.reasons import reason_of

log = logging.getLogger(__name__)
hf_logging.set_verbosity_error()
hf_logging.disable_progress_bar()


def load_model(files: CheckpointFiles, is_tied: bool, dtype: torch.dtype, device: torch.device) -> Any:
    """Return a Florence2ForConditionalGeneration in evaluation mode. Raises ConfigError when the files cannot be used.

    `is_tied`: whether the output head equals the embedding.
    """
    try:
        config = Florence2Config.from_dict({**files.config, "tie_word_embeddings": is_tied})
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


def load_tokenizer(path: Path) -> Any:
    """Return the tokenizer of transformers. Raises any exception on damaged files."""
    return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
