"""The fast engine: one vision pass per frame, one encoder row per job, all answers decoded side by side.

Each `step` starts the jobs about the next frame and generates the next tokens of every running answer, so jobs start
and finish at every step instead of batch by batch.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from pipelines.florence2.checkpoint import Checkpoint
from pipelines.florence2.fast.beam_search import BeamSearch
from pipelines.florence2.fast.davit import DaViT
from pipelines.florence2.fast.decode_batch import DecodeBatch
from pipelines.florence2.fast.decoder import Decoder
from pipelines.florence2.fast.device_stream import DeviceStream
from pipelines.florence2.fast.encoder import Encoder
from pipelines.florence2.fast.graph_guard import ReplayError
from pipelines.florence2.fast.graphs import EagerRunner, Runner
from pipelines.florence2.fast.greedy_search import GreedySearch
from pipelines.florence2.fast.image_cache import CACHED_FRAMES, ImageCache
from pipelines.florence2.fast.kernel_check import usable_kernels
from pipelines.florence2.fast.logits import LogitsProcessor
from pipelines.florence2.fast.memory_budget import Forecast, Room, fit, forecast, is_shortage
from pipelines.florence2.fast.parts import TextEncoder
from pipelines.florence2.fast.scheduler import EngineJob, Scheduler
from pipelines.florence2.fast.speculative import DraftMode
from pipelines.florence2.fast.static_parts import static_parts
from pipelines.florence2.preprocess import Preprocessor
from pipelines.florence2.processor import Processor, warm_up_job
from streamer.core.errors import ConfigError, PipelineError
from streamer.core.logs import RareLog
from streamer.core.printable import counted
from streamer.core.reasons import reason_of
from streamer.types import Job, Result

log = logging.getLogger(__name__)
_failures = RareLog(log, "batches failed: %d, the last one with %s: %s")

FRAMES_PER_STEP = 8
"""Frames that start together on a GPU; 1 on a CPU, where a batch is slower than its frames one by one."""
SHORTAGE = "not enough memory"
TOKENS_PER_STEP = 4
"""Tokens between two checks for finished answers on a GPU; 1 on a CPU, where the check costs nothing."""


class FastEngine:
    """Answers jobs with the same tokens as the reference engine. Keeps no reference to the checkpoint."""

    def __init__(
        self, checkpoint: Checkpoint, max_batch: int, drafts: DraftMode = "exact", gpu_memory: float = 1.0
    ) -> None:
        """`gpu_memory` is the share of a card's memory that the engine may use.

        Raises ConfigError when the checkpoint does not fit into memory or its files contradict each other.
        """
        self.model = checkpoint.name
        self.description = f"fast engine on {checkpoint.runs_in}"
        self.warnings: list[str] = []
        device = checkpoint.weights.device
        self.drafts, self._max_positions = drafts, checkpoint.max_positions
        frames, self._tokens = (1, 1) if device.type == "cpu" else (FRAMES_PER_STEP, TOKENS_PER_STEP)
        self.stream = DeviceStream(device, priority=-1)
        """Runs encoder and decoder, whose many short operations would wait for the long ones of the vision tower."""
        self.decoder, encoder, vision, fault = _load(checkpoint)
        if fault:
            self.degrade(fault)
        self.encoder: TextEncoder = encoder
        self.card_parts = (vision, encoder) if device.type == "cuda" else None
        """On a card: vision tower and encoder as they are, without a runner."""
        self._image_tokens = vision.tokens
        self._generation = checkpoint.generation
        self.processor = Processor(checkpoint)
        self.logits_processor = LogitsProcessor(self._generation, checkpoint.first_location, device)
        self.image_cache = ImageCache(vision, Preprocessor(checkpoint.images, device), device, checkpoint.weights.dtype)
        wanted = Room(max_batch, min(frames, max_batch))
        room = fit(wanted, self.model, _needs(checkpoint, self.decoder, vision), device, gpu_memory)
        if room != wanted:
            self.degrade(f"memory on {device} is short: room for {room}, not for {wanted}")
        self.allocate(room, EagerRunner())

    def allocate(self, room: Room, runner: Runner) -> None:
        """Allocate what the steps read and write, with `runner` to run them. Forgets all jobs and drafts.

        While memory is short, allocates for half as much. Raises ConfigError when not even one row fits.
        """
        self.room, self.runner = room, runner
        if self.__dict__.pop("greedy", None):
            gc.collect()  # its memory is needed for the next one
        self.image_cache.clear()
        if self.card_parts:
            self.image_cache.vision, self.encoder = self.card_parts  # frees the tensors of the ones before
        limits = room.rows, self._image_tokens, self._max_positions
        try:
            if self.card_parts:
                self.image_cache.vision, self.encoder = static_parts(*self.card_parts, room, runner)
                self.image_cache.stream.fork()
            batch = DecodeBatch(self.decoder, self.logits_processor, *limits, self.drafts, runner)
        except (RuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
            self.allocate(self.smaller(room), runner)
            return
        self.scheduler = Scheduler(room.rows, room.frames)
        start, locations = len(self.logits_processor.start), self.logits_processor.locations
        self.greedy = GreedySearch(batch, start, self._tokens, locations, self.drafts != "off")
        self._beam_searches: dict[EngineJob, BeamSearch] = {}

    def smaller(self, room: Room) -> Room:
        """Return half of `room`, and report it. Raises ConfigError when there is no half."""
        device = self.decoder.device
        if room.half is None:
            raise ConfigError(f"checkpoint {self.model} does not fit into the memory of {device}")
        self.degrade(f"memory on {device} is short: room for {room.half}, not for {room}")
        return room.half

    def free(self) -> int:
        return self.scheduler.free()

    def admit(self, jobs: Sequence[Job]) -> None:
        """Queue jobs for the next steps. Raises ValueError when there are more than `free()`."""
        self.scheduler.add(jobs)

    @torch.inference_mode()
    def step(self) -> list[Result]:
        """Start the next frame's jobs, generate the next tokens of every answer, return the jobs that finished."""
        jobs = _encode_prompts(self.processor, self.scheduler)
        with self.stream.in_order():
            rows = self._encode_images(jobs)
            parts: list[Callable[[], None]] = [partial(self._start, rows), self._step_greedy, self._step_beams]
            # On a card, the running answers go on while the vision tower computes.
            for part in parts[1:] + parts[:1] if self.stream.is_concurrent else parts:
                part()
        return self.scheduler.pop_finished()

    def warm_up(self) -> None:
        """Generate one short answer, with half the room while memory is short.

        Raises ConfigError when the checkpoint does not work on its device.
        """
        self.admit([warm_up_job()])
        results: list[Result] = []
        while not results:
            results = self.step()
        self.greedy.drafts.clear()
        if results[0].error == f"the model failed: {SHORTAGE}":
            self.allocate(self.smaller(self.room), self.runner)
            self.warm_up()
            return
        # The job allows four tokens, so an answer without an end is expected.
        if (error := results[0].error) and "did not end" not in error:
            raise ConfigError(f"checkpoint {self.model} does not run: {error}")

    # -- start of jobs

    def _encode_images(self, jobs: Sequence[EngineJob]) -> list[tuple[EngineJob, Tensor]]:
        """Return each job with its frame's image tokens."""
        rows: list[tuple[EngineJob, Tensor]] = []
        frames, in_use = [job.job.frame for job in jobs], self.scheduler.images_in_use()
        # Tokens stay while a job about their frame runs: the next stage of a task needs them again.
        self._attempt(jobs, lambda: rows.extend(zip(jobs, self.image_cache.start(frames, in_use), strict=True)))
        return rows

    def _start(self, rows: Sequence[tuple[EngineJob, Tensor]]) -> None:
        """Encode jobs with their image tokens, and start their answers."""
        if not rows:
            return
        # On a CPU, padding shorter prompts costs more than the batch saves.
        for group in [rows] if self.stream.is_concurrent else [[row] for row in rows]:
            self._attempt([job for job, _ in group], lambda group=group: self._start_group(group))  # type: ignore[misc]
        self.greedy.update_drafts()

    def _start_group(self, rows: Sequence[tuple[EngineJob, Tensor]]) -> None:
        """Run the text encoder once, then start a greedy row or a beam search for each job."""
        jobs, images = [job for job, _ in rows], [tokens for _, tokens in rows]
        self.image_cache.stream.join(images)
        states = self.encoder(images, [job.prompt for job in jobs])
        lengths = [self._image_tokens + len(job.prompt) for job in jobs]
        greedy = [row for row, job in enumerate(jobs) if job.job.due.task.params.quality == "fast"]
        beams = [row for row in range(len(jobs)) if row not in greedy]
        settings = self.decoder, self.logits_processor, self._generation
        searches = {
            jobs[row]: BeamSearch(*settings, states[row, : lengths[row]], jobs[row].max_tokens) for row in beams
        }
        if greedy:
            # Indexed with a list, a card would wait for the copy of its numbers.
            chosen = states if len(greedy) == len(jobs) else torch.stack([states[row] for row in greedy])
            self.greedy.add([jobs[row] for row in greedy], chosen, [lengths[row] for row in greedy])
        self._beam_searches |= searches

    # -- decoding

    def _step_greedy(self) -> None:
        jobs = self.greedy.jobs
        if jobs and not self._attempt(jobs, self.greedy.step):
            self.greedy.clear()
        for job, generation, draft in self.greedy.pop_finished():
            answer = self.processor.decode(job.job, job.max_tokens, generation)
            if not isinstance(answer, str):
                self.greedy.store(job, generation, draft)
            self.scheduler.finish(job, answer, (draft.checked, draft.accepted) if draft else None, generation.near)

    def _step_beams(self) -> None:
        for job, search in list(self._beam_searches.items()):
            if not self._attempt([job], search.step):
                del self._beam_searches[job]
            elif search.done:
                del self._beam_searches[job]
                self.scheduler.finish(job, self.processor.decode(job.job, job.max_tokens, search.generation))

    # -- failures

    def degrade(self, warning: str) -> None:
        """Report that the engine runs otherwise than it should."""
        log.warning("%s", warning)
        self.warnings.append(warning)

    def _attempt(self, jobs: Sequence[EngineJob], action: Callable[[], None]) -> bool:
        """Run `action`; return False after an exception, with the jobs queued again or finished as errors."""
        try:
            action()
        except torch.AcceleratorError:
            raise  # The device is in an unknown state; only a new process helps.
        except ReplayError:
            self.image_cache.clear()
            self.scheduler.retry(jobs, self.scheduler.limit)
            return False
        # The model can raise anything on a bad row, and the other rows must survive it.
        except Exception as error:
            self._recover(jobs, error)
            return False
        return True

    def _recover(self, jobs: Sequence[EngineJob], error: Exception) -> None:
        """Queue failed jobs again with a smaller batch limit; a job that failed alone ends as an error."""
        reason = SHORTAGE if is_shortage(error) else reason_of(error, "model")
        _failures.add(counted(len(jobs), "job"), reason)
        self.image_cache.clear()
        self.scheduler.record_failure()
        others = sum(job not in jobs for job in (*self.greedy.jobs, *self._beam_searches))
        if len(jobs) == 1 and not (others and is_shortage(error)):
            self.scheduler.finish(jobs[0], f"the model failed: {reason}")
        elif is_shortage(error):
            self.scheduler.retry(jobs, others + len(jobs) // 2)
        else:
            self.scheduler.retry(jobs, 1)  # one by one, so that the broken job fails alone


def _encode_prompts(processor: Processor, scheduler: Scheduler) -> list[EngineJob]:
    """Take jobs from the queue and set their prompts; finish those whose frame or prompt is unusable as errors."""
    encoded = []
    for job in scheduler.next_jobs():
        try:
            job.prompt, job.max_tokens = processor.encode(job.job)
        except PipelineError as error:
            scheduler.finish(job, str(error))
        else:
            encoded.append(job)
    return encoded


def _load(checkpoint: Checkpoint) -> tuple[Decoder, Encoder, DaViT, str | None]:
    """Load the parts of the model; the last value says why a card's kernels are not used. Raises ConfigError."""
    weights, architecture, images = checkpoint.weights, checkpoint.architecture, checkpoint.images
    kernels, fault = usable_kernels(weights.device, weights.dtype)
    try:
        decoder, encoder = Decoder(weights, architecture.text), Encoder(weights, architecture.text)
        vision = DaViT(weights, architecture.vision, images.height, images.width, kernels)
    except (RuntimeError, MemoryError) as error:
        if not is_shortage(error):
            raise
        raise ConfigError(f"checkpoint {checkpoint.name} does not fit into the memory of {weights.device}") from None
    if vision.tokens != images.tokens:
        raise ConfigError(
            f"checkpoint {checkpoint.name} does not run: its vision tower makes {vision.tokens} tokens per image, "
            f"its processor settings say {images.tokens}"
        )
    return decoder, encoder, vision, fault


def _needs(checkpoint: Checkpoint, decoder: Decoder, vision: DaViT) -> Callable[[int], Forecast]:
    """Return a function that estimates the memory for a number of frames per step."""
    beams = max(1, checkpoint.generation.num_beams or 1)
    text, positions = checkpoint.architecture.text, checkpoint.max_positions
    return partial(forecast, decoder, vision, text, positions, beams, CACHED_FRAMES)
