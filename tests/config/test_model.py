"""The config: what is good is loaded and typed, what is bad is named with line, key and the nearest valid word."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel

from streamer.config import model
from streamer.config.calendar import Cron, local_zone
from streamer.config.model import Config
from streamer.config.yaml_file import YamlFile
from streamer.core.errors import ConfigError
from streamer.types import Region, Zone

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
MINIMAL = """\
streams:
  gate:
    source: synthetic
    tasks:
      - {task: object_detection}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(folder: Path, text: str, name: str = "home.yaml") -> Config:
    path = folder / name
    path.write_text(text)
    return model.load(path)


def problems(folder: Path, text: str) -> list[str]:
    """The lines of the error, without the folder."""
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def with_task(task: str) -> str:
    return f"streams:\n  gate:\n    source: synthetic\n    tasks:\n      - {{{task}}}\n"


def with_source(source: str) -> str:
    return MINIMAL.replace("source: synthetic", f"source: {source}")


# What is good


def test_minimal_config_has_defaults(here: Path) -> None:
    config = load(here, MINIMAL)
    task = config.streams["gate"].tasks[0]
    assert (config.name, task.name, task.every, task.every_n_frames) == ("home", "object_detection", 1.0, None)
    assert [sink.kind for sink in config.sinks] == ["stdout"]
    assert isinstance(config.model, model.find_pipeline().settings)


@pytest.mark.parametrize(
    ("name", "agent"), [("Front Door.yaml", "front-door"), ("_.yaml", "agent"), ("haus_1.yml", "haus_1")]
)
def test_agent_is_named_after_its_file(here: Path, name: str, agent: str) -> None:
    assert load(here, MINIMAL, name).name == agent


def test_task_keys_are_typed(here: Path) -> None:
    text = with_task("task: region_to_ocr, name: plate, every_n_frames: 5, region: [0, 0.5, 1, 1]")
    task = load(here, text).streams["gate"].tasks[0]
    assert (task.name, task.every, task.every_n_frames) == ("plate", None, 5)
    assert isinstance(task.params, model.find_pipeline().tasks()["region_to_ocr"].parameters)
    assert task.params.region == Region(0, 0.5, 1, 1)


def test_tasks_with_equal_keys_have_equal_parameters(here: Path) -> None:
    """The engine may then answer them together, whatever they are called and however often they run."""
    text = MINIMAL + "      - {task: object_detection, name: again, every: 5s}\n"
    first, second = load(here, text).streams["gate"].tasks
    assert first.params == second.params


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("1s", 1), ("1.5m", 90), ("12h", 43200), ("2", 2), ("'2'", 2)]
)
def test_durations(here: Path, text: str, seconds: float) -> None:
    assert load(here, with_task(f"task: ocr, every: {text}")).streams["gate"].tasks[0].every == seconds


def test_raw_config_gives_the_same_config_again(here: Path) -> None:
    config = load(here, MINIMAL)
    assert model.from_mapping(json.loads(json.dumps(config.raw))) == config


def test_config_is_frozen(here: Path) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load(here, MINIMAL).name = "other"  # type: ignore[misc]


def test_yaml_is_1_2(here: Path) -> None:
    """YAML 1.1 reads them as a boolean, a number in base 60 and a date."""
    (here / "a.yaml").write_text("no: 22:00\non: yes\nday: 2026-01-02\noctal: 010\n")
    assert YamlFile(here / "a.yaml").data == {"no": "22:00", "on": "yes", "day": "2026-01-02", "octal": 10}


