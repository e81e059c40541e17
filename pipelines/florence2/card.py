"""The graphics card that a model runs on, and why a card is not used, for users."""

from __future__ import annotations

from typing import NamedTuple

import torch

from streamer.core import nvidia


class Card(NamedTuple):
    """A CUDA device."""

    name: str
    memory: int
    """Bytes."""
    capability: str
    """Generation of its instructions, such as 9.0."""

    def __str__(self) -> str:
        return f"{self.name}, {self.memory / 1e9:.0f} GB"


def card_of(device: torch.device) -> Card | None:
    """Return the card of a CUDA device, None for another device."""
    if device.type != "cuda":
        return None
    found = torch.cuda.get_device_properties(device)
    return Card(found.name, found.total_memory, f"{found.major}.{found.minor}")


def unused_card() -> str | None:
    """Return why torch uses no CUDA device although NVIDIA's driver has one, None if it has none or torch uses it."""
    if torch.cuda.is_available() or not (cards := nvidia.cards()):
        return None
    driver = f"{cards[0]} with driver {nvidia.driver_version()} is present"
    if torch.version.cuda is None:
        return f"{driver}, but torch {torch.__version__} is built without CUDA: install torch from PyPI"
    return f"{driver}, but torch {torch.__version__} for CUDA {torch.version.cuda} cannot use it: update the driver"
