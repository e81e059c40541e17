"""Collects frames with their answers for a dataset, as `collect` of a stream says.

A frame is judged when all of its jobs have ended, before its buffer is used again. What is stored is a copy.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from streamer.config.collect import DAY_S, Collect, masks_of
from streamer.config.model import Config
from streamer.core.closing import Closing
from streamer.core.picture_blocks import PictureBlocks, SeenPictures, picture_blocks
from streamer.events.build import result_id
from streamer.events.collected import CollectedFolder, masked, unmasked
from streamer.events.snapshots.folder import SUFFIX
from streamer.inference.collect_reasons import MAX_TEXT, Break, Disagreements, TrackMemory, unsure
from streamer.inference.collect_store import CollectStore, Order
from streamer.types import Frame, FrameId, Image, Point, Result, TaskSpec
from streamer.types.dataset import Annotation, CollectedPicture, PictureRecord

MAX_HELD = 4
"""Copies of frames, of all streams, that wait for a lost object to come back."""
MAX_GAP = 3
"""Answers after which an object that is missing is taken to have left."""
HOUR_S = 3600.0


@dataclass(slots=True)
class _Held:
    """A frame that lacks an object, until the object comes back."""

    task: str
    track: int
    order: Order
    answers_left: int = MAX_GAP


@dataclass(slots=True)
class StreamCollection:
    """The state of one stream."""

    settings: Collect
    masks: tuple[tuple[Point, ...], ...]
    disagreements: Disagreements
    tracks: dict[str, TrackMemory] = field(default_factory=dict)
    held: list[_Held] = field(default_factory=list)
    seen: SeenPictures = field(default_factory=SeenPictures)
    times: deque[float] = field(default_factory=deque)
    """Unix seconds of the stored pictures of the last day, the oldest first."""
    every_at: float = -math.inf
    """Unix second at which `every` stores the next frame."""
    is_loaded: bool = False
    """The pictures that were stored before are known. Nothing is stored earlier, so that a restart repeats nothing."""

    def has_room(self, now: float) -> bool:
        """Return whether the limits allow another picture at a unix second."""
        while self.times and self.times[0] <= now - DAY_S:
            self.times.popleft()
        in_hour = sum(at > now - HOUR_S for at in self.times)
        return len(self.times) < self.settings.per_day and in_hour < math.ceil(self.settings.per_day / 10)


class Collector(Closing):
    """The collection of an inference process. Its thread reads, writes and deletes files."""

    def __init__(self, config: Config, model: str, state: Path, specs: Mapping[str, TaskSpec]) -> None:
        self._agent, self._model = config.name, model
        self._streams = {
            name: StreamCollection(stream.collect, masks_of(stream.collect, stream.zones), Disagreements(specs))
            for name, stream in config.streams.items()
            if stream.collect is not None
        }
        self._results: dict[tuple[str, FrameId], list[Result]] = {}
        limits = {name: collection.settings for name, collection in self._streams.items()}
        self._store = CollectStore(CollectedFolder(state), limits, config.snapshots, self._on_loaded)

    def close(self) -> None:
        self._store.close()

    def _on_loaded(self, stream: str, times: Sequence[float], seen: SeenPictures) -> None:
        """Take what is stored of a stream. The thread calls it once for each."""
        collection = self._streams[stream]
        collection.times.extend(times)
        collection.seen = seen
        collection.is_loaded = True

    def add(self, result: Result) -> None:
        """Take an answer about a frame that is not settled yet."""
        due, frame = result.job.due, result.job.frame
        if due.stream in self._streams and result.outcome in ("ok", "empty"):
            self._results.setdefault((due.stream, frame.id), []).append(result)

    def finish(self, frame: Frame) -> None:
        """Judge a frame whose jobs have all ended. Its pixels are not used after the return."""
        results = self._results.pop((frame.stream, frame.id), None)
        if not results or not (collection := self._streams[frame.stream]).is_loaded:
            return
        reasons = self._reasons(frame, results, collection)
        missing = self._follow(results, collection, reasons) if collection.settings.tracks else []
        if not (reasons or missing) or not collection.has_room(time.time()):
            return
        image = masked(frame.image, collection.masks)
        if reasons:
            if (blocks := self._admit(image, collection)) is not None:
                self._store.put(self._order(frame, image, results, reasons, collection.masks), blocks)
            return
        for task, lost in missing:
            if sum(len(one.held) for one in self._streams.values()) < MAX_HELD:
                reason = f"gap: {task}: {lost.label[:MAX_TEXT]} was not found"
                order = self._order(frame, image, results, [reason], collection.masks)
                collection.held.append(_Held(task, lost.track, order))

    def _reasons(self, frame: Frame, results: Sequence[Result], collection: StreamCollection) -> list[str]:
        settings, reasons = collection.settings, list[str]()
        if settings.scores:
            reasons += unsure(results, *settings.scores)
        if settings.disagreement:
            reasons += collection.disagreements.find(results)
        if settings.every and frame.captured_at >= collection.every_at:
            collection.every_at = frame.captured_at + settings.every
            reasons.append("every")
        return reasons

    def _follow(
        self, results: Sequence[Result], collection: StreamCollection, reasons: list[str]
    ) -> list[tuple[str, Break]]:
        """Return the objects that are missing, with their tasks. Add label changes to `reasons`.

        A frame that is held because an object was missing is stored if the object is here again.
        """
        missing: list[tuple[str, Break]] = []
        for result in results:
            name, boxes = result.job.due.task.name, result.answer.boxes
            if result.job.due.parent is not None:
                continue
            flips, breaks = collection.tracks.setdefault(name, TrackMemory()).observe(boxes)
            reasons += (f"flip: {name}: {flip}" for flip in flips)
            missing += ((name, one) for one in breaks)
            present = {box.track for box in boxes}
            for held in [one for one in collection.held if one.task == name]:
                held.answers_left -= 1
                if held.track in present and (blocks := self._admit(held.order.image, collection)) is not None:
                    self._store.put(held.order, blocks)
                if held.track in present or held.answers_left == 0:
                    collection.held.remove(held)
        return missing

    def _admit(self, image: Image, collection: StreamCollection) -> PictureBlocks | None:
        """Return the blocks of a picture that may be stored; None if a limit or a near-duplicate is against it."""
        now = time.time()
        if not collection.has_room(now) or self._store.is_full:
            return None
        blocks = picture_blocks(image)
        if blocks is None or not collection.seen.add(blocks):
            return None
        collection.times.append(now)
        return blocks

    def _order(
        self,
        frame: Frame,
        image: Image,
        results: Sequence[Result],
        reasons: Sequence[str],
        masks: tuple[tuple[Point, ...], ...],
    ) -> Order:
        """Return a copy of a frame with its answers. `image`: its pixels without those in `masks`."""
        event = result_id(self._agent, frame.stream, frame.epoch, frame.seq, results[0].job.due.key)
        name = f"{frame.stream}/{event}{SUFFIX}"
        answers = tuple(
            Annotation(
                *(name, result.job.due.task.task, unmasked(result.answer, masks), self._model),
                *(result.job.due.task.params.prompt_text, result.job.due.task.params.prompt_region),
                *(frame.stream, frame.captured_at),
            )
            for result in results
        )
        record = PictureRecord(name, frame.stream, frame.captured_at, frame.epoch, frame.seq, tuple(reasons))
        own = image.copy() if image is frame.image else image
        return Order(frame.stream, event, own, CollectedPicture(self._agent, record, answers))