def test_environment_variables_are_substituted_in_text(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMERA_USER", "viewer")
    monkeypatch.setenv("CAMERA_PASSWORD", "s3cretword")
    config = load(here, with_source("rtsp://${CAMERA_USER}:${CAMERA_PASSWORD}@192.0.2.1/stream"))
    source: Any = config.streams["gate"].source
    assert source.url.reveal() == "rtsp://viewer:s3cretword@192.0.2.1/stream"
    assert "s3cretword" not in repr(config)


def test_environment_value_is_not_parsed_as_yaml(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHAT", "a}, {task: ocr")
    config = load(here, with_task("task: open_vocabulary_detection, text: '${WHAT} ${WHAT}'"))
    assert [task.params.text for task in config.streams["gate"].tasks] == ["a}, {task: ocr a}, {task: ocr"]


def test_anchors_share_a_value(here: Path) -> None:
    text = "streams:\n  a: &camera\n    source: synthetic\n    tasks: [{task: ocr}]\n  b: *camera\n"
    config = load(here, text)
    assert config.streams["a"] == config.streams["b"]


# Bad input: line, key, what is wrong, and the nearest valid word

BAD_TASKS = {
    "task: object_detecton": ".task: unknown task `object_detecton` (did you mean `object_detection`?)",
    "task: object_detection, evry: 1s": ".evry: unknown key (did you mean `every`?)",
    "task: ocr_with_region, min_scor: 0.5": ".min_scor: unknown key",
    "every: 1s": ": `task` is missing",
    "task: phrase_grounding": ": `text` is missing: phrase_grounding needs it",
    "task: region_to_category": ": `region` is missing: region_to_category needs it",
    "task: object_detection, text: a dog": ".text: object_detection takes no text",
    "task: caption, region: [0, 0, 1, 1]": ".region: caption takes no region",
    "task: object_detection, confirm: true": ".confirm: object_detection takes no confirm",
    "task: phrase_grounding, text: a dog, confirm: {agre: both}": ".confirm.agre: unknown key (did you mean `agree`?)",
    "task: phrase_grounding, text: a dog, confirm: yes please": ".confirm: must be true, false or a mapping of keys",
    "task: phrase_grounding, text: the left, confirm: true": ": `confirm` cannot check `the left`: the text must name",
    "task: ocr, every: 0s": ".every: must be longer than zero",
    "task: ocr, every: 0": ".every: must be longer than zero",
    "task: ocr, every: -1": ".every: must be longer than zero",
    "task: ocr, every: often": ".every: must be a duration such as 500ms, 1s or 5m",
    "task: ocr, every_n_frames: 0": ".every_n_frames: must be greater than or equal to 1",
    "task: ocr, every: 1s, every_n_frames: 2": ": give either `every` or `every_n_frames`, not both",
    "task: ocr, name: Gate 1": ".name: must be a name",
    "task: ocr, every: 1s, at: 0 7 * * *": ": give either `every` or `at`, not both",
    "task: ocr, at: 0 7 * * *, every_n_frames: 2": ": give either `every_n_frames` or `at`, not both",
    "task: ocr, at: 7:00": ".at: must be a cron line: minute hour day month weekday, such as",
    "task: ocr, at: 0 25 * * *": ".at: bad hour in the cron line `0 25 * * *`",
    "task: ocr, at: 0 0 30 2 *": ".at: `0 0 30 2 *` can never run: no such day in that month",
    "task: ocr, at: 30 6 * * *, between: '22:00-06:00'": ".at: `30 6 * * *` can never run within 22:00-06:00",
    "task: ocr, at: 0 9 * * sun, between: 'mon-fri 07:00-18:00'": ".at: `0 9 * * sun` can never run within mon-fri",
    "task: ocr, between: night": ".between: must be a window such as 22:00-06:00 or mon-fri 07:00-18:00",
    "task: ocr, between: '22:00-25:00'": ".between: no such time of day in `22:00-25:00`",
    "task: ocr, between: '07:00-07:00'": ".between: `07:00-07:00` is never open: it ends when it begins",
    "task: ocr, between: 'mon-fry 07:00-18:00'": ".between: unknown weekday `fry`",
    "task: ocr, between: []": ".between: must be a window such as",
    "task: ocr, timezone: UTC": ": `timezone` is for `at` and `between`, and there is neither",
    "task: ocr, at: 0 7 * * *, timezone: Europe/Berln": ".timezone: unknown time zone `Europe/Berln`",
    "task: ocr, at: 0 7 * * *, timezone: ../../etc/passwd": ".timezone: unknown time zone",
    "task: ocr, priority: urgent": ".priority: must be 'high', 'normal' or 'low'",
    "task: ocr, max_age: 0s": ".max_age: must be longer than zero",
    "task: ocr, at: 0 7 * * *, when: motion": ": `when: motion` goes with `every`, not with `at`",
    "task: ocr, every_n_frames: 5, when: change": ": `when: change` goes with `every`, not with `every_n_frames`",
    "task: ocr, refresh: 5m": ": `refresh` is for `when: motion` and `when: change`",
    "task: ocr, every: 1m, when: motion, refresh: 5s": ": `refresh` must not be shorter than `every`",
    "task: ocr, when: never": ".when: must be 'always', 'motion' or 'change'",
    "task: ocr, zone: drive": ".zone: unknown zone `drive`: the stream has no `zones`",
    "task: ocr, crop: native": ".crop: is for tasks with a `region` or a `zone`: there is nothing to crop the frame to",
    "task: region_to_ocr, region: [0, 0, 2, 1]": ".region: must be x0,y0,x1,y1 with",
    "task: region_to_ocr, region: left": ".region: must be four numbers x0,y0,x1,y1 between 0 and 1",
}


@pytest.mark.parametrize("task", BAD_TASKS)
def test_bad_task(here: Path, task: str) -> None:
    (line,) = problems(here, with_task(task))
    assert line.startswith(f"home.yaml:5: streams.gate.tasks[0]{BAD_TASKS[task]}")


def test_task_times_use_the_zone_of_task_or_agent(here: Path) -> None:
    text = "timezone: Asia/Tokyo\n" + with_task("task: ocr, at: 0 7 * * *")
    text += "      - {task: caption, between: '22:00-06:00', timezone: Europe/Berlin, priority: high, max_age: 2s}\n"
    config = load(here, text)
    ocr, caption = config.streams["gate"].tasks
    assert config.timezone.key == "Asia/Tokyo"
    assert ocr.at == Cron("0 7 * * *", ZoneInfo("Asia/Tokyo"))
    assert (ocr.every, ocr.priority, ocr.max_age) == (None, "normal", None)
    assert caption.between is not None
    assert caption.between.zone == ZoneInfo("Europe/Berlin")
    assert (caption.every, caption.priority, caption.max_age) == (1.0, "high", 2.0)


def test_default_time_zone_is_that_of_the_computer(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, key in (("America/New_York", "America/New_York"), (":Asia/Tokyo", "Asia/Tokyo")):
        monkeypatch.setenv("TZ", name)
        local_zone.cache_clear()
        assert load(here, MINIMAL).timezone.key == key
    monkeypatch.undo()
    local_zone.cache_clear()


def with_zone(polygon: str, zone: str = "drive") -> str:
    tasks = f"    tasks: [{{task: ocr, zone: {zone}}}]\n"
    return f"streams:\n  gate:\n    source: synthetic\n    zones:\n      drive: {polygon}\n{tasks}"


def test_task_gets_its_zone_by_name(here: Path) -> None:
    task = load(here, with_zone("[[0, 0.5], [1, 0.5], [1, 1]]")).streams["gate"].tasks[0]
    assert task.zone == Zone("drive", ((0.0, 0.5), (1.0, 0.5), (1.0, 1.0)))


@pytest.mark.parametrize(
    ("polygon", "said"),
    [
        ("[[0, 0], [1, 1]]", "must be a list of at least three corners [x, y]"),
        ("everything", "must be a list of at least three corners [x, y]"),
        ("[0, 1, 2, 3]", "must be a list of corners [x, y], each a fraction"),
        ("[[0, 0], [1, 0], [1, .nan]]", "the corner [1, nan] is outside the frame"),
        ("[[0, 0], [1, 0], [1, 1.5]]", "the corner [1, 1.5] is outside the frame: both must be between 0 and 1"),
        ("[[0, 0], [640, 0], [640, 480]]", "the corner [640, 0] is outside the frame"),
        ("[[0, 0], [0.5, 0.5], [1, 1]]", "has no area"),
    ],
)
def test_bad_zone(here: Path, polygon: str, said: str) -> None:
    (line,) = problems(here, with_zone(polygon))
    assert line.startswith(f"home.yaml:5: streams.gate.zones.drive: {said}")


def test_unknown_zone_and_a_zone_with_a_region(here: Path) -> None:
    good = "[[0, 0], [1, 0], [1, 1]]"
    (line,) = problems(here, with_zone(good, "driv"))
    assert line == "home.yaml:6: streams.gate.tasks[0].zone: unknown zone `driv` (did you mean `drive`?)"
    (line,) = problems(here, with_zone(good).replace("    tasks:", "    motion: {ignore: [drive, raod]}\n    tasks:"))
    assert line == "home.yaml:6: streams.gate.motion.ignore[1]: unknown zone `raod` (known: drive)"
    (line,) = problems(here, with_zone(good).replace("task: ocr", "task: region_to_ocr, region: [0, 0, 1, 1]"))
    assert line.startswith("home.yaml:6: streams.gate.tasks[0].zone: give either `zone` or `region`")


def test_changes_are_for_captions(here: Path) -> None:
    (line,) = problems(here, with_task("task: ocr, changes: true"))
    assert line.startswith("home.yaml:5: streams.gate.tasks[0].changes: is for captions: the answers of ocr")


@pytest.mark.parametrize("key", ["at: 0 7 * * *", "between: '07:00-09:00'", "max_age: 1s"])
def test_recording_rejects_keys_for_live_streams(here: Path, key: str) -> None:
    (line,) = problems(here, with_task(f"task: ocr, {key}").replace("synthetic", "'synthetic?pace=file'"))
    assert line.startswith(f"home.yaml:5: streams.gate.tasks[0].{key.split(':')[0]}: is for live streams")


BAD_SOURCES = {
    "{kind: rstp, url: 'rtsp://h/'}": ".kind: unknown kind `rstp` (did you mean `rtsp`?)",
    "{kind: rtsp, url: 'rtsp://h/', transprt: udp}": ".transprt: unknown key (did you mean `transport`?)",
    "{kind: rtsp, url: 'rtsp://h/', transport: tpc}": ".transport: must be 'tcp' or 'udp'",
    "{kind: rtsp}": ": `url` is missing",
    "{url: 'rtsp://h/'}": ": `kind` is missing",
}


@pytest.mark.parametrize("source", BAD_SOURCES)
def test_bad_source_mapping(here: Path, source: str) -> None:
    (line,) = problems(here, with_source(source))
    assert line.startswith(f"home.yaml:3: streams.gate.source{BAD_SOURCES[source]}")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("rtsp://", ".url: is not a URL with a scheme and a host: rtsp://"),
        ("rtsp://user:hidden@/stream", ".url: is not a URL with a scheme and a host: rtsp://***@/stream"),
        ("rtsp://h:port/", ".url: has a port that is not a number"),
        ("rstp://h/", ": unknown scheme `rstp` in rstp://h/: use rtsp://"),
        ("missing.mp4", ".path: no such file: missing.mp4"),
        ("synthetic?sed=1", ".sed: unknown key (did you mean `seed`?)"),
        ("synthetic?fps=0", ".fps: must be greater than 0"),
        ("{kind: webcam, device: video0}", ".device: must be a text such as `/dev/video0`"),
        ("{kind: synthetic, size: 640}", ".size: must be a text such as `640x480`"),
        ("{kind: synthetic, fps: fast}", ".fps: must be a number"),
        ("{kind: file, path: missing.mp4}", ".path: no such file: missing.mp4"),
        ("{kind: http, url: 'rtsp://h/'}", ".url: must begin with http:// or https://, not rtsp://"),
    ],
)
def test_bad_source_text(here: Path, source: str, said: str) -> None:
    (line,) = problems(here, with_source(source))
    assert line.startswith(f"home.yaml:3: streams.gate.source{said}")
    assert "hidden" not in line


BAD_SINKS = {
    "{kind: jsnl, path: a}": ".kind: unknown kind `jsnl` (did you mean `jsonl`?)",
    "{kind: jsonl}": ": `path` is missing",
    "{kind: jsonl, path: a, kep: 3}": ".kep: unknown key (did you mean `keep`?)",
    "{kind: zmq, endpoint: 'tcp://0.0.0.0:1'}": ".endpoint: tcp is not supported yet",
}


@pytest.mark.parametrize("sink", BAD_SINKS)
def test_bad_sink(here: Path, sink: str) -> None:
    (line,) = problems(here, MINIMAL + f"sinks:\n  - {sink}\n")
    assert line.startswith(f"home.yaml:7: sinks[0]{BAD_SINKS[sink]}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steams: {}\n" + MINIMAL, "home.yaml:1: steams: unknown key (did you mean `streams`?)"),
        ("agent: My House\n" + MINIMAL, "home.yaml:1: agent: must be a name"),
        ("agent: 1\n" + MINIMAL, "home.yaml:1: agent: must be a text: put it in quotes"),
        ("model: {device: gpu}\n" + MINIMAL, "home.yaml:1: model.device: must be a text such as `cpu`"),
        ("model: {device: [gpu]}\n" + MINIMAL, "home.yaml:1: model.device[0]: must be a text such as `cuda:0`"),
        ("model: {checkpont: a}\n" + MINIMAL, "home.yaml:1: model.checkpont: unknown key (did you mean `checkpoint`?)"),
        ("agent: a\n", "home.yaml:1: `streams` is missing"),
        ("streams: {}\n", "home.yaml:1: streams: must not be empty"),
        ("streams:\n  Gate: {source: synthetic, tasks: [{task: ocr}]}\n", "home.yaml:2: streams.Gate: must be a name"),
        ("streams:\n  gate: {source: synthetic, tasks: []}\n", "home.yaml:2: streams.gate: `tasks` is missing"),
        ("streams:\n  gate: {source: synthetic}\n", "home.yaml:2: streams.gate: `tasks` is missing"),
        ("streams:\n  gate: {sorce: synthetic, source: synthetic, tasks: [{task: ocr}]}\n",
         "home.yaml:2: streams.gate.sorce: unknown key (did you mean `source`?)"),
        ("streams: [a]\n", "home.yaml:1: streams: must be a mapping of keys, such as `NAME: …`"),
        ("just text\n", "home.yaml:1: must be a mapping of keys, such as `streams: …`"),
        ("streams:\n  gate: {source: synthetic, tasks: [ocr]}\n",
         "home.yaml:2: streams.gate.tasks[0]: must be a mapping of keys, such as `task: …`"),
        ("streams:\n  gate: {source: synthetic, tasks: ocr}\n",
         "home.yaml:2: streams.gate.tasks: must be a list: [first, second], or lines that begin with `- `"),
        ("streams:\n  gate: {source: synthetic, tasks: [{task: ocr}]}\nmodel: large\n",
         "home.yaml:3: model: must be a mapping of keys, such as `checkpoint: …`"),
        ("streams:\n  gate: {source: synthetic, tasks: [{task: ocr}]}\nsinks: [stdout]\n",
         "home.yaml:3: sinks[0]: must be a mapping of keys, such as `kind: …`"),
    ],
)  # fmt: skip
def test_bad_structure(here: Path, text: str, said: str) -> None:
    (line,) = problems(here, text)
    assert line.startswith(said)


