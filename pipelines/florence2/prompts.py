"""Prompts of tasks, and their token ids, equal to those of the checkpoint's own processor."""

from __future__ import annotations

from typing import Any

from pipelines.florence2.checkpoint_files import CheckpointFiles
from pipelines.florence2.tasks import FLORENCE_TASKS, Parameters
from streamer.core.errors import PipelineError

FRAMING_TOKENS = 2
"""`<s>` and `</s>` around a prompt."""


def prompt_text(task: str, params: Parameters) -> str:
    """Return the text that the model is prompted with."""
    return FLORENCE_TASKS[task].prompt.format(input=params.prompt_input)


def length_error(files: CheckpointFiles, text: str) -> str | None:
    """Return an error message when the prompt is too long for the checkpoint, else None. Loads no model."""
    room = files.encoder_limit - files.images.tokens
    # A token is at least one byte long, so a short prompt needs no tokenizer.
    if len(text.encode()) + FRAMING_TOKENS <= room:
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(files.path / "tokenizer.json"))
    count = len(tokenizer.encode(text, add_special_tokens=False).ids) + FRAMING_TOKENS
    return _too_long(count, room) if count > room else None


def _too_long(count: int, room: int) -> str:
    return f"the prompt is too long: {count} tokens, the checkpoint takes {room}"


class PromptEncoder:
    """Makes encoder ids: the image placeholders, `<s>`, the prompt, `</s>`."""

    def __init__(self, tokenizer: Any, image_token_id: int, image_tokens: int, limit: int) -> None:
        """`limit` is the maximum number of ids, the image placeholders included."""
        self._tokenizer = tokenizer
        self._image = [image_token_id] * image_tokens
        self._limit = limit

    def encode(self, text: str) -> list[int]:
        """Return the encoder ids. Raises PipelineError when there are more than the encoder takes."""
        framed = f"{self._tokenizer.bos_token}{text}{self._tokenizer.eos_token}"
        ids: list[int] = self._tokenizer(framed, add_special_tokens=False).input_ids
        if len(self._image) + len(ids) > self._limit:
            raise PipelineError(_too_long(len(ids), self._limit - len(self._image)))
        return self._image + ids
