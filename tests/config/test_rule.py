"""Rules in a config: each mistake is refused at its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamer.config.model import Config, from_mapping, json_schema, load
from streamer.core.errors import ConfigError
from streamer.core.patterns import Pattern


def config(rule: dict[str, Any], **keys: Any) -> Config:
    tasks = [{"task": "object_detection", "name": "people"}, {"task": "caption"}]
    gate = {"source": "synthetic", "zones": {"drive": [[0, 0], [1, 0], [1, 1]]}, "tasks": tasks}
    gate["lines"] = {"kerb": [[0, 0.5], [1, 0.5]]}
    yard = {"source": "synthetic", "tasks": [{"task": "ocr_with_region"}, {"task": "ocr"}]}
    return from_mapping({"streams": {"gate": gate, "yard": yard}, "rules": {"r": rule}, **keys})


LABEL = {"label": "person"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no condition": ({"when": {}}, "when: give one of see, label"),
    "line that is not there": (
        {"when": {**LABEL, "crosses": "kerp", "streams": ["gate"]}},
        "when.crosses: unknown line `kerp` of stream `gate` (did you mean `kerb`?)",
    ),
    "zone as a line": (
        {"when": {**LABEL, "crosses": "drive", "streams": ["gate"]}},
        "`drive` of stream `gate`: it is",
    ),
    "line without length": ({"when": {**LABEL, "crosses": [[0, 0], [0, 0]]}}, "when.crosses: has no length"),
    "line and zone": ({"when": {**LABEL, "crosses": ["drive", [0, 0]]}}, "when.crosses: must be the name of a line"),
    "appears that is false": ({"when": {**LABEL, "appears": False}}, "when.appears: can only be `true`: leave the key"),
    "two conditions": ({"when": {"label": "person", "says": "x"}}, "(given: label, says; `all`"),
    "unknown key": ({"when": {"labl": "person"}}, "when.labl: unknown key (did you mean `label`?)"),
    "zone that no stream has": (
        {"when": {**LABEL, "zone": "driv"}},
        "when.zone: no stream can answer this: unknown zone",
    ),
    "zone of another stream": ({"when": {**LABEL, "zone": "drive", "streams": ["yard"]}}, "has no `zones`"),
    "unknown stream": ({"when": {**LABEL, "streams": ["gat"]}}, "when.streams[0]: unknown stream `gat`"),
    "unknown task": (
        {"when": {**LABEL, "task": "peple"}},
        "unknown task `peple` of stream `gate` (did you mean `people`?)",
    ),
    "task that cannot answer": ({"when": {**LABEL, "task": "caption"}}, "no task of stream `gate` can answer"),
    "see of a task that cannot": (
        {"when": {"see": "a ladder", "task": "people", "streams": ["gate"]}},
        "no task of stream `gate` can answer `sees a ladder`",
    ),
    "label without a task": (
        {"when": {**LABEL, "appears": True, "streams": ["yard"]}},
        "can answer `label person appears`: add a task that finds objects, such as `object_detection`, or",
    ),
    "text without a task": (
        {"when": {"reads": "x", "streams": ["gate"]}},
        "`: add a task that reads text, such as `ocr_with_region`",
    ),
    "interval without a made task": ({"when": {**LABEL, "every": "5s"}}, "when: `every` does not go with `label`"),
    "interval of a named task": (
        {"when": {"see": "a ladder", "task": "people", "every": "5s"}},
        "give either `every` or `task`: the task `people` has its own",
    ),
    "text with model tokens": (
        {"when": {"see": "a <loc_1> ladder", "streams": ["gate"]}},
        "when.see: no task can be made for this: must be plain words",
    ),
    "clear above min": ({"when": {**LABEL, "min_score": 0.4, "clear_score": 0.6}}, "must not be above `min_score` 0.4"),
    "always true": ({"when": {**LABEL, "count": ">= 0"}}, "when.count: `>= 0` is always true"),
    "hits that cannot be": ({"when": LABEL, "hold": {"hits": "3 of 2"}}, "hold.hits: `3 of 2` can never be met"),
    "moment that must last": (
        {"when": {**LABEL, "appears": True}, "hold": {"for": "5s"}},
        "can never fire: `appears` is true for one answer",
    ),
    "window never open": ({"when": LABEL, "between": "08:00-08:00"}, "between: `08:00-08:00` is never open"),
    "wrong regex": ({"when": {"says": "(a"}}, "when.says: not a regular expression: unclosed group"),
    "regex too large": ({"when": {"says": r"((\w{99}){99}){99}"}}, "exceeds size limit"),
    "look-around": ({"when": {"says": "a(?=b)"}}, "not a regular expression: look-around"),
    "streams inside": (
        {"when": {"not": {**LABEL, "streams": ["gate"]}}},
        "when.not.streams: `streams` belongs to the outer",
    ),
    "placeholder": ({"when": LABEL, "say": "{lable}"}, "say: unknown placeholder `{lable}` (did you mean `label`?)"),
    "attribute in template": ({"when": LABEL, "say": "{label.__class__}"}, "unknown placeholder"),
    "format in template": ({"when": LABEL, "say": "{label:>9}"}, "`{label}` takes no format"),
    "label of spaces": ({"when": {"label": "  "}}, "when.label: must not be empty"),
    "falling severity": ({"when": LABEL, "escalate": {"after": "1m", "to": "low"}}, "a severity above medium"),
    "text that is a list": ({"when": {"label": ["person"]}}, "when.label: must be a text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_mistake_is_refused_at_its_place(name: str) -> None:
    rule, message = REFUSED[name]
    with pytest.raises(ConfigError) as error:
        config(rule)
    assert message in str(error.value)
    assert str(error.value).startswith("rules.r")


def test_refusal_names_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "home.yaml"
    file.write_text(
        "streams:\n  gate:\n    source: synthetic\n    tasks: [{task: object_detection}]\n"
        "rules:\n  ladder:\n    when:\n      label: person\n      zone: drive\n"
    )
    with pytest.raises(ConfigError) as error:
        load(file)
    assert str(error.value).startswith(f"{file}:9: rules.ladder.when.zone: ")


def test_deep_nesting_is_refused_in_a_short_message() -> None:
    when: dict[str, Any] = LABEL
    for _ in range(300):
        when = {"not": when}
    with pytest.raises(ConfigError) as error:
        config({"when": when})
    assert str(error.value) == "rules.r.when.not: nested too deeply"


def test_two_able_tasks_must_be_told_apart() -> None:
    tasks = [{"task": "object_detection", "name": name} for name in ("a", "b")]
    streams = {"gate": {"source": "synthetic", "tasks": tasks}}
    with pytest.raises(ConfigError, match="name one with `task`: `a`, `b`"):
        config({"when": LABEL}, streams=streams)
    assert config({"when": {**LABEL, "task": "b"}}, streams=streams).rules
    streams["yard"] = {"source": "synthetic", "tasks": [{"task": "object_detection"}]}
    with pytest.raises(ConfigError, match="several tasks of `gate`"):  # not left out because another stream can answer
        config({"when": LABEL}, streams=streams)


def test_task_with_another_text_does_not_answer_a_label() -> None:
    tasks = [{"task": "object_detection"}, {"task": "phrase_grounding", "text": "a red car"}]
    streams = {"gate": {"source": "synthetic", "tasks": tasks}}
    assert config({"when": {"label": "car"}}, streams=streams).rules
    assert config({"when": {"label": "car", "task": "phrase_grounding"}}, streams=streams).rules
    with pytest.raises(ConfigError, match="several tasks"):
        config({"when": {"label": "a Red car"}}, streams=streams)


def test_sink_cannot_take_the_name_of_the_rules() -> None:
    with pytest.raises(ConfigError, match=r"sinks\[0\].name: `rules` is the name"):
        config({"when": LABEL}, sinks=[{"kind": "stdout", "name": "rules"}])


def test_named_line_has_the_ends_of_the_stream() -> None:
    found = config({"when": {**LABEL, "crosses": "kerb", "direction": "left"}})
    condition = found.rules["r"].when
    crosses: Any = condition.with_line(found.streams["gate"].lines).crosses
    assert crosses.ends == ((0, 0.5), (1, 0.5))
    assert str(condition) == "label person crosses kerb"


def test_nested_conditions_need_one_definition() -> None:
    schema = json_schema()
    assert sum("absent" in definition.get("properties", ()) for definition in schema["$defs"].values()) == 1


def test_pattern_needs_linear_time() -> None:
    assert not Pattern("(a+)+$").found_in("a" * 200_000 + "b")
    assert Pattern(r"(?i)\bfire\b").found_in("A Fire burns")