def test_duplicate_task_names_are_rejected(here: Path) -> None:
    said = "home.yaml:6: streams.gate.tasks[1]: a second task with the name `object_detection`: give it a `name`"
    (line,) = problems(here, MINIMAL + "      - {task: object_detection}\n")
    assert line.startswith(said)
    (line,) = problems(here, MINIMAL + "      - {task: ocr, name: object_detection}\n")
    assert line.startswith(said)


def test_duplicate_stream_names_are_rejected(here: Path) -> None:
    text = MINIMAL + "  gate:\n    source: synthetic\n    tasks: [{task: ocr}]\n"
    assert problems(here, text) == ["home.yaml:6: streams.gate: written twice"]


def test_duplicate_sink_names_are_rejected(here: Path) -> None:
    (line,) = problems(here, MINIMAL + "sinks:\n  - {kind: jsonl, path: a}\n  - {kind: jsonl, path: b}\n")
    assert line.startswith("home.yaml:8: sinks[1]: a second sink with the name `jsonl`")


def test_one_home_assistant_gets_devices_from_one_sink(tmp_path: Path) -> None:
    sinks = "sinks:\n  - {kind: mqtt, url: 'mqtt://hub', home_assistant: true}\n"
    same = "  - {kind: mqtt, name: b, url: 'mqtt://user:secret@HUB:1883', topic: x, home_assistant: true}\n"
    (line,) = problems(tmp_path, MINIMAL + sinks + same)
    assert line.startswith("home.yaml:8: sinks[1].home_assistant: the sink `mqtt` has it too, with the same broker")
    for other in (same.replace("HUB", "other"), same.replace(", home_assistant: true", "")):
        assert len(load(tmp_path, MINIMAL + sinks + other).sinks) == 2


