"""Training: resumed runs, examples of all tasks, and the auxiliary truth."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import numpy as np
import torch

from pipelines.florence2.tasks import FLORENCE_TASKS
from pipelines.florence2.training.__main__ import Trainer
from pipelines.florence2.training.data import FIRST_TRAINING_SEED, TrainingBatches, dense_truth
from pipelines.florence2.training.labels import WEIGHTS, is_possible, make_example
from pipelines.florence2.training.model import ALPHABET, GRID
from streamer.toyworld.words import HELD_OUT_WORDS
from streamer.toyworld.world import World

ARGUMENTS = Namespace(device="cpu", rate=1e-3, steps=6, decay=0.4, dense_steps=1, start=None)


def _trained(trainer: Trainer, upto: int) -> Trainer:
    examples = TrainingBatches(trainer.tokenizer, batch=2, repeats=2, start=0)
    while trainer.number < upto:
        trainer.step(examples.make(trainer.number))
    return trainer


def test_resumed_run_ends_with_same_weights(tmp_path: Path) -> None:
    whole = _trained(Trainer(ARGUMENTS), 4)
    torch.save(_trained(Trainer(ARGUMENTS), 2).state(), tmp_path / "state.pt")
    resumed = Trainer(ARGUMENTS)
    resumed.resume(torch.load(tmp_path / "state.pt", weights_only=True))
    _trained(resumed, 4)
    for (name, ours), theirs in zip(whole.model.state_dict().items(), resumed.model.state_dict().values(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5), name


def test_training_covers_all_tasks() -> None:
    assert set(WEIGHTS) == set(FLORENCE_TASKS)


def test_training_never_shows_held_out_words() -> None:
    examples = TrainingBatches.__new__(TrainingBatches)
    rng = np.random.default_rng(0)
    shown = [sign.text for index in range(150) for sign in examples._scene(FIRST_TRAINING_SEED + index, rng).signs]
    assert len(shown) > 50
    assert not set(shown) & set(HELD_OUT_WORDS)


def test_dense_truth_contains_letters_of_signs() -> None:
    for seed in range(40):
        scene = World(seed).scene(1.0)
        for sign in scene.signs:
            halves = dense_truth(scene).reshape(GRID, GRID, -1)[:, :, 7:9].reshape(GRID, -1)
            seen = {ALPHABET[int(letter) - 1] for letter in halves.ravel() if letter}
            assert seen & set(sign.text)
            assert seen <= {letter for other in scene.signs for letter in other.text}


def test_examples_refer_to_objects_and_signs_of_scene() -> None:
    rng = np.random.default_rng(3)
    for seed in range(30):
        scene = World(seed).scene(4.0)
        for task in WEIGHTS:
            if is_possible(task, scene):
                example = make_example(task, scene, rng)
                assert {id(thing) for thing in example.things} <= {id(thing) for thing in scene.objects}
                assert all(sign.text in example.answer for sign in example.signs)
                if task == "object_detection":
                    assert example.answer.count("<loc_") == 4 * len(scene.objects)
