"""A checkpoint's generation settings, with the meaning that they have in transformers. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from streamer.core.errors import ConfigError
from streamer.core.settings import in_words

Ids = int | list[int]

_WITHOUT_EFFECT = {
    # Replaced by the task's max_tokens.
    *("max_length", "max_new_tokens"),
    # Only used by sampling, which no engine does.
    *("do_sample", "temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    # Do not change the answer.
    *("transformers_version", "_from_model_config", "_commit_hash", "use_cache"),
    *("output_attentions", "output_hidden_states"),
}


class GenerationSettings(BaseModel):
    """The settings that the fast engine implements; None: the setting is off."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    bos_token_id: int | None = None
    pad_token_id: int | None = None
    eos_token_id: Ids | None = None
    decoder_start_token_id: Ids | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: Ids | None = None
    no_repeat_ngram_size: NonNegativeInt | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    suppress_tokens: list[int] | None = None
    num_beams: PositiveInt | None = None
    early_stopping: bool | Literal["never"] | None = None
    length_penalty: float | None = None

    @classmethod
    def read(cls, name: str, raw: Mapping[str, Any]) -> GenerationSettings:
        """Read the settings of the checkpoint `name`. Raises ConfigError when a value cannot be used."""
        try:
            return cls.model_validate(raw)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise ConfigError(
                f"checkpoint {name}: its generation settings have a wrong {first['loc'][0]}: {in_words(first)}"
            ) from None


def unsupported(raw: Mapping[str, Any]) -> list[str]:
    """Return the names of generation settings that change answers and that the fast engine does not implement."""
    known = GenerationSettings.model_fields.keys() | _WITHOUT_EFFECT
    return sorted(key for key, value in raw.items() if key not in known and value is not None)
