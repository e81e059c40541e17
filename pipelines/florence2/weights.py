"""Reads the weights of a model one by one from their files, so that never two copies of the model are in memory.

Files are read, not mapped: a mapped file counts as memory of the process, and crashes it when the file is cut.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pipelines.florence2.architecture import Shape
from streamer.core.errors import ConfigError

log = logging.getLogger(__name__)

SHARED, HEAD = "model.language_model.shared.weight", "lm_head.weight"
_EMBEDDINGS = (SHARED, *(f"model.language_model.{part}.embed_tokens.weight" for part in ("encoder", "decoder")), HEAD)
"""Names of the token embedding. A file holds one or several of them; the output head differs in some fine-tunes."""
_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """The place of a weight in a safetensors file."""

    path: Path
    start: int
    """Offset of the first byte in the file."""
    shape: Shape
    dtype: torch.dtype | None
    """None for a type that no model computes with."""

    def read(self) -> Tensor:
        """Return the weight as stored. Raises OSError, EOFError."""
        assert self.dtype is not None
        data = torch.empty(math.prod(self.shape) * self.dtype.itemsize, dtype=torch.uint8)
        rest = memoryview(data.numpy())  # type: ignore[arg-type]
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start)
            while rest:
                count = file.readinto(rest)
                if not count:
                    raise EOFError(f"{self.path} ends early")
                rest = rest[count:]
        return data.view(self.dtype).view(self.shape)


class Weights:
    """The weights of a model by name, in one number type on one device."""

    def __init__(
        self, name: str, stored: Mapping[str, StoredWeight | Tensor], dtype: torch.dtype, device: torch.device
    ) -> None:
        """`name` is the checkpoint's, for errors."""
        self.dtype, self.device = dtype, device
        self._name, self._stored = name, stored
        self._kept: dict[str, Tensor] = {}
        """Embeddings that were read: several parts of the model share one tensor."""
        self._names = self._tie()

    def __getitem__(self, name: str) -> Tensor:
        name = self._names.get(name, name)
        if name not in _EMBEDDINGS:
            return self._read(name).to(self.device, self.dtype)
        if name not in self._kept:
            self._kept[name] = self._read(name).to(self.device, self.dtype)
        return self._kept[name]

    def __contains__(self, name: str) -> bool:
        return self._names.get(name, name) in self._stored

    def at(self, name: str) -> Part:
        """Return the part of the model with this name."""
        return Part(self, name)

    @property
    def is_tied(self) -> bool:
        """Return whether the output head is the embedding."""
        return self._names[HEAD] == self._names[SHARED]

    def fit(self, shapes: Mapping[str, Shape]) -> bool:
        """Return whether all these weights are there, as floating-point numbers of these shapes."""
        expected = {**shapes, **dict.fromkeys(_EMBEDDINGS, shapes[SHARED])}
        stored = {name: self._stored.get(self._names.get(name, name)) for name in expected}
        return all(
            weight is not None and tuple(weight.shape) == expected[name] and weight.dtype in _TYPES.values()
            for name, weight in stored.items()
        )

    def _read(self, name: str) -> Tensor:
        weight = self._stored[name]
        if isinstance(weight, Tensor):
            return weight
        try:
            return weight.read()
        except (OSError, EOFError):
            raise damaged(self._name, weight.path) from None

    def _tie(self) -> dict[str, str]:
        """Return for each name of the embedding the name under which it is read; equal copies are read once."""
        names: dict[str, str] = {}
        present = [name for name in _EMBEDDINGS if name in self._stored] or [SHARED]
        for name in (*present, *_EMBEDDINGS):
            if name not in names:
                kept = dict.fromkeys(names.values())
                names[name] = next((other for other in kept if self._is_copy(name, other)), name)
        return names

    def _is_copy(self, name: str, other: str) -> bool:
        if name not in self._stored:
            return True
        one, two = self._stored[name], self._stored[other]
        if one.dtype is None or one.dtype != two.dtype or tuple(one.shape) != tuple(two.shape):
            return False
        return torch.equal(self._read(name), self._read(other))


class Part:
    """The weights of one part of a model. Each access reads the weight anew."""

    __slots__ = ("_name", "_weights")

    def __init__(self, weights: Weights, name: str) -> None:
        self._weights, self._name = weights, name

    def at(self, name: str) -> Part:
        """Return a part of this part."""
        return Part(self._weights, f"{self._name}.{name}")

    def __getitem__(self, name: str) -> Tensor:
        return self._weights[f"{self._name}.{name}"]

    @property
    def weight(self) -> Tensor:
        return self["weight"]

    @property
    def bias(self) -> Tensor | None:
        return self["bias"] if f"{self._name}.bias" in self._weights else None


def find_weights(name: str, paths: Iterable[Path]) -> dict[str, StoredWeight]:
    """Return the place of every weight in a checkpoint's files. Raises ConfigError when a file is damaged."""
    found: dict[str, StoredWeight] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt"):
                pass  # checks the whole header, and that all offsets are inside the file
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(length))
        except (SafetensorError, OSError, ValueError):
            raise damaged(name, path) from None
        for key, entry in header.items():
            if key != "__metadata__":
                start, dtype = 8 + length + entry["data_offsets"][0], _TYPES.get(entry["dtype"])
                found[key] = StoredWeight(path, start, tuple(entry["shape"]), dtype)
    return found


def damaged(name: str, path: Path) -> ConfigError:
    return ConfigError(f"checkpoint {name}: {path.name} is damaged")
