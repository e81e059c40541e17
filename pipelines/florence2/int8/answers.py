"""Answers of an engine to jobs, one at a time, with their tokens and times."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.int8.gate import Generated
from pipelines.florence2.processor import Generation
from pipelines.florence2.text_lists import TextListEngine
from streamer.types import Answer, Job

PROGRESS_S = 10.0
"""Seconds between two lines of progress."""


class Answers(NamedTuple):
    """All answers of one engine."""

    generated: list[Generated]
    """Answers in the order of the jobs."""
    frame_s: float
    """Mean time of the vision tower for one frame, which is not part of the jobs' times."""


class _Recorder:
    """The engine's processor, which also keeps the tokens of each answer by task name."""

    def __init__(self, engine: FastEngine) -> None:
        self.tokens: dict[str, list[int]] = {}
        self._processor = engine.processor
        self.encode, self.prompt_ids = engine.processor.encode, engine.processor.prompt_ids

    def decode(self, job: Job, max_tokens: int, generation: Generation) -> Answer | str:
        self.tokens[job.due.task.name] = generation.tokens
        return self._processor.decode(job, max_tokens, generation)


@torch.inference_mode()
def answer(engine: FastEngine, jobs: Sequence[Job], name: str, tell: Callable[[str], None]) -> Answers:
    """Answer all jobs. Jobs about one frame should follow each other: they share its image tokens."""
    whole = TextListEngine(engine)
    recorder = _Recorder(engine)
    processor, engine.processor = engine.processor, recorder  # type: ignore[assignment]
    generated: list[Generated] = []
    frames = engine.image_cache.misses
    vision_s, told = 0.0, time.monotonic()
    try:
        for number, job in enumerate(jobs, 1):
            recorder.tokens.clear()
            started = time.monotonic()
            engine.image_cache([job.frame])
            vision_s += time.monotonic() - started
            started = time.monotonic()
            whole.admit([job])
            while not (results := whole.step()):
                pass
            seconds = time.monotonic() - started
            result = results[0]
            tokens = [token for _, some in sorted(recorder.tokens.items()) for token in some]
            generated.append(Generated(tokens, None if result.outcome == "error" else result.answer, seconds))
            if time.monotonic() - told > PROGRESS_S:
                told = time.monotonic()
                tell(f"{name}: {number} of {len(jobs)} answers")
    finally:
        engine.processor = processor
    return Answers(generated, vision_s / max(1, engine.image_cache.misses - frames))
