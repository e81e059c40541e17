"""The parts of the fast engine that another backend can replace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor


class Vision(Protocol):
    """The vision tower and its projector, as `DaViT`."""

    @property
    def tokens(self) -> int:
        """Image tokens per frame."""

    @property
    def peak(self) -> int:
        """Estimate of the most numbers in memory at once for one frame."""

    def __call__(self, pixels: Tensor, /) -> Tensor:
        """Return image tokens (frames, tokens, width) of `pixels` (frames, 3, height, width)."""


class TextEncoder(Protocol):
    """The text encoder, as `Encoder`."""

    @property
    def embed(self) -> Callable[[Tensor, Sequence[int]], Tensor]:
        """A function that returns the input of the layers for one row: (positions, width)."""

    def __call__(self, images: Sequence[Tensor], prompts: Sequence[Sequence[int]], /) -> Tensor:
        """Return (rows, positions, width): the image tokens (tokens, width), the prompt, then padding."""
