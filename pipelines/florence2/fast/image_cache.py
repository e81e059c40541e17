"""Cache of image tokens: the vision tower runs once per frame, and all jobs about the frame share its output."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from pipelines.florence2.fast.device_stream import DeviceStream
from pipelines.florence2.fast.parts import Vision
from streamer.types import Frame, FrameId, Image

CACHED_FRAMES = 8
"""Frames whose image tokens are kept for further jobs, beside those in use."""

Key = tuple[str, FrameId, int]


class ImageCache:
    """Image tokens of the frames that were used most recently; an entry goes when its image is garbage-collected."""

    def __init__(
        self, vision: Vision, preprocess: Callable[[Image], Tensor], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.misses = 0
        """Images that went through the vision tower."""
        self.vision, self.preprocess = vision, preprocess
        self.stream = DeviceStream(device)
        """Runs preprocessing and vision tower."""
        self._device, self._dtype = device, dtype
        self._cache: OrderedDict[Key, tuple[weakref.ref[Image], Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._cache)

    def clear(self) -> None:
        self._cache.clear()

    def __call__(self, frames: Sequence[Frame]) -> list[Tensor]:
        """Return each frame's image tokens (tokens, width)."""
        tokens = self.start(frames)
        self.stream.join(tokens)
        return tokens

    def start(self, frames: Sequence[Frame], in_use: Collection[int] = ()) -> list[Tensor]:
        """Return each frame's image tokens, which are complete on other streams after `stream.join`.

        Frames that are not in the cache run through the vision tower as one batch. `in_use`: ids of the images whose
        tokens are kept, however many there are.
        """
        found: dict[Key, Tensor] = {}
        missing: dict[Key, Frame] = {}
        for frame in frames:
            key = _key(frame)
            if (entry := self._cache.get(key)) is not None:
                self._cache.move_to_end(key)
                found[key] = entry[1]
            else:
                missing[key] = frame
        if missing:
            self.misses += len(missing)
            with self.stream.active():
                pixels = torch.stack([self.preprocess(frame.image) for frame in missing.values()])
                computed = self.vision(pixels.to(self._device, self._dtype))
                # A copy per frame: an entry that is a view would keep the whole batch in memory.
                found |= zip(missing, (tokens.clone() for tokens in computed), strict=True)
            for key, frame in missing.items():
                self._put(key, frame, found[key], in_use)
        return [found[_key(frame)] for frame in frames]

    def _put(self, key: Key, frame: Frame, tokens: Tensor, in_use: Collection[int]) -> None:
        # The callback removes the entry before another image can have the same id.
        self._cache[key] = weakref.ref(frame.image, lambda _: self._cache.pop(key, None)), tokens
        if len(self._cache) > CACHED_FRAMES:
            oldest = next((key for key in self._cache if key[2] not in in_use), None)
            self._cache.pop(oldest, None)  # type: ignore[arg-type]  # None is no key


def _key(frame: Frame) -> Key:
    # A crop has the frame id of the whole frame, so the id of the image is part of the key.
    return frame.stream, frame.id, id(frame.image)
