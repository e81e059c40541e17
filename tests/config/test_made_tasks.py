"""Tasks that rules with `see` make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamer.config.changes import Change, check_question
from streamer.config.model import Config, from_checked, from_mapping, load
from streamer.core.errors import ConfigError

LADDER = {"see": "a person carrying a ladder"}
NAME = "a-person-carrying-a-ladder"
KEYS = {"task": "open_vocabulary_detection", "name": NAME, "text": LADDER["see"], "confirm": True, "every": 2.0}


def config(rules: dict[str, Any], **streams: list[dict[str, Any]]) -> Config:
    tasks = {name: {"source": "synthetic", **({"tasks": found} if found else {})} for name, found in streams.items()}
    return from_mapping({"streams": tasks, "rules": {name: {"when": when} for name, when in rules.items()}})


def names(found: Config) -> dict[str, list[str]]:
    return {name: [task.name for task in stream.tasks] for name, stream in found.streams.items()}


def test_see_makes_a_confirmed_task_in_each_stream() -> None:
    found = config({"ladder": LADDER}, gate=[], yard=[{"task": "caption"}])
    assert names(found) == {"gate": [NAME], "yard": ["caption", NAME]}
    assert found.raw["streams"]["gate"]["tasks"] == [KEYS]
    assert found.made == {("gate", NAME): ("ladder",), ("yard", NAME): ("ladder",)}
    assert found.streams["gate"].tasks[0].describe_schedule == "every 2 s"


def test_named_streams_alone_get_a_task() -> None:
    found = config({"ladder": {**LADDER, "streams": ["yard"]}}, gate=[{"task": "caption"}], yard=[])
    assert names(found) == {"gate": ["caption"], "yard": [NAME]}


def test_stream_that_cannot_answer_the_rest_gets_none() -> None:
    both = {"all": [LADDER, {"label": "car"}]}
    found = config({"both": both}, gate=[{"task": "object_detection", "name": "cars"}], yard=[{"task": "caption"}])
    assert names(found) == {"gate": ["cars", NAME], "yard": ["caption"]}


def test_task_with_the_same_text_is_shared() -> None:
    own = {"task": "open_vocabulary_detection", "name": "mine", "text": "A person carrying a ladder"}
    found = config({"ladder": LADDER}, gate=[own])
    assert names(found) == {"gate": ["mine"]}
    assert not found.made


def test_rules_with_one_text_share_a_task() -> None:
    stays = {"see": " A Person carrying a ladder", "dwell": "1m", "every": "5s"}
    found = config({"ladder": LADDER, "stays": stays}, gate=[])
    assert found.made == {("gate", NAME): ("ladder", "stays")}
    assert found.streams["gate"].tasks[0].every == 5


def test_name_is_free_in_its_stream() -> None:
    tasks = [{"task": "caption", "name": "a-ladder"}]
    found = config({"one": {"see": "a ladder"}, "two": {"see": "a ladder!"}, "three": {"see": "лестница"}}, gate=tasks)
    assert names(found) == {"gate": ["a-ladder", "a-ladder-2", "a-ladder-3", "three"]}
    assert "confirm" not in found.raw["streams"]["gate"]["tasks"][3]  # the second look is for English


GATE = {"state": {"of": "gate", "words": ["open", "closed"], "is": "open"}}


def test_state_makes_one_task_for_all_its_words() -> None:
    closed = {"state": {"of": "gate", "words": ["Closed", "open"], "is": "closed"}, "zone": "drive"}
    found = config({"open": GATE, "closed": {**closed, "zone": None}}, gate=[])
    (task,) = found.raw["streams"]["gate"]["tasks"]
    assert (task["text"], task["confirm"]) == (["open gate", "closed gate"], True)
    assert found.made == {("gate", "open-gate"): ("open", "closed")}


def test_state_shares_a_task_with_the_same_texts() -> None:
    own = {"task": "phrase_grounding", "name": "mine", "text": ["closed gate", "open gate"]}
    assert names(config({"open": GATE}, gate=[own])) == {"gate": ["mine"]}
    alone = {"task": "phrase_grounding", "name": "mine", "text": "open gate"}
    assert names(config({"open": GATE}, gate=[alone])) == {"gate": ["mine", "open-gate"]}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"words": ["open"]}, r"words: "),
        ({"words": ["open", "Open"]}, "`words` has `open` twice"),
        ({"is": "ajar"}, "`is` must be one of `words`: `open`, `closed`"),
    ],
)
def test_wrong_state_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config({"open": {"state": {**GATE["state"], **keys}}}, gate=[])


def test_different_intervals_are_refused() -> None:
    rules = {"one": {**LADDER, "every": "5s"}, "two": {**LADDER, "every": "9s"}}
    with pytest.raises(ConfigError, match=r"^rules\.two\.when\.every: the rule `one` searches this text every 5 s"):
        config(rules, gate=[])
    own = {"task": "open_vocabulary_detection", "name": "mine", "text": LADDER["see"], "every": "1s"}
    with pytest.raises(ConfigError, match=r"^rules\.one\.when\.every: the task `mine` of stream `gate` searches"):
        config({"one": rules["one"]}, gate=[own])


def test_plain_data_gives_the_same_config_again() -> None:
    found = config({"ladder": {**LADDER, "every": "5s"}}, gate=[])
    again = from_checked(found.raw)
    assert (again, again.made) == (found, {})


def test_refusal_names_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "home.yaml"
    file.write_text("streams: {gate: {source: synthetic}}\nrules:\n  r:\n    when:\n      see: a </s> ladder\n")
    with pytest.raises(ConfigError) as error:
        load(file)
    assert str(error.value).startswith(f"{file}:5: rules.r.when.see: no task can be made for this: must be plain words")


def test_removal_of_a_needed_task_names_the_rule() -> None:
    found = config({"ladder": LADDER}, gate=[{"task": "caption"}])
    with pytest.raises(ConfigError) as error:
        Change("remove", "gate", NAME).apply(found)
    assert str(error.value) == f"`{NAME}` of gate is needed by the rule `ladder`: pause it, or change the rule"
    assert Change("pause", "gate", NAME).apply(found).streams["gate"].tasks[1].paused


def test_question_has_nothing_to_do_with_rules() -> None:
    found = config({"ladder": LADDER, "car": {"label": "car"}}, gate=[{"task": "object_detection"}])
    check_question(found, "gate", {"task": "object_detection", "name": "ask"})
    with pytest.raises(ConfigError, match=r"^`text` is missing"):
        check_question(found, "gate", {"task": "phrase_grounding", "name": "ask"})
