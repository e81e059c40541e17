"""Vision tower and text encoder at a few sizes over preallocated tensors, as a runner needs them.

Rows and positions without data are computed too, and nothing reads them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from pipelines.florence2.fast.buckets import first_fitting, powers
from pipelines.florence2.fast.davit import DaViT
from pipelines.florence2.fast.encoder import Encoder, padded
from pipelines.florence2.fast.graphs import Program, Runner, device_tensor
from pipelines.florence2.fast.memory_budget import Room

MAX_ROWS = 32
"""Most frames or rows in one pass. Fewer keep a GPU busy already, and buffers and graphs take memory."""
MAX_PROMPT = 127
"""Longest prompt in tokens that has a size; a longer one is rare, and the encoder runs for it as it is. The prompts of
most tasks have 8 to 20 tokens."""
POSITION_STEP = 32
"""Positions between two sizes of the encoder."""


def static_parts(vision: DaViT, encoder: Encoder, room: Room, runner: Runner) -> tuple[StaticVision, StaticEncoder]:
    """Return both parts for steps of at most these sizes."""
    return StaticVision(vision, room.frames, runner), StaticEncoder(encoder, vision.tokens, room.rows, runner)


class StaticVision:
    """The vision tower for 1, 2, 4 and so on up to `frames` frames."""

    def __init__(self, vision: DaViT, frames: int, runner: Runner) -> None:
        """`frames`: most frames in one pass; further ones go through a pass of their own."""
        self.tokens, self.peak = vision.tokens, vision.peak
        self._vision, self._frames = vision, min(frames, MAX_ROWS)
        self._programs = _Programs(runner)
        self.sizes = powers(1, self._frames)
        # In memory as the tower computes: (frames, positions, channels).
        pixels = torch.zeros(self._frames, *vision.size, 3, dtype=vision.dtype, device=vision.device)
        self._pixels = pixels.permute(0, 3, 1, 2)
        self._tokens = torch.zeros(self._frames, vision.tokens, vision.width, dtype=vision.dtype, device=vision.device)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return image tokens (frames, tokens, width) of `pixels` (frames, 3, height, width)."""
        return torch.cat([self._run(part) for part in pixels.split(self._frames)])

    def _run(self, pixels: Tensor) -> Tensor:
        frames = len(pixels)
        self._pixels[:frames].copy_(pixels)
        self.prepare(first_fitting(self.sizes, frames))()
        return self._tokens[:frames].clone()

    def prepare(self, size: int) -> Program:
        """Return the program for one of the sizes, which is prepared at the first call."""
        return self._programs.prepare(self.name(size), partial(self._compute, size))

    def name(self, size: int) -> str:
        return f"vision of {size} frames"

    def _compute(self, size: int) -> None:
        self._tokens[:size].copy_(self._vision(self._pixels[:size]))


class StaticEncoder:
    """The text encoder for 1, 2, 4 and so on up to `rows` rows, and a few lengths."""

    def __init__(self, encoder: Encoder, image_tokens: int, rows: int, runner: Runner) -> None:
        """`rows`: most rows in one pass; further ones go through a pass of their own."""
        self.embed = encoder.embed
        self._encoder, self._image_tokens, self._rows = encoder, image_tokens, min(rows, MAX_ROWS)
        self._programs = _Programs(runner)
        width, dtype, device = encoder.width, encoder.dtype, encoder.device
        longest = self._positions(MAX_PROMPT)
        lengths = sorted({self._positions(prompt) for prompt in range(1, MAX_PROMPT + 1)})
        self.sizes = [(size, length) for size in powers(1, self._rows) for length in lengths]
        """Rows and positions."""
        self._images = torch.zeros(self._rows, image_tokens, width, dtype=dtype, device=device)
        self._prompts = torch.zeros(self._rows, 1 + longest - image_tokens, dtype=torch.long, device=device)
        """Positions with data in each row, then its prompt."""
        self._states = torch.zeros(self._rows * longest * width, dtype=dtype, device=device)

    def __call__(self, images: Sequence[Tensor], prompts: Sequence[Sequence[int]]) -> Tensor:
        """Return (rows, positions, width): the image tokens (tokens, width), the prompt, then padding."""
        longest = max(len(prompt) for prompt in prompts)
        if longest > MAX_PROMPT:
            return self._encoder(images, prompts)
        positions = self._positions(longest)
        parts = [slice(first, first + self._rows) for first in range(0, len(images), self._rows)]
        return torch.cat([self._run(images[part], prompts[part], positions) for part in parts])

    def _positions(self, prompt: int) -> int:
        """Return the positions that are computed for a prompt of this length."""
        positions = -(-(self._image_tokens + prompt) // POSITION_STEP) * POSITION_STEP
        return min(positions, self._encoder.embed.positions)

    def _run(self, images: Sequence[Tensor], prompts: Sequence[Sequence[int]], positions: int) -> Tensor:
        rows, length = len(images), positions - self._image_tokens
        size = first_fitting([size for size, _ in self.sizes], rows)
        torch.stack(list(images), out=self._images[:rows])
        table = [
            [self._image_tokens + len(prompt), *ids]
            for prompt, ids in zip(prompts, padded(prompts, length), strict=True)
        ]
        self._prompts[:rows, : 1 + length].copy_(device_tensor(table, torch.long, self._encoder.device))
        self.prepare(size, positions)()
        return self._output(size, positions)[:rows].clone()

    def prepare(self, rows: int, positions: int) -> Program:
        """Return the program for one of the sizes, which is prepared at the first call."""
        return self._programs.prepare(self.name(rows, positions), partial(self._compute, rows, positions))

    def name(self, rows: int, positions: int) -> str:
        return f"encoder of {rows} rows with {positions} positions"

    def _compute(self, rows: int, positions: int) -> None:
        ends, ids = self._prompts[:rows, 0], self._prompts[:rows, 1 : 1 + positions - self._image_tokens]
        x = self._encoder.embed.rows(self._images[:rows], ids)
        states = self._encoder.run_layers(x, self._encoder.bias(ends, positions))
        self._output(rows, positions).copy_(states)

    def _output(self, rows: int, positions: int) -> Tensor:
        shape = rows, positions, self._encoder.width
        return self._states[: math.prod(shape)].view(shape)


class _Programs:
    """Programs by name, each prepared once."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._prepared: dict[str, Program] = {}

    def prepare(self, name: str, program: Program) -> Program:
        if name not in self._prepared:
            self._prepared[name] = self._runner.prepare(name, program)
        return self._prepared[name]
