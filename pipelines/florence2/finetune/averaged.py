"""The mean of a model's weights over the newest steps of its training.

Each step pulls the weights towards its few examples. Their mean over many steps is nearer to what all examples ask for
(Polyak and Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

State = dict[str, dict[str, Tensor]]


class AveragedWeights:
    """The means of trained weights, in which a step counts less the older it is, and the best of these means."""

    def __init__(self, trained: Mapping[str, Tensor], steps: int) -> None:
        """`trained`: the weights as they change, by name. `steps`: the newest ones, which count most."""
        self._trained, self._steps = trained, steps
        self._means = _copies(trained)
        self._best: dict[str, Tensor] = {}

    @property
    def state(self) -> State:
        """Return what `load` continues from."""
        return {"means": self._means, "best": self._best}

    def load(self, state: State) -> None:
        self._means, self._best = state["means"], state["best"]

    def add(self, step: int) -> None:
        """Count the weights after a step. `step`: its number, from 1 on."""
        with torch.no_grad():
            for name, mean in self._means.items():
                mean.lerp_(self._trained[name], 1 / min(step, self._steps))

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the model have the means within the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def keep(self) -> None:
        """Keep the present means as the best ones. Call it outside of `in_use`, which moves them."""
        self._best = _copies(self._means)

    def take_best(self) -> None:
        """Let the model have the means that were kept last, if there are any."""
        with torch.no_grad():
            for name, best in self._best.items():
                self._trained[name].copy_(best)

    def _swap(self) -> None:
        """Exchange the weights and their means one by one, which needs the memory of one only."""
        with torch.no_grad():
            for name, mean in self._means.items():
                weights = self._trained[name]
                before = weights.clone()
                weights.copy_(mean)
                mean.copy_(before)


def _copies(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in weights.items()}
