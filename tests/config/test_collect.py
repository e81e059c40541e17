"""The keys of `collect`: each problem is named with its line and a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamer.config.model import from_mapping, load
from streamer.core.errors import ConfigError

STREAM: dict[str, Any] = {
    "source": "synthetic",
    "tasks": [{"task": "object_detection"}],
    "zones": {"drive": [[0, 0], [1, 0], [1, 1]]},
}


def problem(collect: Any, **keys: Any) -> str:
    with pytest.raises(ConfigError) as refused:
        from_mapping({"streams": {"gate": {**STREAM, "collect": collect}}, **keys})
    return str(refused.value)


def test_all_keys_are_read() -> None:
    given = {
        "every": "10m", "scores": [0.3, 0.6], "disagreement": True, "tracks": True, "feedback": True,
        "masks": ["drive"], "per_day": 300, "keep": "30d", "max_bytes": 1 << 24,
    }  # fmt: skip
    rules = {"cars": {"when": {"label": "car", "appears": True}}}
    config = from_mapping({"streams": {"gate": {**STREAM, "collect": given}}, "rules": rules})
    collect = config.streams["gate"].collect
    assert collect is not None
    assert (collect.every, collect.scores, collect.keep) == (600.0, (0.3, 0.6), 30 * 86400.0)
    assert from_mapping({"streams": {"gate": STREAM}}).streams["gate"].collect is None


@pytest.mark.parametrize(
    ("collect", "words"),
    [
        ({}, "has no reason to store a frame"),
        ({"per_day": 5}, "give every, scores, disagreement, tracks or feedback"),
        ({"scores": [0.6, 0.3]}, "the first one, 0.6, must be the lower one"),
        ({"scores": [0.3, 30]}, "less than or equal to 1"),
        ({"every": "1m"}, "1440 pictures a day, more than `per_day` (200)"),
        ({"every": "10m", "masks": ["driev"]}, "unknown zone `driev` (did you mean `drive`"),
        ({"feedback": True}, "needs `rules`"),
        ({"evry": "10m"}, "did you mean `every`"),
    ],
)
def test_bad_keys_are_refused(collect: Any, words: str) -> None:
    found = problem(collect)
    assert "streams.gate.collect" in found
    assert words in found


def test_feedback_needs_the_frames_of_incidents() -> None:
    rules = {"cars": {"when": {"label": "car", "appears": True}}}
    assert "snapshots: {incidents: true}" in problem({"feedback": True}, rules=rules, snapshots={"incidents": False})


def test_stream_without_a_task_collects_nothing() -> None:
    serve = {"bind": "127.0.0.1:7000"}
    with pytest.raises(ConfigError, match=r"streams.gate.collect: needs a task"):
        from_mapping({"streams": {"gate": {**STREAM, "tasks": [], "collect": {"every": "1h"}}}, "serve": serve})


def test_problem_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "home.yaml"
    file.write_text(
        "streams:\n  gate:\n    source: synthetic\n    tasks: [{task: caption}]\n    collect:\n      every: 10m\n"
        "      masks: [window]\n"
    )
    with pytest.raises(ConfigError, match=r"home.yaml:7: streams.gate.collect.masks\[0\]: unknown zone `window`"):
        load(file)
