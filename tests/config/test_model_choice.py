"""Saved choices of the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamer.config.model import from_mapping
from streamer.config.model_choice import FILE, Choice, ModelChoices

CONFIG = from_mapping(
    {"model": {"max_batch": 2}, "streams": {"gate": {"source": "synthetic", "tasks": [{"task": "caption"}]}}}
)
FIRST = Choice(checkpoint="/models/first", name="first", hash="a" * 64, at=1.0)
SECOND = Choice(checkpoint="/models/second", name="second", hash="b" * 64, at=2.0)


def test_last_choice_is_used_and_other_keys_stay(tmp_path: Path) -> None:
    ModelChoices(tmp_path, CONFIG).use(FIRST)
    choices = ModelChoices(tmp_path, CONFIG)
    model = choices.at_start(CONFIG).model
    assert (model.checkpoint, model.hash, model.max_batch) == ("/models/first", "a" * 64, 2)
    assert choices.applied(choices.at_start(CONFIG), None).model == CONFIG.model


def test_going_back_ends_at_the_model_of_the_config(tmp_path: Path) -> None:
    choices = ModelChoices(tmp_path, CONFIG)
    choices.use(FIRST)
    choices.use(SECOND)
    assert choices.before == FIRST
    choices.use(choices.before)
    assert choices.used == [FIRST]
    choices.use(None)
    assert ModelChoices(tmp_path, CONFIG).current is None


def test_choice_ends_with_another_checkpoint_in_the_config(tmp_path: Path) -> None:
    ModelChoices(tmp_path, CONFIG).use(FIRST)
    other = from_mapping({**CONFIG.raw, "model": {"checkpoint": "/models/third"}})
    assert ModelChoices(tmp_path, other).at_start(other) is other


def test_model_that_was_given_up_is_not_used_again(tmp_path: Path) -> None:
    choices = ModelChoices(tmp_path, CONFIG)
    choices.use(FIRST)
    choices.use(SECOND)
    choices.give_up(SECOND, "it was empty")
    found = ModelChoices(tmp_path, CONFIG)
    assert (found.current, found.given_up[0].name, found.given_up[0].reason) == (FIRST, "second", "it was empty")


def test_damaged_file_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).write_text("{")
    assert ModelChoices(tmp_path, CONFIG).at_start(CONFIG) is CONFIG
    assert "chosen models not used" in caplog.text
