"""Encodes jobs to token ids and decodes generated tokens to answers; shared by both engines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from pipelines.florence2.checkpoint import Checkpoint
from pipelines.florence2.parse import Piece, parse
from pipelines.florence2.prompts import prompt_texts, too_long
from pipelines.florence2.scores import at_least
from pipelines.florence2.tasks import FLORENCE_TASKS, SPECS
from streamer.core.errors import PipelineError
from streamer.core.picture_limits import MAX_PIXELS
from streamer.types import Answer, DueTask, Frame, Image, Job, Outcome, Result, Task

MIN_SIDE = 8
"""Pixels; a frame with a shorter side shows nothing that a model could recognise."""


class Generation(NamedTuple):
    """The tokens that an engine generated for one job."""

    tokens: list[int]
    """Token ids, the start token first; tokens behind the end token have no meaning."""
    uncertainty: list[float]
    """One value per token but the start, see `uncertainty.uncertainty`."""
    near: int = 0
    """Locations that were taken from a draft although a bin beside them was more probable."""


class Processor:
    """Encodes prompts and decodes answers of one checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._tokenizer = checkpoint.tokenizer
        self._marks = checkpoint.tokenizer.added_tokens
        """Texts of the special tokens, each of which is a piece of its own."""
        self._banned = checkpoint.banned_phrases
        self._max_tokens = checkpoint.max_positions - 1
        self._room = checkpoint.max_positions - checkpoint.images.tokens

    def encode(self, job: Job) -> tuple[list[int], int]:
        """Return the token ids of the job's prompt, and the maximum length of its answer, the end included.

        Raises PipelineError when the job's frame or prompt cannot be used.
        """
        check_frame(job.frame.image)
        params = job.due.task.params
        (prompt,) = prompt_texts(job.due.task.task, params)
        ids = self.prompt_ids(prompt)
        return ids, min(params.max_tokens, self._max_tokens)

    def prompt_ids(self, text: str) -> list[int]:
        """Return `<s>`, the prompt, `</s>`. Raises PipelineError when the encoder takes fewer tokens."""
        framed = f"{self._tokenizer.bos_token}{text}{self._tokenizer.eos_token}"
        ids = self._tokenizer.encode(framed)
        if len(ids) > self._room:
            raise PipelineError(too_long(len(ids), self._room))
        return ids

    def decode(self, job: Job, max_tokens: int, generation: Generation) -> Answer | str:
        """Return the parsed answer, or an error message when it did not end within `max_tokens`."""
        tokens = generation.tokens[1 : max_tokens + 1]
        end = self._tokenizer.eos_token_id
        if end not in tokens:
            return f"the answer did not end within {max_tokens} tokens"
        pieces = self._pieces(tokens[: tokens.index(end)], generation.uncertainty)
        answer = parse(FLORENCE_TASKS[job.due.task.task].form, list(pieces), self._banned)
        min_score = getattr(job.due.task.params, "min_score", None)
        return answer if min_score is None else at_least(answer, min_score)

    def _pieces(self, tokens: Sequence[int], uncertainty: Sequence[float]) -> Iterator[Piece]:
        """Split tokens into special tokens and the text between them; text is joined, as a letter can be two tokens."""
        pairs = zip(tokens, uncertainty, strict=False)
        for mark, group in groupby(pairs, key=lambda pair: self._marks.get(pair[0])):
            ids, values = zip(*group, strict=True)
            if mark is None:
                yield Piece(self._tokenizer.decode(ids), values)
            else:
                yield from (Piece(mark, (value,)) for value in values)


def warm_up_job() -> Job:
    """Return a job with a small grey frame and at most four tokens."""
    frame = Frame("", 0, 0, 0.0, 0.0, 0.0, np.full((64, 64, 3), 128, np.uint8))
    return Job(DueTask("", Task("caption", "caption", SPECS["caption"].parameters(max_tokens=4)), math.inf), frame)


def check_frame(image: Image) -> None:
    """Raise PipelineError for an image that shows nothing.

    An answer about such an image would look like "nothing there".
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise PipelineError(f"the frame is not a BGR picture: {image.dtype} of shape {image.shape}")
    height, width, _ = image.shape
    if min(height, width) < MIN_SIDE:
        raise PipelineError(f"the frame is too narrow: {width}x{height}")
    if height * width > MAX_PIXELS:
        raise PipelineError(f"the frame is too large: {width}x{height} is more than {MAX_PIXELS} pixels")
    # Nearly all pictures show something in the few pixels that are looked at first.
    if not image[::16, ::16].any() and not image.any():
        raise PipelineError("the frame is all black")


def result(
    job: Job,
    answer: Answer | str,
    started: float,
    seconds: float,
    batch: int,
    draft: tuple[int, int] | None = None,
    near: int = 0,
) -> Result:
    """Return the outcome of one job; an answer of type str is an error message. Other arguments as in `Result`."""
    if isinstance(answer, str):
        return Result(job, "error", error=answer, started_mono=started, inference_s=seconds, batch=batch)
    outcome: Outcome = "empty" if answer.is_empty else "ok"
    return Result(job, outcome, answer, started_mono=started, inference_s=seconds, batch=batch, draft=draft, near=near)
