"""The reference engine: each step runs transformers' own `generate`. The fast engine must give the same answers."""

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
from pipelines.florence2.processor import Generation, Processor, result, warm_up_job
from pipelines.florence2.tasks import Quality
from pipelines.florence2.transformers_model import load_model
from pipelines.florence2.uncertainty import Uncertainty
from streamer.core.errors import ConfigError, PipelineError
from streamer.core.logs import RareLog
from streamer.core.printable import counted
from streamer.core.reasons import reason_of
from streamer.types import Answer, Job, Result

log = logging.getLogger(__name__)
_failures = RareLog(log, "batches failed: %d, the last one with %s: %s")


@dataclass(frozen=True, slots=True)
class Row:
    """The model's input for one job."""

    ids: list[int]
    pixels: torch.Tensor
    """float32 (3, height, width)."""
    max_tokens: int
    """Maximum length of the answer in tokens."""


class _MaxTokensPerRow(StoppingCriteria):
    """Ends each row at its own maximum, so that one endless answer does not hold up the batch."""

    def __init__(self, max_tokens: torch.Tensor) -> None:
        self._max_tokens = max_tokens

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: Any) -> torch.BoolTensor:
        return self._max_tokens <= input_ids.shape[1] - 1  # type: ignore[return-value]


class ReferenceEngine:
    """Runs all admitted jobs in one batch per quality."""

    def __init__(self, checkpoint: Checkpoint, max_batch: int) -> None:
        self._checkpoint = checkpoint
        weights = checkpoint.weights
        self.network: Any = checkpoint.network
        """Florence2ForConditionalGeneration, in evaluation mode on its device."""
        if self.network is None:
            self.network = load_model(checkpoint.files, weights.is_tied, weights.dtype, weights.device)
        self._generation = GenerationConfig.from_dict(checkpoint.files.generation)
        self._max_batch = max_batch
        self._waiting: list[Job] = []
        self._preprocess = Preprocessor(checkpoint.images)
        self._processor = Processor(checkpoint)

    @property
    def model(self) -> str:
        return self._checkpoint.name

    @property
    def description(self) -> str:
        return f"plain engine on {self._checkpoint.runs_in}"

    @property
    def warnings(self) -> Sequence[str]:
        return ()

    def free(self) -> int:
        return self._max_batch - len(self._waiting)

    def admit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs for the next step. Raises ValueError when there are more than `free()`."""
        if len(jobs) > self.free():
            raise ValueError(f"{len(jobs)} jobs for {self.free()} free places")
        self._waiting.extend(jobs)

    def step(self) -> list[Result]:
        """Answer all admitted jobs."""
        jobs, self._waiting = self._waiting, []
        results: list[Result] = []
        for quality in get_args(Quality):
            if group := [job for job in jobs if job.due.task.params.quality == quality]:
                results += self._answer(group, quality)
        return results

    def warm_up(self) -> None:
        """Generate one short answer. Raises ConfigError when the checkpoint does not work on its device."""
        try:
            self.generate([self.prepare(warm_up_job())], "fast")
        except (PipelineError, ValueError, RuntimeError, IndexError) as error:
            raise ConfigError(f"checkpoint {self.model} does not run: {reason_of(error, 'model')}") from error

    def prepare(self, job: Job) -> Row:
        """Return the model's input. Raises PipelineError when the job's frame or prompt cannot be used."""
        ids, max_tokens = self._processor.encode(job)
        image = [self.network.config.image_token_id] * self._checkpoint.images.tokens
        return Row(image + ids, self._preprocess(job.frame.image), max_tokens)

    def generate(self, rows: Sequence[Row], quality: Quality) -> list[Generation]:
        """Generate an answer for each row, padded at the end to the longest one."""
        checkpoint = self._checkpoint
        device = self.network.device
        length = max(len(row.ids) for row in rows)
        padding = checkpoint.tokenizer.pad_token_id
        ids = torch.tensor([row.ids + [padding] * (length - len(row.ids)) for row in rows])
        mask = torch.tensor([[1] * len(row.ids) + [0] * (length - len(row.ids)) for row in rows])
        pixels = torch.stack([row.pixels for row in rows])
        max_tokens = torch.tensor([row.max_tokens for row in rows], device=device)
        with torch.inference_mode():
            output = self.network.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                pixel_values=pixels.to(device, self.network.dtype),
                generation_config=self._generation_config(quality, max(row.max_tokens for row in rows)),
                # Beams are ranked over the length of the whole batch, so a row must not end them early.
                stopping_criteria=[_MaxTokensPerRow(max_tokens)] if quality == "fast" else [],
                return_dict_in_generate=True,
                output_scores=True,
            )
            values = self._uncertainty(output)
        return [Generation(*row) for row in zip(output.sequences.tolist(), values.tolist(), strict=True)]

    def _uncertainty(self, output: Any) -> torch.Tensor:
        """Return (rows, tokens but the start) for the output of `generate`; with beams, along the chosen one."""
        tokens: torch.Tensor = output.sequences[:, 1:]
        rows = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(tokens)
        beams = getattr(output, "beam_indices", None)
        # Behind a row's end the beam index is -1; any beam will do there.
        index = rows if beams is None else beams[:, : tokens.shape[1]].clamp(min=0)
        uncertainty = Uncertainty(self._checkpoint.first_location, tokens.device)
        steps = range(tokens.shape[1])
        return torch.stack([uncertainty(output.scores[n][index[:, n]].float(), tokens[:, n]) for n in steps], 1)

    def _generation_config(self, quality: Quality, max_tokens: int) -> GenerationConfig:
        config = copy.deepcopy(self._generation)
        # One more than the maximum: an end that is forced at the very last position is no real end.
        config.max_new_tokens, config.max_length = max_tokens + 1, None
        config.do_sample = False
        if quality == "fast":
            config.num_beams, config.early_stopping = 1, False
        return config

    def _answer(self, jobs: Sequence[Job], quality: Quality) -> list[Result]:
        started = time.monotonic()
        rows: dict[int, Row] = {}
        answers: dict[int, Answer | str] = {}
        for index, job in enumerate(jobs):
            try:
                rows[index] = self.prepare(job)
            except (PipelineError, ValueError, RuntimeError) as error:
                answers[index] = reason_of(error, "model")
        for index, generation in zip(rows, self._generate_or_fail(list(rows.values()), quality), strict=True):
            if isinstance(generation, str):
                answers[index] = generation
            else:
                answers[index] = self._processor.decode(jobs[index], rows[index].max_tokens, generation)
        seconds = time.monotonic() - started
        return [result(job, answers[index], started, seconds, len(jobs)) for index, job in enumerate(jobs)]

    def _generate_or_fail(self, rows: Sequence[Row], quality: Quality) -> list[Generation | str]:
        """Return each row's tokens or error message. When a batch fails, its rows run again one by one."""
        if not rows:
            return []
        try:
            return [*self.generate(rows, quality)]
        except torch.AcceleratorError:
            raise  # The device is in an unknown state; only a new process helps.
        # The model can raise anything on a bad row, and the other rows must survive it.
        except Exception as error:
            reason = reason_of(error, "model")
            _failures.add(counted(len(rows), "job"), reason)
            if len(rows) == 1:
                return [f"the model failed: {reason}"]
        return [self._generate_or_fail([row], quality)[0] for row in rows]
