"""Answers of an engine to jobs, one at a time, with their tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pipelines.florence2.fast.engine import FastEngine
from pipelines.florence2.int8.gate import Generated
from pipelines.florence2.processor import Generation
from pipelines.florence2.stages import with_stages
from streamer.types import Answer, Engine, Job, Result

PROGRESS_S = 10.0
"""Seconds between two lines of progress."""


class _Recorder:
    """The engine's processor, which also keeps the tokens of each answer by task name."""

    def __init__(self, engine: FastEngine) -> None:
        self.tokens: dict[str, list[int]] = {}
        self._processor = engine.processor
        self.encode, self.prompt_ids = engine.processor.encode, engine.processor.prompt_ids

    def decode(self, job: Job, max_tokens: int, generation: Generation) -> Answer | str:
        self.tokens[job.due.task.name] = generation.tokens
        return self._processor.decode(job, max_tokens, generation)


def answers(engine: FastEngine, jobs: Sequence[Job], name: str, tell: Callable[[str], None]) -> list[Generated]:
    """Return the answers to all jobs. Jobs about one frame should follow each other: they share its image tokens."""
    whole = with_stages(engine)
    recorder = _Recorder(engine)
    processor, engine.processor = engine.processor, recorder  # type: ignore[assignment]
    generated: list[Generated] = []
    told = time.monotonic()
    try:
        for number, job in enumerate(jobs, 1):
            recorder.tokens.clear()
            result = run(whole, job)
            tokens = [token for _, some in sorted(recorder.tokens.items()) for token in some]
            generated.append(Generated(tokens, None if result.outcome == "error" else result.answer))
            if time.monotonic() - told > PROGRESS_S:
                told = time.monotonic()
                tell(f"{name}: {number} of {len(jobs)} answers")
    finally:
        engine.processor = processor
    return generated


def run(engine: Engine, job: Job) -> Result:
    """Return the result of a job that is alone in the engine."""
    engine.admit([job])
    while not (results := engine.step()):
        pass
    return results[0]
