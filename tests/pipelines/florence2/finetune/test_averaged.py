"""Means of weights over the newest steps of a training."""

from __future__ import annotations

import torch

from pipelines.florence2.finetune.averaged import AveragedWeights


def test_means_over_the_newest_steps_are_used_within_a_block() -> None:
    weights = {"scale": torch.tensor([0.0, 0.0])}
    averaged = AveragedWeights(weights, steps=2)
    for step, value in enumerate((4.0, 8.0, 2.0), start=1):
        weights["scale"].copy_(torch.tensor([value, -value]))
        averaged.add(step)
    # 4, then (4 + 8) / 2 = 6, then (6 + 2) / 2 = 4
    with averaged.in_use():
        assert weights["scale"].tolist() == [4.0, -4.0]
    assert weights["scale"].tolist() == [2.0, -2.0]


def test_best_means_are_taken_also_after_a_resumed_run() -> None:
    weights = {"scale": torch.tensor([0.0])}
    averaged = AveragedWeights(weights, steps=2)
    for step, value in enumerate((4.0, 8.0), start=1):
        weights["scale"].fill_(value)
        averaged.add(step)
        if step == 1:
            averaged.keep()
    resumed = AveragedWeights(weights, steps=2)
    resumed.load(averaged.state)
    with resumed.in_use():
        assert weights["scale"].tolist() == [6.0]
    resumed.take_best()
    assert weights["scale"].tolist() == [4.0]
