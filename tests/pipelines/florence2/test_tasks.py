"""The task table, task parameters and prompts."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.florence2.checkpoint import load
from pipelines.florence2.checkpoint_files import open_folder
from pipelines.florence2.grounded import GROUNDED_SPECS
from pipelines.florence2.pipeline import Florence2Settings, pipeline
from pipelines.florence2.processor import Processor
from pipelines.florence2.prompts import prompt_texts
from pipelines.florence2.tasks import FLORENCE_TASKS, SPECS, location_tokens
from streamer.config import model
from streamer.core.errors import ConfigError, PipelineError
from streamer.core.settings import parse_region
from tests.support.checkpoints import INPUTS, make_image

_TEXT = {"phrase_grounding", "referring_segmentation", "open_vocabulary_detection"}
_REGION = {"region_to_segmentation", "region_to_category", "region_to_description", "region_to_ocr"}


def _check(task: str, **keys: Any) -> Any:
    return SPECS[task].parameters.model_validate(keys)


def test_tasks_declare_their_inputs() -> None:
    assert len(SPECS) == 15
    assert pipeline.tasks().keys() == SPECS.keys() | GROUNDED_SPECS.keys()
    assert {name for name, spec in SPECS.items() if spec.takes_text} == _TEXT
    assert {name for name, spec in SPECS.items() if spec.takes_region} == _REGION
    assert {spec.result for spec in SPECS.values()} == {"text", "boxes", "polygons", "quads", "boxes_or_polygons"}


@pytest.mark.parametrize("task", SPECS)
def test_parameter_defaults_and_json_schema(task: str) -> None:
    params = _check(task, **INPUTS[task])
    assert params.quality == "fast"
    assert params.max_tokens == FLORENCE_TASKS[task].max_tokens
    schema = SPECS[task].parameters.model_json_schema()
    least = set() if SPECS[task].result == "text" else {"min_score"}
    tiled = {"object_detection", "open_vocabulary_detection", "dense_region_caption", "region_proposal"}
    tiles = {"tiles"} if task in {*tiled, "ocr_with_region"} else set()
    least |= {"confirm"} if SPECS[task].takes_text else set()
    assert set(schema["properties"]) == {"quality", "max_tokens", *INPUTS[task], *least, *tiles}
    assert getattr(params, "min_score", None) is None
    assert all(entry.get("description") for entry in schema["properties"].values())


@pytest.mark.parametrize(
    ("task", "keys", "words"),
    [
        ("open_vocabulary_detection", {}, "task open_vocabulary_detection needs `text`"),
        ("phrase_grounding", {"text": None}, "task phrase_grounding needs `text`"),
        ("region_to_ocr", {}, "task region_to_ocr needs `region`"),
        ("caption", {"text": "a cat"}, "task caption takes no `text`"),
        ("caption", {"region": "0,0,1,1"}, "task caption takes no `region`"),
        ("phrase_grounding", {"text": "a cat", "region": "0,0,1,1"}, "task phrase_grounding takes no `region`"),
        ("phrase_grounding", {"text": "  "}, "must not be empty"),
        ("phrase_grounding", {"text": "a <image> b"}, "without model tokens such as <image>"),
        ("region_to_category", {"region": "0.5,0,0.2,1"}, "0 <= x0 < x1 <= 1"),
        ("caption", {"quality": "best"}, "'fast' or 'official'"),
        ("caption", {"max_tokens": 0}, "greater than or equal to 1"),
        ("caption", {"min_score": 0.5}, "Extra inputs are not permitted"),
        ("caption", {"confirm": True}, "task caption takes no `confirm`: it is for tasks that search for a text"),
        ("phrase_grounding", {"text": "a cat", "confirm": 3}, "must be true, false or a mapping of keys"),
        ("phrase_grounding", {"text": "a cat", "confirm": {"min_score": 2}}, "less than or equal to 1"),
        ("object_detection", {"min_score": 1.5}, "less than or equal to 1"),
        ("object_detection", {"min_score": -0.1}, "greater than or equal to 0"),
    ],
)
def test_wrong_keys_are_named_in_error(task: str, keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words.replace("(", r"\(")):
        _check(task, **keys)


def test_region_becomes_four_location_tokens() -> None:
    assert location_tokens(0.0, 0.29, 0.57, 1.0) == "<loc_0><loc_290><loc_570><loc_999>"


@given(st.lists(st.integers(0, 999), min_size=4, max_size=4))
def test_middle_of_bin_maps_to_same_bin(bins: list[int]) -> None:
    tokens = "".join(f"<loc_{index}>" for index in bins)
    assert location_tokens(*((index + 0.5) / 1000 for index in bins)) == tokens


@pytest.mark.parametrize("task", SPECS)
def test_prompt_ids_equal_transformers(task: str, processor: Any, engine: Any) -> None:
    row, params = FLORENCE_TASKS[task], _check(task, **INPUTS[task])
    given_input = (
        location_tokens(*dataclasses.astuple(parse_region(params.region)))
        if task in _REGION
        else INPUTS[task].get("text", "")
    )
    theirs = processor(text=row.token + given_input, images=make_image(), return_tensors="pt").input_ids[0].tolist()
    checkpoint = engine._checkpoint
    image = [engine.network.config.image_token_id] * checkpoint.images.tokens
    assert image + Processor(checkpoint).prompt_ids(prompt_texts(task, params)[0]) == theirs


def test_prompt_longer_than_encoder_is_refused(engine: Any) -> None:
    checkpoint = engine._checkpoint
    processor = Processor(dataclasses.replace(checkpoint, max_positions=checkpoint.images.tokens + 10))
    with pytest.raises(PipelineError, match=r"the prompt is too long: \d+ tokens, the checkpoint takes 10"):
        processor.prompt_ids("a great many words " * 10)


@pytest.mark.parametrize("words", [5, 50, 60, 500])
def test_config_refuses_prompt_that_engine_would_refuse(checkpoint: Path, tmp_path: Path, words: int) -> None:
    """Config and engine refuse the same prompts, with and without counting tokens."""
    file = tmp_path / "home.yaml"
    text = "green car " * words
    file.write_text(
        f"model: {{checkpoint: {checkpoint}}}\nstreams:\n  gate:\n    source: synthetic\n    tasks:\n"
        f"      - {{task: caption}}\n      - {{task: phrase_grounding, text: {text}}}\n"
    )
    folder = open_folder(str(checkpoint))
    loaded = load(folder, "cpu", "float32")
    try:
        Processor(loaded).prompt_ids(prompt_texts("phrase_grounding", _check("phrase_grounding", text=text))[0])
        refusal = ""
    except PipelineError as error:
        refusal = f"{file}:7: streams.gate.tasks[1]: {error}"
    assert bool(refusal) == (words > 50), "there is some of both"
    if refusal:
        with pytest.raises(ConfigError) as caught:
            model.load(file)
        assert str(caught.value) == refusal
    else:
        assert model.load(file).streams["gate"].tasks[1].params.text == text.strip()


def test_config_accepts_missing_checkpoint(tmp_path: Path) -> None:
    """A missing folder or a hub name that was never downloaded is an error of `open` only."""
    params = _check("phrase_grounding", text="green car " * 500)
    for name in (str(tmp_path / "none"), "nobody/nothing"):
        settings = Florence2Settings(checkpoint=name)
        assert pipeline.refuse(settings, "phrase_grounding", params) is None


def test_pipeline_imports_no_torch_before_open() -> None:
    code = (
        "import sys, pipelines.florence2.pipeline as f; f.pipeline.tasks(); "
        "f.pipeline.refuse(f.Florence2Settings(), 'caption', f.SPECS['caption'].parameters()); "
        "print({'torch', 'transformers', 'huggingface_hub', 'tokenizers'} & sys.modules.keys())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize(
    "keys",
    [{"device": "gpu"}, {"device": "cuda:x"}, {"dtype": "int8"}, {"max_batch": 0}, {"checkpoint": " "}, {"x": 1}],
)
def test_wrong_model_settings_are_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Florence2Settings.model_validate(keys)