def test_all_problems_are_reported_together(here: Path) -> None:
    lines = problems(
        here, "agnt: a\n" + MINIMAL.replace("object_detection", "object_detecton, every: 0s") + "sink: []\n"
    )
    assert [line.split(": ")[0] for line in lines] == ["home.yaml:1", "home.yaml:6", "home.yaml:7"]


def test_missing_environment_variable(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    said = "home.yaml:3: the environment variable NOT_THERE is not set"
    assert problems(here, with_source("rtsp://${NOT_THERE}@h/")) == [said]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_control_character_is_named_with_its_line(here: Path, end: str) -> None:
    (here / "home.yaml").write_bytes(f"agent: home{end}# two{end}timezone: a\0b{end}".encode())
    with pytest.raises(ConfigError, match=r"home.yaml:3: not valid YAML: the control character U\+0000 is not allowed"):
        model.load(here / "home.yaml")


def test_nothing_but_plain_variables_is_substituted(here: Path) -> None:
    said = "home.yaml:3: ${HOME:-x} is not the name of an environment variable"
    assert problems(here, with_source("'${HOME:-x}'")) == [said]


def test_wrong_name_of_a_wrong_value_has_its_own_place(here: Path) -> None:
    assert [line.split(": must be a")[0] for line in problems(here, "streams:\n  Gate: synthetic\n")] == [
        "home.yaml:2: streams.Gate",
        "home.yaml:2: streams.Gate",
    ]


def test_unclosed_variable_is_an_error_without_the_text(here: Path) -> None:
    said = "home.yaml:3: `${` without `}`: write an environment variable as ${NAME}"
    assert problems(here, with_source("'rtsp://u:${PASS_word@h/'")) == [said]


def test_errors_hide_passwords(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATE_PASSWORD", "hidden/word@1")
    text = with_source("{kind: rtsp, url: 'rtsp://u:${GATE_PASSWORD}@host/', transport: '${GATE_PASSWORD}'}")
    lines = problems(here, text)
    assert lines
    assert not [line for line in lines if "hidden" in line or "word@1" in line]


# Files that are no config at all


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "home.yaml: the file is empty"),
        (b"a: [1\nb: 2\n", "home.yaml:2: not valid YAML: "),
        (b"a: 1\n\tb: 2\n", "home.yaml:2: not valid YAML: "),
        (b"a: \xff\n", "home.yaml:1: not UTF-8 text"),
        (b"a: 1\na: 2\n", "home.yaml:2: a: written twice"),
        (b"a: !!python/object/apply:os.getcwd []\n", "home.yaml:1: a value that begins with ! is a tag"),
        (b"a: !secret x\n", "home.yaml:1: a value that begins with ! is a tag, which is not supported"),
        (b"a: *hunter2\n", "home.yaml:1: not valid YAML: found undefined alias: put a text that begins with * in"),
        (b"a: &a [*a]\n", "home.yaml:1: a value that contains itself"),
        (b"? [a, b]\n: 1\n", "home.yaml:1: a key must be plain text"),
        (b"a: 1\n---\nb: 2\n", "home.yaml:"),
        (b"#" * 1_000_001, "home.yaml: larger than 1000000 bytes"),
        (b"[" * 500, "home.yaml: nested too deeply"),
    ],
    ids=lambda value: value[:12].decode(errors="replace") if isinstance(value, bytes) else "",
)
def test_bad_file(here: Path, content: bytes, said: str) -> None:
    (here / "home.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        model.load(Path("home.yaml"))
    assert str(caught.value).startswith(said)


def test_alias_bomb_is_rejected_without_expansion(here: Path) -> None:
    levels = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    (here / "home.yaml").write_text("\n".join(["a0: &a0 [x, x]", *levels]))
    before = time.process_time()
    with pytest.raises(ConfigError, match="more than 100000 values"):
        model.load(here / "home.yaml")
    assert time.process_time() - before < 5  # expansion would never finish


def test_missing_file_and_folder(here: Path) -> None:
    for path, said in ((Path("nope.yaml"), "no such file or directory"), (here, "is a directory")):
        with pytest.raises(ConfigError) as caught:
            model.load(path)
        assert str(caught.value) == f"{path}: {said}"


def test_missing_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "PIPELINES", "no.such.group")
    model.find_pipeline.cache_clear()
    with pytest.raises(ConfigError, match="no pipeline is installed: run `pip install"):
        model.find_pipeline()


