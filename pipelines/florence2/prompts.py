"""Prompts of tasks and the check of their length. Imports no torch."""

from __future__ import annotations

from pipelines.florence2.checkpoint_files import CheckpointFiles
from pipelines.florence2.grounded import CAPTIONS
from pipelines.florence2.tasks import FLORENCE_TASKS, Parameters, location_tokens

FRAMING_TOKENS = 2
"""`<s>` and `</s>` around a prompt."""


def prompt_texts(task: str, params: Parameters) -> list[str]:
    """Return the texts that the model is prompted with: one, or one per text of a list.

    A grounded caption has the prompt of its caption; its later ones are short.
    """
    region = params.prompt_region
    location = "" if region is None else location_tokens(region.x0, region.y0, region.x1, region.y1)
    row = FLORENCE_TASKS[CAPTIONS.get(task, task)]
    return [row.prompt.format(input=value) for value in params.texts or (location,)]


def length_error(files: CheckpointFiles, text: str) -> str | None:
    """Return an error message when the prompt is too long for the checkpoint, else None. Loads no model."""
    room = files.max_positions - files.images.tokens
    # A token is at least one byte long, so a short prompt needs no tokenizer.
    if len(text.encode()) + FRAMING_TOKENS <= room:
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(files.path / "tokenizer.json"))
    count = len(tokenizer.encode(text, add_special_tokens=False).ids) + FRAMING_TOKENS
    return too_long(count, room) if count > room else None


def too_long(count: int, room: int) -> str:
    """Return the error message about a prompt of `count` tokens where `room` are left for it."""
    return f"the prompt is too long: {count} tokens, the checkpoint takes {room}"
