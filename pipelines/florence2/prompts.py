"""From a task and its parameters to the encoder's token ids, the same ones the checkpoint's own processor makes."""

from __future__ import annotations

from typing import Any

from pipelines.florence2.checkpoint_files import CheckpointFiles
from pipelines.florence2.tasks import FLORENCE_TASKS, Parameters
from streamer.core.errors import PipelineError

FRAME = 2
"""Tokens around the words of a prompt: `<s>` and `</s>`."""


def prompt(task: str, params: Parameters) -> str:
    """What the model is asked."""
    return FLORENCE_TASKS[task].prompt.format(input=params.prompt_input)


def excess(folder: CheckpointFiles, text: str) -> str | None:
    """In words, by how much a prompt is too long for the checkpoint in `folder`; None where it fits."""
    room = folder.encoder_limit - folder.images.tokens
    # No token is shorter than a byte: most prompts need not be counted.
    if len(text.encode()) + FRAME <= room:
        return None
    from tokenizers import Tokenizer

    count = len(Tokenizer.from_file(str(folder.path / "tokenizer.json")).encode(text, add_special_tokens=False).ids)
    return _too_long(count + FRAME, room) if count + FRAME > room else None


def _too_long(count: int, room: int) -> str:
    return f"the prompt is too long: {count} tokens, the checkpoint takes {room}"


class Prompter:
    """Makes encoder ids: the image's placeholders, `<s>`, the prompt, `</s>`."""

    def __init__(self, tokenizer: Any, image_token_id: int, image_tokens: int, limit: int) -> None:
        self._tokenizer = tokenizer
        self._image = [image_token_id] * image_tokens
        self._limit = limit

    def ids(self, text: str) -> list[int]:
        """Raises PipelineError when the prompt is longer than the encoder."""
        framed = f"{self._tokenizer.bos_token}{text}{self._tokenizer.eos_token}"
        words: list[int] = self._tokenizer(framed, add_special_tokens=False).input_ids
        if len(self._image) + len(words) > self._limit:
            room = self._limit - len(self._image)
            raise PipelineError(_too_long(len(words), room))
        return self._image + words
