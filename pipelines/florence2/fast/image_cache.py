"""Cache of image tokens: the vision tower runs once per frame, and all jobs about the frame share its output."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipelines.florence2.fast.parts import Vision
from streamer.types import Frame, FrameId, Image

CACHED_FRAMES = 8
"""Frames whose image tokens are kept for further jobs."""

Key = tuple[str, FrameId, int]


class ImageCache:
    """Image tokens of the frames that were used most recently; an entry goes when its image is garbage-collected."""

    def __init__(
        self, vision: Vision, preprocess: Callable[[Image], Tensor], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.misses = 0
        """Images that went through the vision tower."""
        self.vision, self.preprocess = vision, preprocess
        self._device, self._dtype = device, dtype
        self._cache: OrderedDict[Key, tuple[weakref.ref[Image], Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._cache)

    def clear(self) -> None:
        self._cache.clear()

    def __call__(self, frames: Sequence[Frame]) -> list[Tensor]:
        """Return each frame's image tokens (tokens, width).

        Frames that are not in the cache run through the vision tower as one batch.
        """
        found: dict[int, Tensor] = {}
        pixels: dict[int, Tensor] = {}
        for index, frame in enumerate(frames):
            if (entry := self._cache.get(_key(frame))) is not None:
                self._cache.move_to_end(_key(frame))
                found[index] = entry[1]
            else:
                pixels[index] = self.preprocess(frame.image)
        if pixels:
            self.misses += len(pixels)
            computed = self.vision(torch.stack(list(pixels.values())).to(self._device, self._dtype))
            # A copy per frame: an entry that is a view would keep the whole batch in memory.
            for index, tokens in zip(pixels, computed, strict=True):
                found[index] = tokens.clone()
                self._put(frames[index], found[index])
        return [found[index] for index in range(len(frames))]

    def _put(self, frame: Frame, tokens: Tensor) -> None:
        key = _key(frame)
        # The callback removes the entry before another image can have the same id.
        self._cache[key] = weakref.ref(frame.image, lambda _: self._cache.pop(key, None)), tokens
        if len(self._cache) > CACHED_FRAMES:
            self._cache.popitem(last=False)


def _key(frame: Frame) -> Key:
    # A crop has the frame id of the whole frame, so the id of the image is part of the key.
    return frame.stream, frame.id, id(frame.image)
