"""From a task and its parameters to the encoder's token ids, the same ones the checkpoint's own processor makes."""

from __future__ import annotations

from typing import Any

from pipelines.tasks import FLORENCE_TASKS, Parameters
from streamer.errors import PipelineError


def prompt(task: str, params: Parameters) -> str:
    """What the model is asked."""
    return FLORENCE_TASKS[task].prompt.format(input=params.prompt_input)


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
            raise PipelineError(f"the prompt is too long: {len(words)} tokens, the checkpoint takes {room}")
        return self._image + words
