"""The weights that a training run changes: LoRA adapters on the text part, or all of them."""

from __future__ import annotations

import re
from typing import Any

from pipelines.florence2.finetune.settings import TrainingSettings
from streamer.core.errors import ConfigError

TEXT_LAYERS = r".*language_model\.(?:encoder|decoder)\.layers\..*\.(?:q_proj|k_proj|v_proj|out_proj|fc1|fc2)"
"""Linear layers of the text encoder and decoder, by name. BART's output projection is called `out_proj`."""
VISION_LAYERS = r".*vision_tower\..*\.(?:qkv|proj|fc1|fc2)"
"""Linear layers of the vision tower; its convolutions have the name `conv`."""


def prepared(model: Any, settings: TrainingSettings) -> Any:
    """Return the model with the weights to be trained unfrozen, all others frozen. Raises ConfigError without peft.

    A tied output head stays tied: adapters never touch it.
    """
    model.requires_grad_(False)
    if settings.full:
        for name, weights in model.named_parameters():
            weights.requires_grad = settings.vision or ".language_model." in f".{name}" or name.startswith("lm_head")
        return model
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        raise ConfigError("training adapters needs peft: run `pip install 'florence-streamer[lora]'`") from None
    pattern = f"(?:{TEXT_LAYERS}|{VISION_LAYERS})" if settings.vision else TEXT_LAYERS
    linear = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    if not linear:
        raise ConfigError("this model has no layers that adapters are made for")
    lora = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, target_modules=linear)
    return get_peft_model(model, lora)


def merged(model: Any) -> Any:
    """Return the model of transformers with its adapters, if it has any, merged into its weights."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def plain(model: Any) -> Any:
    """Return the model of transformers, whose layers contain the adapters."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
