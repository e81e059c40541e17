"""Cache of image tokens: the vision tower runs once per frame, and all jobs about the frame share its output."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipelines.florence2.fast.davit import DaViT
from streamer.core.errors import PipelineError
from streamer.types import Frame, FrameId, Image

Key = tuple[str, FrameId, int]


class ImageCache:
    """Image tokens of the `capacity` most recently used frames; an entry goes when its image is garbage-collected."""

    def __init__(
        self,
        vision: DaViT,
        preprocess: Callable[[Image], Tensor],
        device: torch.device,
        dtype: torch.dtype,
        capacity: int,
    ) -> None:
        self.misses = 0
        """Images that went through the vision tower."""
        self.vision, self.preprocess = vision, preprocess
        self._device, self._dtype, self._capacity = device, dtype, capacity
        self._cache: OrderedDict[Key, tuple[weakref.ref[Image], Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._cache)

    def clear(self) -> None:
        self._cache.clear()

    def __call__(self, frames: Sequence[Frame]) -> list[Tensor | PipelineError]:
        """Return each frame's image tokens (tokens, width), or the error of its preprocessing.

        Frames that are not in the cache run through the vision tower as one batch.
        """
        found: dict[int, Tensor | PipelineError] = {}
        pixels: dict[int, Tensor] = {}
        for index, frame in enumerate(frames):
            cached = self._get(frame)
            if cached is not None:
                found[index] = cached
                continue
            try:
                pixels[index] = self.preprocess(frame.image)
            except PipelineError as error:
                found[index] = error
        if pixels:
            self.misses += len(pixels)
            computed = self.vision(torch.stack(list(pixels.values())).to(self._device, self._dtype))
            # A copy per frame: an entry that is a view would keep the whole batch in memory.
            for index, tokens in zip(pixels, computed, strict=True):
                found[index] = tokens.clone()
                self._put(frames[index], found[index])
        return [found[index] for index in range(len(frames))]

    def _get(self, frame: Frame) -> Tensor | None:
        entry = self._cache.get(_key(frame))
        if entry is None:
            return None
        self._cache.move_to_end(_key(frame))
        return entry[1]

    def _put(self, frame: Frame, tokens: Tensor | PipelineError) -> None:
        if self._capacity and isinstance(tokens, Tensor):
            key = _key(frame)
            # The callback removes the entry before another image can have the same id.
            self._cache[key] = weakref.ref(frame.image, lambda _: self._cache.pop(key, None)), tokens
            while len(self._cache) > self._capacity:
                self._cache.popitem(last=False)


def _key(frame: Frame) -> Key:
    # A crop has the frame id of the whole frame, so the id of the image is part of the key.
    return frame.stream, frame.id, id(frame.image)
