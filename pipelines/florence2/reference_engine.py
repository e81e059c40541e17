"""The plain engine: each step is one `generate` of transformers. The reference for every faster one."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import torch
from transformers import GenerationConfig, StoppingCriteria

from pipelines.florence2.checkpoint import Checkpoint
from pipelines.florence2.preprocess import Preprocessor
from pipelines.florence2.processor import Generation, Processor, result, trial
from pipelines.florence2.tasks import Quality
from pipelines.florence2.uncertainty import uncertainty
from streamer.core.errors import ConfigError, PipelineError
from streamer.types import Answer, Job, Result

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """One job, ready for the model."""

    ids: list[int]
    pixels: torch.Tensor
    """float32 (3, height, width)."""
    cap: int
    """Tokens its answer may have."""


class _Caps(StoppingCriteria):
    """Ends each row at its own cap, so that a rambling one does not hold the batch."""

    def __init__(self, caps: torch.Tensor) -> None:
        self._caps = caps

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: Any) -> torch.BoolTensor:
        return self._caps <= input_ids.shape[1] - 1  # type: ignore[return-value]


class ReferenceEngine:
    """Runs what it was given in one batch per quality, over streams and tasks."""

    def __init__(self, checkpoint: Checkpoint, max_batch: int) -> None:
        self._checkpoint = checkpoint
        self._max_batch = max_batch
        self._waiting: list[Job] = []
        self._preprocess = Preprocessor(checkpoint.images)
        self._questions = Processor(checkpoint)

    @property
    def model(self) -> str:
        return self._checkpoint.name

    def free(self) -> int:
        return self._max_batch - len(self._waiting)

    def admit(self, jobs: Sequence[Job]) -> None:
        """Take at most `free()` jobs for the next step."""
        if len(jobs) > self.free():
            raise ValueError(f"{len(jobs)} jobs for {self.free()} free places")
        self._waiting.extend(jobs)

    def step(self) -> list[Result]:
        """Answer everything that was admitted."""
        jobs, self._waiting = self._waiting, []
        results: list[Result] = []
        for quality in get_args(Quality):
            if group := [job for job in jobs if job.due.task.params.quality == quality]:
                results += self._answer(group, quality)
        return results

    def warm_up(self) -> None:
        """Run one small answer. Raises ConfigError when the checkpoint does not work on its device."""
        try:
            self.generate([self.prepare(trial())], "fast")
        except (PipelineError, ValueError, RuntimeError, IndexError) as error:
            raise ConfigError(f"checkpoint {self.model} does not run: {error}") from error

    def prepare(self, job: Job) -> Row:
        """Raises PipelineError when the job cannot be done, whatever else is in the batch."""
        question = self._questions.encode(job)
        return Row(question.ids, self._preprocess(job.frame.image), question.cap)

    def generate(self, rows: Sequence[Row], quality: Quality) -> list[Generation]:
        """Each row's answer as the model gave it, padded at the end."""
        checkpoint = self._checkpoint
        device = checkpoint.model.device
        length = max(len(row.ids) for row in rows)
        padding = checkpoint.tokenizer.pad_token_id
        ids = torch.tensor([row.ids + [padding] * (length - len(row.ids)) for row in rows])
        mask = torch.tensor([[1] * len(row.ids) + [0] * (length - len(row.ids)) for row in rows])
        pixels = torch.stack([row.pixels for row in rows])
        caps = torch.tensor([row.cap for row in rows], device=device)
        with torch.inference_mode():
            made = checkpoint.model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                pixel_values=pixels.to(device, checkpoint.model.dtype),
                generation_config=self._decoding(quality, max(row.cap for row in rows)),
                # Beams are ranked against each other over the whole batch's length, so they are left to it.
                stopping_criteria=[_Caps(caps)] if quality == "fast" else [],
                return_dict_in_generate=True,
                output_scores=True,
            )
            unsure = self._doubts(made)
        return [Generation(*row) for row in zip(made.sequences.tolist(), unsure.tolist(), strict=True)]

    def _doubts(self, made: Any) -> torch.Tensor:
        """(rows, tokens but the start) of what `generate` gave; with beams, along the one that was taken."""
        tokens: torch.Tensor = made.sequences[:, 1:]
        everywhere = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(tokens)
        beams = getattr(made, "beam_indices", None)
        # Behind a row's end there is no beam: any will do.
        place = everywhere if beams is None else beams[:, : tokens.shape[1]].clamp(min=0)
        first = self._checkpoint.first_location
        found = [uncertainty(made.scores[n][place[:, n]], tokens[:, n], first) for n in range(tokens.shape[1])]
        return torch.stack(found, 1)

    def _decoding(self, quality: Quality, cap: int) -> GenerationConfig:
        config = copy.deepcopy(self._checkpoint.generation)
        # One more than the cap: at the very last place an end may be forced, and that is no real end.
        config.max_new_tokens, config.max_length = cap + 1, None
        config.do_sample = False
        if quality == "fast":
            config.num_beams, config.early_stopping = 1, False
        return config

    def _answer(self, jobs: Sequence[Job], quality: Quality) -> list[Result]:
        started = time.monotonic()
        rows: dict[int, Row] = {}
        answers: dict[int, Answer | str] = {}
        for place, job in enumerate(jobs):
            try:
                rows[place] = self.prepare(job)
            except (PipelineError, ValueError, RuntimeError) as error:
                answers[place] = str(error)
        for place, written in zip(rows, self._written(list(rows.values()), quality), strict=True):
            if not isinstance(written, str):
                answers[place] = self._questions.decode(jobs[place], rows[place].cap, written)
            else:
                answers[place] = written
        took = time.monotonic() - started
        return [result(job, answers[place], started, took, len(jobs)) for place, job in enumerate(jobs)]

    def _written(self, rows: Sequence[Row], quality: Quality) -> list[Generation | str]:
        """Answers, or in words what went wrong, for each row. When a batch fails, each of its rows is tried alone."""
        if not rows:
            return []
        try:
            return [*self.generate(rows, quality)]
        except torch.AcceleratorError:
            raise  # The device is in an unknown state: only a new process helps.
        # A row the model chokes on can end in anything, and must not take the others with it.
        except Exception as error:
            log.warning("a batch of %d failed: %s", len(rows), error)
            if len(rows) == 1:
                return [f"the model failed: {error}"]
        return [self._written([row], quality)[0] for row in rows]
