"""Hostile YAML values are refused with file and line, never with a Python error."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from streamer.cli import main
from streamer.config import model, yaml_file
from streamer.config.yaml_file import YamlFile
from streamer.core.errors import ConfigError

NUMBERS = {"400 digits": "9" * 400, "5,000 digits": "9" * 5000, "hex": "0x" + "f" * 400, "octal": "0o" + "7" * 400}
REFUSED = {
    **{name: (digits, "this") for name, digits in NUMBERS.items()},
    "negative": ("-" + "9" * 400, "this number is too large"),
    "tag int": ("!!int abc", "this value is not a whole number"),
    "tag int, hex": ("!!int 0x", "this value is not a whole number"),
    "tag int, nothing": ('!!int ""', "this value is not a whole number"),
    "tag float": ("!!float abc", "this value is not a number"),
    "tag float, nothing": ('!!float ""', "this value is not a number"),
    "tag bool": ("!!bool maybe", "this value is not true or false"),
    "tag binary": ("!!binary aGVsbG8=", "a value that begins with ! is a tag"),
    "half a pair": ('"a \\ud800 b"', "this text holds half a character"),
    "other half": ('"a \\udc00 b"', "this text holds half a character"),
    "halves swapped": ('"\\ude00\\ud83d"', "this text holds half a character"),
}
NO_CHARACTER = ('"\\UFFFFFFFF"', '"\\U00110000"')


@pytest.mark.parametrize("case", REFUSED)
def test_hostile_value_is_refused_with_its_line(case: str, tmp_path: Path) -> None:
    value, expected = REFUSED[case]
    path = tmp_path / "home.yaml"
    path.write_text(f"a: 1\nb:\n  - {value}\n")
    with pytest.raises(ConfigError) as caught:
        YamlFile(path)
    assert str(caught.value).startswith(f"{path}:3: {expected}")


@pytest.mark.parametrize("value", NO_CHARACTER)
def test_escape_beyond_unicode_is_refused(value: str, tmp_path: Path) -> None:
    path = tmp_path / "home.yaml"
    path.write_text(f"a: {value}\n")
    with pytest.raises(ConfigError, match="is not a character"):
        YamlFile(path)


def test_key_with_half_a_character_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "home.yaml"
    path.write_text('"\\ud83d": 1\n')
    with pytest.raises(ConfigError, match="half a character"):
        YamlFile(path)


def test_emoji_as_json_writes_it_is_one_character(tmp_path: Path) -> None:
    text = "a dog 🐕 and 👩‍🚒"
    path = tmp_path / "home.yaml"
    path.write_text(json.dumps({"text": text, "🐕": 1}))
    assert "\\ud83d" in path.read_text()
    assert YamlFile(path).data == {"text": text, "🐕": 1}


def test_reading_stops_at_the_first_value_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_file, "MAX_VALUES", 1000)
    path = tmp_path / "home.yaml"
    path.write_text("x-many:\n" + "- 1\n" * 1000 + "not closed: [\n")
    with pytest.raises(ConfigError) as caught:
        YamlFile(path)
    # The document and its list are values too. Nothing behind them was read, not even the error in the last line.
    assert str(caught.value).startswith(f"{path}:1000: more than")


MALFORMED = {
    "%YAML 9.9\n---\na: 1\n": "1: not valid YAML: found incompatible YAML document (version 1.* is required)",
    "a: 1\n---\nb: 2\n": "2: not valid YAML: expected a single document in the stream, but found another document",
    "a: %x\nb: %\n": '1: not valid YAML: a text that begins with *, @, % or ` needs quotes, as in "*/15 * * * *"',
    "a: 1\nclip\nb: 1\n": "2: not valid YAML: a key needs a colon and a space after it",
    "a:\n\tb: 1\n": "2: not valid YAML: indent with spaces, not with a tab",
    "say: hello: you\n": "1: not valid YAML: a text with a colon and a space needs quotes",
    "agent:home\nb: 1\n": "2: not valid YAML: check the indentation, and the space after the colon of the line above",
    "a: [{b: 1\nc: 2\n": "2: not valid YAML: a comma is missing, or the } of a { above",
    "a: [1\nb: 2\n": "2: not valid YAML: a comma is missing, or the ] of a [ above",
    'a: "b\nc: 1\n': "1: not valid YAML: the closing quote of this text is missing",
    "say: {label} at {stream}\n": "1: not valid YAML: a text that begins with {, [ or a quote needs quotes around all "
    "of it",
    "a: [me], b: 2\n": "1: not valid YAML: a comma outside of { } and [ ]: write each key on its own line, or put the "
    "text in quotes",
    "a: [1]]\n": "1: not valid YAML: a } or ] without the { or [ that it closes",
    "{a: 1}}\n": "1: not valid YAML: a } or ] without the { or [ that it closes",
    "a:\n  - b: 1\n  c: 2\n": "3: not valid YAML: this line is not indented like the keys or list items above it",
    "a:\n    b: 1\n  c: 2\n": "3: not valid YAML: this line is not indented like the keys or list items above it",
    "a: *\n": "1: not valid YAML: a text that begins with * or & needs quotes",
    "a: ?\n": "1: not valid YAML: a text that begins with ? needs quotes",
    "a:\n  - {password:hunter2}\n": "2: a[0].password: write a space after the colon",
}


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_document_is_explained(text: str, tmp_path: Path) -> None:
    path = tmp_path / "home.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        YamlFile(path)
    assert str(caught.value) == f"{path}:{MALFORMED[text]}"


def test_non_utf8_environment_value_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "home.yaml"
    path.write_text("a: ${NAME}\n")
    with pytest.raises(ConfigError, match="bytes that are not UTF-8"):
        YamlFile(path, {"NAME": b"\xff".decode(errors="surrogateescape")})


PLACES = {
    "interval": "tasks: [{task: caption, every: VALUE}]",
    "age": "tasks: [{task: caption, max_age: VALUE}]",
    "score": "tasks: [{task: object_detection, min_score: VALUE}]",
    "region": "tasks: [{task: region_to_ocr, region: [0, 0, VALUE, 1]}]",
    "cron": "tasks: [{task: caption, at: VALUE}]",
    "text": "tasks: [{task: phrase_grounding, text: VALUE}]",
    "zone": "zones: {door: [[0, 0], [VALUE, 0], [0, 1]]}\n    tasks: [{task: caption}]",
    "rate": "source: {kind: synthetic, fps: VALUE}\n    tasks: [{task: caption}]",
    "seed": "source: {kind: synthetic, seed: VALUE}\n    tasks: [{task: caption}]",
    "seconds": "source: {kind: synthetic, seconds: VALUE}\n    tasks: [{task: caption}]",
}
VALUES = [
    "9" * 400,
    '"' + "9" * 400 + '"',
    '"' + "9" * 5000 + 's"',
    "1e400",
    "-.inf",
    ".nan",
    "1e300",
    "!!int abc",
    '"\\ud800"',
]


@pytest.mark.parametrize("place", PLACES)
def test_check_refuses_hostile_values_with_exit_code_2(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "home.yaml"
    for value in VALUES:
        stream = PLACES[place].replace("VALUE", value)
        source = "" if "source" in stream else "source: synthetic\n    "
        path.write_text(f"streams:\n  gate:\n    {source}{stream}\n")
        monkeypatch.setattr(sys, "argv", ["streamer", "check", str(path)])
        try:
            main.main()
        except SystemExit as ended:
            code = ended.code or 0
        errors = capsys.readouterr().err
        if place == "text" and code == 0:
            continue  # any text is a text
        assert (code, value) == (2, value)
        assert errors.startswith(f"streamer: {path}:")
        assert "Error" not in errors
        assert "limit" not in errors


def test_mapping_with_a_huge_number_is_a_config_error() -> None:
    stream = {"source": "synthetic", "tasks": [{"task": "caption", "every": 10**400}]}
    with pytest.raises(ConfigError, match="must be shorter than 100 years"):
        model.from_mapping({"streams": {"gate": stream}})
