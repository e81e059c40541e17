"""The fast engine: one vision pass per frame, one encoder row per question, answers written side by side.

Every step starts the questions about the next frame and writes all running answers one token further, so that a
finished one leaves, and a new one comes in, at any step.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.florence2.checkpoint import Checkpoint
from pipelines.florence2.fast.beam_search import BeamSearch
from pipelines.florence2.fast.davit import DaViT
from pipelines.florence2.fast.decode_batch import DecodeBatch, State
from pipelines.florence2.fast.decoder import Decoder
from pipelines.florence2.fast.encoder import Encoder
from pipelines.florence2.fast.image_cache import ImageCache
from pipelines.florence2.fast.logits import LogitsProcessor, effective
from pipelines.florence2.fast.memory_budget import fit, forecast, is_shortage
from pipelines.florence2.fast.speculative import Draft, DraftStore, Key
from pipelines.florence2.preprocess import Preprocessor
from pipelines.florence2.processor import EncodedPrompt, Generation, Processor, result, trial
from streamer.core.errors import ConfigError, PipelineError
from streamer.types import Frame, Job, Result

log = logging.getLogger(__name__)

FRAMES_KEPT = 8
"""Frames whose image tokens are kept for further questions."""
GROUP = 8
"""Frames that are looked at together; one on a CPU, where a batch is slower than its frames one by one."""
BURST = 4
"""Tokens between two looks at what has ended; one on a CPU, where looking costs nothing."""
DRAFT_TOKENS = 128
"""Tokens of all drafts that are checked in one pass; a larger pass takes longer than it saves."""
RECOVERY = 16
"""Answers after which the batch, halved by a failure, is doubled again."""


@dataclass(slots=True, eq=False)
class _Work:
    """One admitted job."""

    job: Job
    question: EncodedPrompt | None = None
    started: float = 0.0
    draft: Draft | None = None
    proposed: int = 0
    length: int = 0
    """Tokens of its answer so far, the known start included."""
    done: bool = False
    search: BeamSearch | None = None
    result: Result | None = None

    @property
    def key(self) -> Key:
        return self.job.due.stream, self.job.due.task.name

    @property
    def cap(self) -> int:
        assert self.question is not None
        return self.question.cap


class FastEngine:
    """Answers jobs as the plain engine does, faster. Keeps no reference to the checkpoint's own model."""

    def __init__(self, checkpoint: Checkpoint, max_batch: int, drafts: bool = True) -> None:
        """Raises ConfigError when the checkpoint does not fit into memory or does not hold together."""
        self.model = checkpoint.name
        model, images = checkpoint.model, checkpoint.images
        device, dtype = model.device, model.dtype
        on_cpu = device.type == "cpu"
        self._group, self._burst = (1, 1) if on_cpu else (GROUP, BURST)
        self.questions = Processor(checkpoint)
        self._generation = effective(checkpoint)
        vision = DaViT(model, images.height, images.width)
        if vision.tokens != images.tokens:
            raise ConfigError(
                f"checkpoint {self.model} does not run: its pictures make {vision.tokens} tokens, "
                f"its processor's settings say {images.tokens}"
            )
        self._image_tokens = vision.tokens
        self.encoder, self._decoder = Encoder(model), Decoder(model)
        self._chooser = LogitsProcessor(self._generation, checkpoint.first_location, device)
        beams = max(1, self._generation.num_beams or 1)
        needs = forecast(self._decoder, vision, model.config, checkpoint.decoder_limit, beams, self._group, FRAMES_KEPT)
        self._count = self._limit = fit(max_batch, self.model, needs, device)
        self.frames = ImageCache(vision, Preprocessor(images), device, dtype, FRAMES_KEPT)
        self.slots = DecodeBatch(self._decoder, self._chooser, self._count, vision.tokens, checkpoint.decoder_limit)
        self.drafts = DraftStore()
        self._use_drafts = drafts
        self._calm = 0
        """Answers since the last failure."""
        self._waiting: deque[_Work] = deque()
        self._writing: list[_Work] = []
        """Row by row as in the slots."""
        self._searching: list[_Work] = []
        self._order: dict[Key, deque[_Work]] = {}
        """Every question's jobs that have no result out yet, as they came in."""

    def free(self) -> int:
        return self._count - self._load()

    def admit(self, jobs: Sequence[Job]) -> None:
        """Take at most `free()` jobs."""
        if len(jobs) > self.free():
            raise ValueError(f"{len(jobs)} jobs for {self.free()} free places")
        for job in jobs:
            work = _Work(job)
            self._waiting.append(work)
            self._order.setdefault(work.key, deque()).append(work)

    @torch.inference_mode()
    def step(self) -> list[Result]:
        """Start the questions about the next frame, write every answer one token further; return those that ended.

        The answers of one camera's task come out in the order of its jobs, so that none is overtaken by a later frame.
        """
        self._start()
        self._write()
        self._search()
        return list(self._ended())

    def warm_up(self) -> None:
        """Write one small answer. Raises ConfigError when the checkpoint does not work on its device."""
        self.admit([trial()])
        results: list[Result] = []
        while not results:
            results = self.step()
        self.drafts = DraftStore()
        # That the answer is longer than four tokens is no failure.
        if (error := results[0].error) and "did not end" not in error:
            raise ConfigError(f"checkpoint {self.model} does not run: {error}")

    def _ended(self) -> Iterator[Result]:
        for key, works in list(self._order.items()):
            while works and (ended := works[0].result):
                works.popleft()
                yield ended
            if not works:
                del self._order[key]

    def _load(self) -> int:
        return len(self._waiting) + len(self._writing) + len(self._searching)

    # -- starting

    def _start(self) -> None:
        ready = [work for work in self._next() if self._ask(work)]
        frames = {id(work.job.frame.image): work.job.frame for work in ready}
        seen: dict[int, Tensor | PipelineError] = {}
        if not self._tried(ready, lambda: seen.update(zip(frames, self.frames(list(frames.values())), strict=True))):
            return
        rows: list[tuple[_Work, Tensor]] = []
        for work in ready:
            tokens = seen[id(work.job.frame.image)]
            if isinstance(tokens, PipelineError):
                self._finish(work, str(tokens))
            else:
                rows.append((work, tokens))
        # One by one on a CPU: filling up shorter prompts costs more there than the batch saves.
        size = 1 if self._group == 1 else max(1, len(rows))
        for first in range(0, len(rows), size):
            part = rows[first : first + size]
            self._tried([work for work, _ in part], lambda part=part: self._place(part))  # type: ignore[misc]
        if any(work.draft for work in self._writing):
            self._settle(self.slots.fill_cross_cache())

    def _tried(self, works: Sequence[_Work], action: Callable[[], None]) -> bool:
        """Whether `action` went well; otherwise these works wait for another try or end as errors."""
        try:
            action()
        except torch.AcceleratorError:
            raise  # The device is in an unknown state: only a new process helps.
        # A row the model chokes on can end in anything, and must not take the others with it.
        except Exception as error:
            self._retreat(works, error)
            return False
        return True

    def _next(self) -> list[_Work]:
        """Questions about the frames whose turn it is, as far as there is room, in their order."""
        room = self._limit - len(self._writing) - len(self._searching)
        frames: list[Frame] = []
        chosen: list[_Work] = []
        for work in self._waiting:
            if len(chosen) >= room:
                break
            if all(work.job.frame.image is not frame.image for frame in frames):
                if len(frames) == self._group:
                    continue
                frames.append(work.job.frame)
            chosen.append(work)
        for work in chosen:
            self._waiting.remove(work)
        return chosen

    def _ask(self, work: _Work) -> bool:
        work.started = work.started or time.monotonic()
        try:
            work.question = self.questions.encode(work.job)
        except PipelineError as error:
            self._finish(work, str(error))
            return False
        return True

    def _place(self, rows: Sequence[tuple[_Work, Tensor]]) -> None:
        """Encode questions, and give each a row or a search of its own."""
        prompts = [work.question.ids[self._image_tokens :] for work, _ in rows if work.question]
        states = self.encoder([tokens for _, tokens in rows], prompts)
        lengths = [self._image_tokens + len(prompt) for prompt in prompts]
        works = [work for work, _ in rows]
        greedy = [place for place, work in enumerate(works) if work.job.due.task.params.quality == "fast"]
        searching = [work for place, work in enumerate(works) if place not in greedy]
        for work in searching:
            place = works.index(work)
            source = states[place, : lengths[place]]
            work.search = BeamSearch(self._decoder, self._chooser, self._generation, source, work.cap)
        if greedy:
            drafts = [self._draft(works[place], len(greedy)) for place in greedy]
            caps = [works[place].cap for place in greedy]
            self.slots.add(states[greedy], [lengths[place] for place in greedy], caps, drafts)
        self._writing += [works[place] for place in greedy]
        self._searching += searching

    # -- writing

    def _write(self) -> None:
        works = list(self._writing)
        if works and not self._tried(works, self._advance):
            self._writing, self.slots.active = [], 0
            return
        # From the last row to the first: the row that moves into a freed place has been looked at already.
        for row in reversed(range(len(works))):
            if works[row].done:
                self._release(row)

    def _advance(self) -> None:
        if any(work.draft for work in self._writing):
            self.slots.step([self._propose(work, len(self._writing)) for work in self._writing])
        else:
            for _ in range(self._burst):
                self.slots.step()
        self._settle(self.slots.fill_cross_cache())

    def _release(self, row: int) -> None:
        work = self._writing[row]
        written = self.slots.answer(row)
        self.slots.remove(row)
        self._writing[row] = self._writing[-1]
        self._writing.pop()
        self._complete(work, written)

    def _search(self) -> None:
        for work in list(self._searching):
            search = work.search
            assert search is not None
            if not self._tried([work], search.step):
                self._searching.remove(work)
            elif search.done:
                self._searching.remove(work)
                self._complete(work, search.written)

    # -- drafts

    def _draft(self, work: _Work, rows: int) -> Sequence[int]:
        """The first piece of a row's draft."""
        work.length = len(self._chooser.start)
        work.draft = self.drafts.draft(work.key) if self._use_drafts else None
        return self._propose(work, rows)

    def _propose(self, work: _Work, rows: int) -> Sequence[int]:
        # The place behind the draft needs a token as well.
        room = min(work.cap - work.length, DRAFT_TOKENS // rows - 1)
        proposal = work.draft.propose(room) if work.draft else ()
        work.proposed = len(proposal)
        return proposal

    def _settle(self, states: Sequence[State]) -> None:
        for work, state in zip(self._writing, states, strict=True):
            if work.draft and state.length > work.length:
                work.draft.settle(work.proposed, state.length - work.length - 1, state.last)
            work.length, work.done = state.length, state.done

    # -- ending

    def _complete(self, work: _Work, written: Generation) -> None:
        answer = self.questions.decode(work.job, work.cap, written)
        if isinstance(answer, str):
            self._finish(work, answer)
            return
        if self._use_drafts and work.search is None:
            self.drafts.learn(work.key, written.tokens[len(self._chooser.start) : -1], work.draft)
        batch = self._load() + 1
        took = time.monotonic() - work.started
        work.result = result(work.job, answer, work.started, took, batch)
        if work.draft is not None:
            work.result = dataclasses.replace(work.result, draft=(work.draft.checked, work.draft.accepted))
        self._calm += 1
        if self._limit < self._count and self._calm >= RECOVERY:
            self._calm, self._limit = 0, min(self._count, 2 * self._limit)

    def _finish(self, work: _Work, error: str) -> None:
        took = time.monotonic() - work.started
        work.result = result(work.job, error, work.started, took, self._load() + 1)

    def _retreat(self, works: Sequence[_Work], error: Exception) -> None:
        """Try again with smaller batches; what fails alone is an error."""
        log.warning("a batch of %d failed: %s", len(works), error)
        self.frames.clear()
        self._calm = 0
        others = self._load() - len(self._waiting) - sum(work in self._writing for work in works)
        if len(works) == 1 and not (others and is_shortage(error)):
            self._finish(works[0], f"the model failed: {error}")
            return
        # Where memory was short half as many may fit; else one of them is broken, and is found alone.
        self._limit = max(1, others + len(works) // 2) if is_shortage(error) else 1
        for work in reversed(works):
            work.draft, work.search, work.done = None, None, False
            self._waiting.appendleft(work)
