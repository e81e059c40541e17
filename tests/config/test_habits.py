"""Spellings that people bring from other programs: each is taken, or refused with words that say what to write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamer.capture.sources import parse_source
from streamer.config import model
from streamer.config.yaml_file import YamlFile
from streamer.config.zone import parse_polygon
from streamer.core.errors import ConfigError
from streamer.core.settings import parse_region
from streamer.types import Region

MERGED = """\
x-often: &often {every: 500ms, priority: high}
x-night: &night
  between: "22:00-06:00"
  every: 1m
streams:
  gate:
    source: synthetic
    tasks:
      - {task: caption, <<: *often}
      - <<: [*often, *night]
        task: ocr
        priority: low
"""


def load(text: str, tmp_path: Path) -> model.Config:
    path = tmp_path / "home.yaml"
    path.write_text(text)
    return model.load(path)


def refusal(text: str, tmp_path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load(text, tmp_path)
    return str(caught.value)


def config_of(task: str = "task: caption", source: str = "synthetic") -> str:
    return f"streams:\n  gate:\n    source: {source}\n    tasks:\n      - {{{task}}}\n"


def test_merge_keys_and_x_blocks_are_taken(tmp_path: Path) -> None:
    caption, ocr = load(MERGED, tmp_path).streams["gate"].tasks
    assert (caption.every, caption.priority, caption.between) == (0.5, "high", None)
    assert (ocr.every, ocr.priority) == (0.5, "low"), "own keys win, then the mapping that is merged first"
    assert ocr.between is not None
    assert ocr.between.text == "22:00-06:00"


def test_problem_in_a_merged_key_names_its_line(tmp_path: Path) -> None:
    assert ":4: streams.gate.tasks[1].every: must be a duration" in refusal(MERGED.replace("1m", "soon").replace(
        "[*often, *night]", "*night"), tmp_path)  # fmt: skip


@pytest.mark.parametrize("value", ["5", "[1]", "text", "[[*a]]"])
def test_merge_of_no_mapping_is_refused(value: str, tmp_path: Path) -> None:
    path = tmp_path / "home.yaml"
    path.write_text(f"a: &a {{x: 1}}\nb:\n  <<: {value}\n")
    with pytest.raises(ConfigError, match=":3: `<<` takes a mapping"):
        YamlFile(path)


def test_merge_counts_towards_the_limit_of_values(tmp_path: Path) -> None:
    path = tmp_path / "home.yaml"
    lines = ["a0: &a0 {" + ", ".join(f"k{n}: 1" for n in range(20)) + "}"]
    lines += [f"a{n}: &a{n} {{{', '.join(f'k{i}: *a{n - 1}' for i in range(20))}}}" for n in range(1, 8)]
    path.write_text("\n".join(lines) + "\nb:\n  <<: *a7\n")
    with pytest.raises(ConfigError, match="more than 100000 values"):
        YamlFile(path)


def test_quoted_merge_key_is_an_ordinary_key(tmp_path: Path) -> None:
    path = tmp_path / "home.yaml"
    path.write_text('a: {"<<": 1}\n')
    assert YamlFile(path).data == {"a": {"<<": 1}}


def test_x_block_below_the_top_is_an_unknown_key(tmp_path: Path) -> None:
    assert "streams.gate.x-note: unknown key" in refusal(config_of() + "    x-note: 1\n", tmp_path)


@pytest.mark.parametrize("value", ["*/15 * * * *", "* * * * *", "[*/5, 1]", "@daily", "%x", "`ls`"])
def test_unquoted_reserved_character_asks_for_quotes(value: str, tmp_path: Path) -> None:
    text = config_of().replace("- {task: caption}", f"- task: caption\n        at: {value}")
    assert ":6: not valid YAML: a text that begins with *, @, % or ` needs quotes" in refusal(text, tmp_path)


def test_unknown_alias_keeps_its_own_message(tmp_path: Path) -> None:
    assert "found undefined alias: put a text" in refusal(MERGED.replace("<<: *often}", "<<: *oftn}"), tmp_path)
    assert "needs quotes" not in refusal("a: {b: c\n", tmp_path)


@pytest.mark.parametrize("value", [0, "0", "07", 12])
def test_number_is_a_webcam(value: Any) -> None:
    assert parse_source(value) == {"kind": "webcam", "device": f"/dev/video{int(value)}"}


@pytest.mark.parametrize("value", [True, -1, 1.5])
def test_odd_number_is_no_source(value: Any, tmp_path: Path) -> None:
    assert "streams.gate.source" in refusal(config_of(source=str(value).lower()), tmp_path)


@pytest.mark.parametrize(
    ("url", "path"),
    {
        "file:///videos/a%20b.mp4": "/videos/a b.mp4",
        "FILE:///a.mp4": "/a.mp4",
        "file://localhost/a.mp4": "/a.mp4",
        "file:/a.mp4": "/a.mp4",
        "file:a.mp4": "a.mp4",
        "file:///a%3Fb%23c.mp4": "/a?b#c.mp4",
    }.items(),
)
def test_file_url_is_a_path(url: str, path: str) -> None:
    assert parse_source(url) == {"kind": "file", "path": path}


def test_file_url_of_another_computer_is_refused() -> None:
    with pytest.raises(ValueError, match="a path on this computer"):
        parse_source("file://nas/videos/a.mp4")


@pytest.mark.parametrize(
    "value",
    ["0.1,0.2,0.5,1", "0.1 0.2 0.5 1", "[0.1 0.2 0.5 1. ]", "[0.1, 0.2, 0.5, 1]", "(0.1, 0.2, 0.5, 1)",
     [0.1, 0.2, 0.5, 1], np.array([0.1, 0.2, 0.5, 1.0])],
)  # fmt: skip
def test_region_is_taken_as_numpy_prints_it(value: Any) -> None:
    assert parse_region(value) == Region(0.1, 0.2, 0.5, 1.0)


@pytest.mark.parametrize("value", ["0.1,0.2,0.5", "a b c d", "", "nan nan nan nan", {"x": 1}, [[1, 2], [3, 4]], None])
def test_region_of_something_else_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        parse_region(value)


def test_pixels_are_refused_as_pixels() -> None:
    with pytest.raises(ValueError, match="not pixels: divide x by its width"):
        parse_region("100, 200, 300, 400")
    with pytest.raises(ValueError, match="in pixels"):
        parse_polygon([[10, 10], [20, 10], [20, 20]])


def test_zone_is_taken_as_one_row_of_numbers() -> None:
    assert parse_polygon("0.1,0.2, 0.9,0.2, 0.5,0.9") == ((0.1, 0.2), (0.9, 0.2), (0.5, 0.9))


@pytest.mark.parametrize("value", ["0.1,0.2,0.9", "abc", "0.1,0.2", "", "0.1 0.2 0.9 0.2 0.5"])
def test_zone_of_another_text_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="must be a list"):
        parse_polygon(value)


def test_list_of_texts_is_one_task(tmp_path: Path) -> None:
    (task,) = load(config_of("task: open_vocabulary_detection, text: [car, ' truck ']"), tmp_path).streams["gate"].tasks
    assert task.params.texts == ("car", "truck")
    assert task.params.prompt_text == "car, truck"
    assert task.params.prompts == {"open_vocabulary_detection": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "car<and>truck": "write a list instead of <and>: [car, truck]",
        "[]": "must be a list of 1 to 32 texts",
        "[car, car]": "`car` is given twice",
        "[car, '']": "must not be empty",
        "[car, 5]": "must be a text or a list of texts",
        "[car, [truck]]": "must be a text or a list of texts",
        "{car: 1}": "must be a text or a list of texts",
        "[car, <loc_5>]": "without model tokens such as <loc_5>",
    }.items(),
)
def test_bad_texts_are_refused_once(text: str, expected: str, tmp_path: Path) -> None:
    (line,) = refusal(config_of(f"task: open_vocabulary_detection, text: {text}"), tmp_path).splitlines()
    assert expected in line
    assert ":5: streams.gate.tasks[0].text" in line
