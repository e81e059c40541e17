"""From a job to what a model takes, and from its tokens to the answer: the same for every engine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from pipelines.florence2.checkpoint import Checkpoint
from pipelines.florence2.parse import Piece, parse
from pipelines.florence2.prompts import Prompter, prompt
from pipelines.florence2.scores import at_least
from pipelines.florence2.tasks import FLORENCE_TASKS, SPECS
from streamer.core.errors import PipelineError
from streamer.types import MAX_PIXELS, Answer, DueTask, Frame, Image, Job, Outcome, Result, Task

MIN_SIDE = 8
"""A frame with a shorter side shows nothing."""


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One job's words."""

    ids: list[int]
    """The encoder's tokens, the picture's placeholders first."""
    cap: int
    """Tokens its answer may have."""


class Generation(NamedTuple):
    """What an engine wrote for one question."""

    tokens: list[int]
    """The start token first; what stands behind the end has no meaning."""
    doubts: list[float]
    """One for each token but the start, as `pipelines.doubt` counts them."""


class Processor:
    """Asks one checkpoint, and reads what it wrote."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._tokenizer = checkpoint.tokenizer
        self._marks = {id: text for text, id in checkpoint.tokenizer.get_added_vocab().items()}
        """Tokens that stand for themselves, whatever is next to them."""
        self._banned = checkpoint.banned_phrases
        self._longest = checkpoint.decoder_limit - 1
        self._prompter = Prompter(
            checkpoint.tokenizer,
            checkpoint.model.config.image_token_id,
            checkpoint.images.tokens,
            checkpoint.encoder_limit,
        )

    def encode(self, job: Job) -> EncodedPrompt:
        """Raises PipelineError when the job cannot be done, whatever else is in the batch."""
        check_frame(job.frame.image)
        params = job.due.task.params
        return EncodedPrompt(
            self._prompter.ids(prompt(job.due.task.task, params)), min(params.max_tokens, self._longest)
        )

    def decode(self, job: Job, cap: int, written: Generation) -> Answer | str:
        """The answer that was written; or in words what is wrong with it."""
        tokens = written.tokens[1 : cap + 1]
        end = self._tokenizer.eos_token_id
        if end not in tokens:
            return f"the answer did not end within {cap} tokens"
        pieces = self._pieces(tokens[: tokens.index(end)], written.doubts)
        answer = parse(FLORENCE_TASKS[job.due.task.task].form, list(pieces), self._banned)
        least = getattr(job.due.task.params, "min_score", None)
        return answer if least is None else at_least(answer, least)

    def _pieces(self, tokens: Sequence[int], doubts: Sequence[float]) -> Iterator[Piece]:
        """The tokens as text: marks by themselves, all between two as one, since a letter can take several tokens."""
        pairs = zip(tokens, doubts, strict=False)
        for mark, group in groupby(pairs, key=lambda pair: self._marks.get(pair[0])):
            ids, about = zip(*group, strict=True)
            if mark is None:
                yield Piece(self._tokenizer.decode(ids, skip_special_tokens=False), about)
            else:
                yield from (Piece(mark, (doubt,)) for doubt in about)


def trial() -> Job:
    """A small job, to see whether a checkpoint works."""
    frame = Frame("", 0, 0, 0.0, 0.0, 0.0, np.full((64, 64, 3), 128, np.uint8))
    return Job(DueTask("", Task("caption", "caption", SPECS["caption"].parameters(max_tokens=4)), math.inf), frame)


def check_frame(image: Image) -> None:
    """Raises PipelineError for a picture that shows nothing: no answer about it could be told from "nothing there"."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise PipelineError(f"the frame is not a BGR picture: {image.dtype} of shape {image.shape}")
    height, width, _ = image.shape
    if min(height, width) < MIN_SIDE:
        raise PipelineError(f"the frame is too narrow: {width}x{height}")
    if height * width > MAX_PIXELS:
        raise PipelineError(f"the frame is too large: {width}x{height} is more than {MAX_PIXELS} pixels")
    if not image.any():
        raise PipelineError("the frame is all black")


def result(job: Job, answer: Answer | str, started: float, took: float, batch: int) -> Result:
    """The outcome of one job; an answer in words is an error."""
    if isinstance(answer, str):
        return Result(job, "error", error=answer, started_mono=started, inference_s=took, batch=batch)
    outcome: Outcome = "empty" if answer.is_empty else "ok"
    return Result(job, outcome, answer, started_mono=started, inference_s=took, batch=batch)
