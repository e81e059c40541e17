"""Settings of a training run. Imports no torch."""

from __future__ import annotations

import math

from pydantic import Field

from streamer.core.settings import Settings


class TrainingSettings(Settings):
    """Settings of a training run; the defaults are those for LoRA on the text part."""

    full: bool = False
    """Train all weights instead of adapters: for small models."""
    vision: bool = False
    """Train the vision tower too; otherwise its weights stay as they are, and pictures cost no backward pass."""
    rank: int = Field(default=16, ge=1, le=256)
    """Rank of the adapters."""
    alpha: int = Field(default=32, ge=1, le=512)
    """Scale of the adapters; their product is multiplied by alpha / rank."""
    rate: float | None = Field(default=None, gt=0, le=1)
    """Highest learning rate. Default: 1e-4 for adapters, 2e-5 for all weights."""
    epochs: int = Field(default=8, ge=1, le=1000)
    """Passes over the examples at most."""
    batch: int = Field(default=8, ge=1, le=256)
    """Examples per step."""
    warm_up: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps in which the learning rate rises; it falls to zero over the others."""
    augment: bool = True
    """Vary light, colour, side and size of the pictures in each epoch, with their answers."""
    composed: int = Field(default=0, ge=0, le=100)
    """Pictures that are composed of each picture of a fixed camera with objects: these objects at other places."""
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    patience: int = Field(default=2, ge=1, le=100)
    """Comparisons with the held-out examples without an improvement after which training ends."""
    checks: int = Field(default=1, ge=1, le=100)
    """Comparisons per epoch."""
    seed: int = 0

    @property
    def highest_rate(self) -> float:
        return self.rate if self.rate is not None else 2e-5 if self.full else 1e-4

    def rate_at(self, step: int, steps: int) -> float:
        """Return the learning rate of a step, counted from 0, of `steps`."""
        rising = max(1, math.ceil(steps * self.warm_up))
        if step < rising:
            return self.highest_rate * (step + 1) / rising
        return self.highest_rate * (steps - step) / max(1, steps - rising)
