"""The checkpoint's tokenizer: the library `tokenizers` with the same ids and texts as in transformers."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import tokenizers

from pipelines.florence2.checkpoint_files import CheckpointFiles
from pipelines.florence2.tasks import BINS
from streamer.core.errors import ConfigError
from streamer.core.reasons import reason_of

log = logging.getLogger(__name__)

_CLASSES = ("TokenizersBackend", "PreTrainedTokenizer", "BartTokenizer", "RobertaTokenizer")
"""Classes of transformers that do with a plain file what `tokenizers` does; each may be named with `Fast` behind it."""
_UNUSUAL = ("split_special_tokens", "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output")
"""Settings of transformers that change ids or texts when they are true."""
_SPECIALS = {"bos": "<s>", "eos": "</s>", "pad": "<pad>", "unk": "<unk>", "sep": "</s>", "cls": "<s>"}
"""Names of BART's special tokens and their texts, for a checkpoint that does not give them."""


class Tokenizer:
    """Encodes prompts and decodes answers."""

    def __init__(self, backend: Any, settings: Mapping[str, Any] | None = None) -> None:
        """`backend`: a `tokenizers.Tokenizer`. `settings`: the content of tokenizer_config.json."""
        self._backend = backend
        backend.no_truncation()
        backend.no_padding()
        named = {name: _text((settings or {}).get(f"{name}_token")) or text for name, text in _SPECIALS.items()}
        self.bos_token, self.eos_token = named["bos"], named["eos"]
        self.eos_token_id, self.pad_token_id = self._known(self.eos_token), self._known(named["pad"])
        self.added_tokens: dict[int, str] = {
            id: token.content for id, token in backend.get_added_tokens_decoder().items()
        }
        """Texts of the special tokens and other tokens outside of the vocabulary, by id."""

    def __len__(self) -> int:
        return int(self._backend.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, with special tokens only where the text spells them."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of some ids, the special tokens included."""
        text: str = self._backend.decode(list(ids), skip_special_tokens=False)
        return text

    def id_of(self, token: str) -> int | None:
        id: int | None = self._backend.token_to_id(token)
        return id

    def _known(self, token: str) -> int:
        id = self.id_of(token)
        if id is None:
            raise ValueError(f"the special token {token} has no id")
        return id

    @property
    def first_location(self) -> int | None:
        """Id of `<loc_0>`; None unless all locations are there and follow it."""
        ids = [self.id_of(f"<loc_{index}>") for index in range(BINS)]
        return ids[0] if ids[0] is not None and ids == list(range(ids[0], ids[0] + BINS)) else None


def load_tokenizer(files: CheckpointFiles) -> tuple[Tokenizer, int]:
    """Return a checkpoint's tokenizer and its id of `<loc_0>`. Raises ConfigError when it cannot be used."""
    try:
        file, config = files.path / "tokenizer.json", files.path / "tokenizer_config.json"
        content = file.read_text(encoding="utf-8")
        settings = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        if _is_plain(json.loads(content), settings):
            tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(content), settings)
        else:
            from pipelines.florence2 import transformers_model

            log.info("tokenizer of %s: read with transformers, its settings are unusual", files.name)
            tokenizer = Tokenizer(transformers_model.load_tokenizer(files.path).backend_tokenizer, settings)
    except Exception as error:  # The library raises any exception on damaged or foreign files.
        raise ConfigError(
            f"checkpoint {files.name}: its tokenizer cannot be loaded: {reason_of(error, 'model')}"
        ) from error
    first_location = tokenizer.first_location
    if first_location is None:
        raise ConfigError(f"checkpoint {files.name} is not a Florence-2: its tokenizer lacks the location tokens")
    return tokenizer, first_location


def _is_plain(content: Any, settings: Mapping[str, Any]) -> bool:
    """Return whether transformers would change nothing of tokenizer.json: neither its steps nor its special tokens."""
    kind = (settings.get("tokenizer_class") or "BartTokenizer").removesuffix("Fast")
    if kind not in _CLASSES:
        return False
    steps = content.get("pre_tokenizer") or {}
    byte_level = steps.get("type") == "ByteLevel" and (content.get("decoder") or {}).get("type") == "ByteLevel"
    same_start = bool(settings.get("add_prefix_space")) == bool(steps.get("add_prefix_space"))
    if not (byte_level and same_start and content.get("normalizer") is None and content["model"]["type"] == "BPE"):
        return False
    if any(settings.get(key) for key in _UNUSUAL):
        return False
    added = {token["content"]: token for token in content["added_tokens"]}
    described = (settings.get("added_tokens_decoder") or {}).values()
    if any(added.get(token["content"], {}) | token != added.get(token["content"]) for token in described):
        return False
    special = _special_tokens(settings)
    if kind in ("BartTokenizer", "RobertaTokenizer"):  # which add the tokens of BART where they are missing
        special |= {*_SPECIALS.values(), "<mask>"}
    return special <= added.keys()


def _special_tokens(settings: Mapping[str, Any]) -> set[str]:
    """Return the texts of all special tokens that a tokenizer_config.json names."""
    values = [value for key, value in settings.items() if key.endswith("_token")]
    for key in ("extra_special_tokens", "additional_special_tokens"):
        more = settings.get(key) or ()
        values += more.values() if isinstance(more, Mapping) else more
    return {text for value in values if (text := _text(value))}


def _text(token: Any) -> str | None:
    """Return the text of a special token, which is a string or an object."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None
