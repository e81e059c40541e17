"""What the vision tower made of a frame, made once and shared by all questions about it."""

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
    """Image tokens by frame: as long as somebody holds the frame, and only of the `kept` most recently used ones."""

    def __init__(
        self,
        vision: DaViT,
        preprocess: Callable[[Image], Tensor],
        device: torch.device,
        dtype: torch.dtype,
        kept: int,
    ) -> None:
        self.looked = 0
        """Pictures that went through the vision tower."""
        self.vision, self.preprocess = vision, preprocess
        self._device, self._dtype, self._kept = device, dtype, kept
        self._cache: OrderedDict[Key, tuple[weakref.ref[Image], Tensor]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._cache)

    def clear(self) -> None:
        self._cache.clear()

    def __call__(self, frames: Sequence[Frame]) -> list[Tensor | PipelineError]:
        """Image tokens (tokens, width) of each frame, or why there are none. What is not known runs as one batch."""
        found: dict[int, Tensor | PipelineError] = {}
        pixels: dict[int, Tensor] = {}
        for place, frame in enumerate(frames):
            known = self._known(frame)
            if known is not None:
                found[place] = known
                continue
            try:
                pixels[place] = self.preprocess(frame.image)
            except PipelineError as error:
                found[place] = error
        if pixels:
            self.looked += len(pixels)
            made = self.vision(torch.stack(list(pixels.values())).to(self._device, self._dtype))
            # Each frame's tokens of their own: the cache must not hold a whole batch for one of its frames.
            for place, tokens in zip(pixels, made, strict=True):
                found[place] = tokens.clone()
                self._keep(frames[place], found[place])
        return [found[place] for place in range(len(frames))]

    def _known(self, frame: Frame) -> Tensor | None:
        entry = self._cache.get(_key(frame))
        if entry is None:
            return None
        self._cache.move_to_end(_key(frame))
        return entry[1]

    def _keep(self, frame: Frame, tokens: Tensor | PipelineError) -> None:
        if self._kept and isinstance(tokens, Tensor):
            key = _key(frame)
            # The entry goes with the picture, before anything else can have its address.
            self._cache[key] = weakref.ref(frame.image, lambda _: self._cache.pop(key, None)), tokens
            while len(self._cache) > self._kept:
                self._cache.popitem(last=False)


def _key(frame: Frame) -> Key:
    # A question about a part of a frame has the same frame id: what it sees counts as well.
    return frame.stream, frame.id, id(frame.image)