# The shipped configs


@pytest.fixture
def with_files(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped configs refer to a clip beside them and to passwords in the environment."""
    (here / "clip.mp4").write_bytes(b"")
    monkeypatch.setenv("STREAMER_TOKEN", "s3cretword-of-good-length")
    monkeypatch.setenv("KIOSK_TOKEN", "s3cretword-of-the-kiosk")
    monkeypatch.setenv("WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    for camera in ("CAMERA", "GATE", "MQTT"):
        monkeypatch.setenv(f"{camera}_USER", "viewer")
        monkeypatch.setenv(f"{camera}_PASSWORD", "s3cretword")


def test_there_are_configs() -> None:
    assert {path.stem for path in CONFIGS} == {"demo", "webcam", "rtsp", "file", "many-cameras", "full"}


@pytest.mark.usefixtures("with_files")
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_loads(path: Path) -> None:
    config = model.load(path)
    assert config.streams
    assert config.sinks
    assert "s3cretword" not in repr(config)


@pytest.mark.usefixtures("with_files")
def test_full_config_shows_every_key_of_the_schema() -> None:
    path = next(path for path in CONFIGS if path.stem == "full")
    once = {"every", "every_n_frames", "at", "between", "timezone", "priority", "max_age", "zone", "zones", "name"}
    once |= {"when", "refresh", "paused", "then", "labels", "on", "most", "crop", "changes", "tiles"}
    given: dict[str, set[str]] = {}
    _collect(model.schema_model().model_validate(YamlFile(path).data), given)
    for name, definition in {**model.json_schema()["$defs"], "Config": model.json_schema()}.items():
        if "properties" in definition and not name.endswith("_follow_up"):
            assert set(definition["properties"]) - once <= given[name], name
    assert once <= set().union(*given.values())


def _collect(value: Any, given: dict[str, set[str]]) -> None:
    """Add the keys that stand in a config to `given`, by the name of their settings."""
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        given.setdefault(type(value).__name__, set()).update(fields[key].alias or key for key in value.model_fields_set)
        value = dict(value)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _collect(item, given)


@pytest.mark.usefixtures("with_files")
def test_full_config_comments_every_line() -> None:
    path = next(path for path in CONFIGS if path.stem == "full")
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert not [line for line in lines if "#" not in line]


def test_schema_names_every_task() -> None:
    schema = model.json_schema()
    tasks = model.find_pipeline().tasks()
    assert len(tasks) == 18
    assert set(tasks) <= set(schema["$defs"])
    assert "agent" not in schema["required"]
