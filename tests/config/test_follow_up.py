"""The keys of follow-ups, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamer.config import model
from streamer.core.errors import ConfigError

DETECT = {"task": "object_detection"}
OPEN = {"task": "open_vocabulary_detection"}
CATEGORY = {"task": "region_to_category"}
DESCRIBE = {"task": "region_to_description"}


def load(task: dict[str, Any], *others: dict[str, Any], **keys: Any) -> model.Config:
    stream = {"source": "synthetic", "tasks": [task, *others], **keys}
    return model.from_mapping({"streams": {"gate": stream}})


def test_follow_up_takes_zone_and_priority_of_its_parent() -> None:
    parent = {**DETECT, "zone": "drive", "priority": "low", "then": [CATEGORY, {**DESCRIBE, "priority": "high"}]}
    config = load(parent, zones={"drive": [[0, 0], [1, 0], [1, 1]]})
    category, describe = config.streams["gate"].tasks[0].then
    assert (category.name, category.priority, category.on, category.most) == ("region_to_category", "low", "every", 8)
    assert category.zone is not None
    assert category.zone.name == "drive"
    assert (describe.priority, describe.labels, describe.refresh) == ("high", None, None)


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        ({"task": "ocr", "then": [CATEGORY]}, "then[0].task: region_to_category needs shapes, and ocr gives a text"),
        (
            {**DETECT, "then": [{"task": "phrase_grounding"}]},
            "then[0].task: phrase_grounding needs a text, and object_detection gives shapes",
        ),
        ({**DETECT, "then": [{"task": "caption"}]}, "then[0].task: unknown task `caption`"),
        (
            {**DETECT, "then": [{**CATEGORY, "region": [0, 0, 1, 1]}]},
            "then[0]: `region` is not for follow-ups: the answer before gives it",
        ),
        ({"task": "caption", "then": [{"task": "phrase_grounding", "changes": True}]}, "then[0].changes: unknown key"),
        ({**DETECT, "then": [{**CATEGORY, "every": "1s"}]}, "then[0].every: unknown key"),
        ({**DETECT, "then": [{**CATEGORY, "refresh": "1m"}]}, "then[0]: `refresh` is for `on: new_tracks`"),
        ({**DETECT, "then": [{**CATEGORY, "crop": "nativ"}]}, "then[0].crop: "),
        (
            {"task": "caption", "then": [{"task": "phrase_grounding", "crop": "native"}]},
            "then[0].crop: is for tasks about shapes, and caption gives a text",
        ),
        ({**DETECT, "then": [{**CATEGORY, "labels": []}]}, "then[0].labels: must not be empty"),
        ({**DETECT, "then": [{**CATEGORY, "most": 0}]}, "then[0].most: "),
        ({**DETECT, "then": [{**CATEGORY, "quality": "best"}]}, "then[0].quality: "),
        (
            {
                "task": "open_vocabulary_detection",
                "text": ["a dog", "a cat"],
                "then": [{**CATEGORY, "labels": ["dog"]}],
            },
            "then[0].labels[0]: open_vocabulary_detection cannot give the label `dog` (did you mean `a dog`?)",
        ),
        (
            {"task": "caption", "then": [{"task": "phrase_grounding", "labels": ["dog"]}]},
            "then[0].labels: are for shapes, and caption gives a text",
        ),
        (
            {"task": "ocr_with_region", "then": [{"task": "region_to_ocr", "on": "new_tracks"}]},
            "then[0].on: only boxes have tracks, and ocr_with_region gives quads",
        ),
        (
            {
                "task": "caption",
                "then": [{"task": "phrase_grounding", "then": [{**CATEGORY, "on": "new_tracks"}]}],
            },
            "then[0].then[0].on: only the boxes of a task with its own schedule have tracks",
        ),
        (
            {**DETECT, "then": [{**DESCRIBE, "then": [{"task": "phrase_grounding", "then": [DESCRIBE]}]}]},
            "then[0].then[0].then[0].task: region_to_description is already in this chain of follow-ups: "
            "object_detection -> region_to_description -> phrase_grounding",
        ),
        (
            {
                **DETECT,
                "then": [
                    {
                        **DESCRIBE,
                        "then": [{"task": "phrase_grounding", "then": [{**CATEGORY, "then": [DESCRIBE]}]}],
                    }
                ],
            },
            "then[0].then[0].then[0].then: at most 3 follow-ups in a chain",
        ),
        (
            {**DETECT, "then": [CATEGORY, CATEGORY]},
            "then[1]: a second task with the name `region_to_category`: give it a `name` of its own",
        ),
        (
            {**DETECT, "then": [{**CATEGORY, "name": "object_detection"}]},
            "then[0]: a second task with the name `object_detection`: give it a `name` of its own",
        ),
    ],
)
def test_bad_follow_up_is_refused_by_place(task: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(task)
    assert f"streams.gate.tasks[0].{problem}" in str(caught.value)


def test_refusal_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "home.yaml"
    path.write_text("""streams:
  gate:
    source: synthetic
    tasks:
      - task: ocr
        then:
          - task: region_to_ocr
""")
    with pytest.raises(ConfigError, match=r"home.yaml:7: streams.gate.tasks\[0\].then\[0\].task: region_to_ocr needs"):
        model.load(path)


def test_checks_of_follow_ups_are_built_once() -> None:
    """They once stood in each place of each chain: 6,000 models, 200 MB in every process."""
    schema = str(model.schema_model().__pydantic_core_schema__)
    assert schema.count("'type': 'model'") <= 2 * len(model.json_schema()["$defs"])
