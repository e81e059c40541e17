"""Scripted stories of a camera: events by time, and the incidents that a rule must make of them.

A script has one line per answer: the second, then objects `label[#track][@x,y][*score]` with `_` for a space, or `-`
for an empty answer, `?` for no answer, `=` for an unchanged one, `"text"` for a caption, and `down`, `up`, `clock` and
so on for a status. Commands are `mode NAME`, `snooze SECONDS`, `snooze off` and `ack SEQ`, the number of the line that
began the incident.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from streamer.config.model import Config, from_mapping
from streamer.core.errors import WireError
from streamer.events.build import rfc3339
from streamer.events.part import unix_time
from streamer.events.schema import Event, IncidentEvent, decode, encode
from streamer.rules.controls import Controls
from streamer.rules.engine import Engine
from streamer.rules.incident import Evidence, Reporter, hash_of
from streamer.rules.reader import read

START = datetime(2026, 11, 23, 21, 0, tzinfo=UTC).timestamp()
_OBJECT = re.compile(r"(?P<label>[a-z_]+)(?:#(?P<track>\d+))?(?:@(?P<x>[\d.]+),(?P<y>[\d.]+))?(?:\*(?P<score>[\d.]+))?")
ZONES = {"drive": [[0.5, 0], [1, 0], [1, 1], [0.5, 1]], "street": [[0, 0], [0.3, 0], [0.3, 1], [0, 1]]}


@dataclass(frozen=True)
class Story:
    name: str
    rule: dict[str, Any]
    script: str
    expected: list[str]
    """`second state [reason or severity]` of each incident event."""
    task: str = "people"
    ids: str = "event"
    """Beginning of the ids of the events."""

    def config(self) -> Config:
        return from_mapping(
            {
                "agent": "home",
                "timezone": "UTC",
                "streams": {
                    "gate": {
                        "source": "synthetic",
                        "zones": ZONES,
                        "lines": {"kerb": [[0.4, 0], [0.4, 1]]},
                        "tasks": [
                            {"task": "object_detection", "name": "people"},
                            {"task": "caption", "name": "scene"},
                        ],
                    }
                },
                "modes": ["home", "away"],
                "rules": {"story": self.rule},
            }
        )

    def events(self) -> list[Event]:
        return list(_events(self))


def _events(story: Story) -> Iterator[Event]:
    epoch, shift = 1, 0.0
    for number, line in enumerate(filter(None, map(str.strip, story.script.splitlines()))):
        words = line.split(maxsplit=1)
        second = float(words[0])
        what = words[1] if len(words) > 1 else "-"
        if what == "reconnect":
            epoch += 1
            continue
        if what.startswith("step "):
            shift += float(what.removeprefix("step "))
            continue
        wall = START + second + shift
        data: dict[str, Any]
        head = {
            "specversion": "1.0", "id": f"{story.ids}-{number}", "source": "/agents/home/streams/gate",
            "time": rfc3339(datetime.fromtimestamp(wall, UTC)), "sequence": "", "datacontenttype": "application/json",
        }  # fmt: skip
        kind, _, argument = what.partition(" ")
        if kind in ("mode", "snooze", "ack"):
            command = _command(story, kind, argument, wall, epoch)
            data = {"stream": None, "epoch": None, "state": kind, "command": {"by": "anna", **command}}
            head["source"] = "/agents/home/rules"
            body = {**head, "type": "streamer.status.v1", "subject": f"rules.{kind}", "data": data}
        elif what in ("down", "up", "ended", "stopped", "clock"):
            part = "rules" if what == "clock" else "stream"
            data = {"stream": "gate", "epoch": epoch, "state": what}
            body = {**head, "type": "streamer.status.v1", "subject": f"{part}.{what}", "data": data}
        else:
            body = {
                **head,
                "type": "streamer.result.v1",
                "subject": story.task,
                "data": _result(story, what, number, epoch, second),
            }
        yield decode(json.dumps(body).encode())


def _command(story: Story, kind: str, argument: str, wall: float, epoch: int) -> dict[str, Any]:
    if kind == "mode":
        return {"mode": argument}
    if kind == "snooze":
        return {} if argument == "off" else {"until": rfc3339(datetime.fromtimestamp(wall + float(argument), UTC))}
    config = replace(story, rule={key: value for key, value in story.rule.items() if key != "notify"}).config()
    rule_hash = hash_of(config.rules["story"], config.streams["gate"])
    reporter = Reporter("home", "story", "gate", "", rule_hash, Controls())
    incident = reporter.incident_id(Evidence("", epoch, int(argument)))
    return {"rule": "story", "stream": "gate", "incident": incident}


def _result(story: Story, what: str, number: int, epoch: int, second: float) -> dict[str, Any]:
    result: dict[str, Any] | None = {"text": None, "score": None, "polygons": [], "quads": [], "boxes": []}
    outcome = "ok"
    if what == "?":
        outcome, result = "stale", None
    elif what == "=":
        outcome, result = "unchanged", None
    elif what.startswith('"'):
        result = {**(result or {}), "text": what.strip('"')}
    elif what == "-":
        outcome = "empty"
    else:
        result = {**(result or {}), "boxes": [_box(word) for word in what.split()]}
    return {
        "stream": "gate", "epoch": epoch, "name": story.task, "task": "object_detection", "outcome": outcome,
        "text": None, "region": None, "zone": None,
        "frame": {"seq": number, "pts": second, "width": 100, "height": 100}, "result": result,
        "timing": {"waited_ms": 1.0, "inference_ms": 1.0, "age_ms": None}, "model": "tiny", "quality": "fast",
    }  # fmt: skip


def _box(word: str) -> dict[str, Any]:
    match = _OBJECT.fullmatch(word)
    assert match is not None, word
    x, y = float(match["x"] or 0.7), float(match["y"] or 0.5)
    box = {
        "label": match["label"].replace("_", " "),
        "score": float(match["score"] or 0.9),
        "box": [x - 0.1, y - 0.2, x + 0.1, y],
    }
    track = {} if match["track"] is None else {"track": int(match["track"])}
    return {**box, "pixels": [0, 0, 1, 1], **track}


def run(engine: Engine, events: list[Event]) -> list[IncidentEvent]:
    return [incident for incident in told(engine, events) if isinstance(incident, IncidentEvent)]


def told(engine: Engine, events: list[Event]) -> list[Event]:
    """Return all events that these events cause if each is committed at its time. Unreadable ones are passed over."""
    found: list[Event] = []
    for event in events:
        with suppress(WireError):
            seen = read(encode(event))
            if seen is not None:
                found += engine.process(seen, _second_of(event))
    return found


def _second_of(event: Event) -> float:
    try:
        return unix_time(event.time)
    except (ValueError, OverflowError):
        return 0.0


def summary(incidents: list[IncidentEvent]) -> list[str]:
    """Return the incidents in the form of `Story.expected`."""
    lines = []
    for one in incidents:
        second = datetime.fromisoformat(one.time).timestamp() - START
        extra = f" {one.data.reason}" if one.data.reason else ""
        extra += " (snoozed)" if one.data.snoozed_until else ""
        lines.append(f"{second:g} {one.data.state}{extra}")
    return lines


def seconds(first: int, last: int, what: str) -> str:
    """Return one line of a script for each second."""
    return "\n".join(f"{second} {what}" for second in range(first, last + 1)) + "\n"


DAY_S = 86400


def days(first: int, last: int, *lines: str) -> str:
    """Return lines with a time of the day, `21:00 person`, for each of these days. A day begins at 21:00."""
    script = ""
    for day in range(first, last + 1):
        for line in lines:
            clock, what = line.split(maxsplit=1)
            hour, minute = map(int, clock.split(":"))
            script += f"{day * DAY_S + ((hour - 21) % 24) * 3600 + minute * 60} {what}\n"
    return script


PERSON = {"label": "person", "task": "people"}
STORIES = [
    Story("nobody", {"when": PERSON}, seconds(0, 30, "-") + "31 dog", []),
    Story(
        "enter and leave",
        {"when": PERSON},
        seconds(0, 2, "-") + seconds(3, 6, "person") + seconds(7, 20, "-"),
        ["3 start", "16 end"],
    ),
    Story(
        "flicker makes one incident",
        {"when": PERSON},
        seconds(0, 2, "person") + "3 -\n4 person\n5 -\n6 -\n7 person\n" + seconds(8, 20, "-"),
        ["0 start", "17 end"],
    ),
    Story(
        "two visits",
        {"when": PERSON, "grace": "2s"},
        "0 person\n" + seconds(1, 5, "-") + "6 person\n" + seconds(7, 9, "-"),
        ["0 start", "2 end", "6 start", "8 end"],
    ),
    Story(
        "cooldown",
        {"when": PERSON, "grace": "2s", "again": {"cooldown": "10s"}},
        "0 person\n" + seconds(1, 5, "-") + seconds(6, 11, "person") + seconds(12, 14, "-"),
        ["0 start", "2 end", "10 start", "13 end"],
    ),
    Story(
        "two of three",
        {"when": PERSON, "hold": {"hits": "2 of 3"}},
        "0 person\n1 -\n2 -\n3 person\n4 -\n5 person\n" + seconds(6, 15, "-"),
        ["5 start", "15 end"],
    ),
    Story(
        "held for 5 s",
        {"when": PERSON, "hold": {"for": "5s"}},
        seconds(0, 3, "person") + "4 -\n" + seconds(5, 10, "person") + seconds(11, 20, "-"),
        ["10 start", "20 end"],
    ),
    Story(
        "gap of no answers neither holds nor clears",
        {"when": PERSON, "hold": {"for": "5s"}, "grace": "4s"},
        seconds(0, 2, "person")
        + seconds(3, 30, "?")
        + seconds(31, 34, "person")
        + seconds(35, 36, "-")
        + seconds(37, 60, "?")
        + seconds(61, 65, "-"),
        ["34 start", "63 end"],
    ),
    Story(
        "hysteresis",
        {"when": {**PERSON, "min_score": 0.6, "clear_score": 0.45}, "grace": "1s"},
        "0 person*0.5\n1 person*0.62\n2 person*0.5\n3 person*0.46\n4 person*0.4\n5 person*0.5\n6 person*0.5",
        ["1 start", "4 end"],
    ),
    Story(
        "camera loss keeps the incident",
        {"when": PERSON},
        "0 person\n1 person\n2 down\n60 reconnect\n60 up\n61 person\n" + seconds(62, 71, "-"),
        ["0 start", "71 end"],
    ),
    Story(
        "camera down",
        {"when": {"stream": "down for 1m"}},
        "0 up\n1 person\n2 down\n30 clock\n63 clock\n65 clock\n90 up",
        ["62 start", "90 end"],
    ),
    Story(
        "camera still down after the cooldown",
        {"when": {"stream": "down for 10s"}, "again": {"cooldown": "1m"}},
        "0 up\n1 down\n13 clock\n14 up\n20 down\n74 clock",
        ["11 start", "14 end", "71 start"],
    ),
    Story(
        "camera still down when the hours begin",
        {"when": {"stream": "down for 10s"}, "between": "21:02-22:00"},
        "0 up\n1 down\n13 clock\n100 clock\n123 clock\n200 up",
        ["120 start", "200 end"],
    ),
    Story(
        "camera up before the hours",
        {"when": {"stream": "down"}, "between": "21:02-22:00"},
        "0 down\n9 up\n150 clock",
        [],
    ),
    Story("camera back in time", {"when": {"stream": "down for 1m"}}, "0 up\n2 down\n30 up\n90 clock", []),
    Story(
        "enters the drive",
        {"when": {**PERSON, "enters": "drive"}, "grace": "2s"},
        seconds(0, 3, "person#1@0.2,0.5") + seconds(4, 8, "person#1@0.7,0.5"),
        ["4 start", "6 end"],
    ),
    Story(
        "leaves the drive",
        {"when": {**PERSON, "leaves": "drive"}, "grace": "2s"},
        seconds(0, 3, "person#1@0.7,0.5") + seconds(4, 8, "person#1@0.2,0.5"),
        ["4 start", "6 end"],
    ),
    Story(
        "arrives, not leaves",
        {"when": {**PERSON, "crosses": ["street", "drive"]}, "grace": "2s"},
        seconds(0, 3, "person#1@0.8,0.5")
        + seconds(4, 5, "person#1@0.2,0.5")
        + seconds(6, 9, "person#2@0.2,0.5")
        + seconds(10, 13, "person#2@0.7,0.5"),
        ["10 start", "12 end"],
    ),
    Story(
        "crosses a line to one side",
        {"when": {**PERSON, "crosses": [[0.4, 0], [0.4, 1]], "direction": "left"}, "grace": "2s"},
        seconds(0, 3, "person#1@0.7,0.5") + seconds(4, 6, "person#1@0.2,0.5") + seconds(7, 12, "person#1@0.7,0.5"),
        ["7 start", "9 end"],
    ),
    Story(
        "crosses a named line to one side",
        {"when": {**PERSON, "crosses": "kerb", "direction": "left"}, "grace": "2s"},
        seconds(0, 3, "person#1@0.7,0.5") + seconds(4, 6, "person#1@0.2,0.5") + seconds(7, 12, "person#1@0.7,0.5"),
        ["7 start", "9 end"],
    ),
    Story(
        "loiters",
        {"when": {**PERSON, "dwell": "20s", "zone": "drive"}, "grace": "3s"},
        seconds(0, 9, "person#1") + "10 person#1@0.2,0.5\n" + seconds(11, 35, "person#1") + seconds(36, 45, "-"),
        ["31 start", "38 end"],
    ),
    Story(
        "dwell counts no gap",
        {"when": {**PERSON, "dwell": "10s"}, "grace": "3s"},
        seconds(0, 4, "person#1") + seconds(5, 20, "?") + seconds(21, 27, "person#1"),
        ["27 start"],
    ),
    Story(
        "appears and flickers",
        {"when": {**PERSON, "appears": True}, "grace": "3s"},
        seconds(0, 4, "person#1")
        + "5 person#1 person#2\n6 person#2\n7 person#1\n"
        + seconds(8, 12, "person#1 person#2"),
        ["5 start", "8 end"],
    ),
    Story(
        "disappears",
        {"when": {**PERSON, "disappears": True}, "grace": "2s"},
        seconds(0, 4, "person#1") + "5 -\n6 person#1\n" + seconds(7, 12, "-"),
        ["9 start", "11 end"],
    ),
    Story(
        "absent",
        {"when": {**PERSON, "absent": "10s"}, "grace": "1s"},
        seconds(0, 3, "person")
        + seconds(4, 8, "-")
        + seconds(9, 40, "?")
        + seconds(41, 48, "-")
        + seconds(49, 52, "person"),
        ["47 start", "49 end"],
    ),
    Story(
        "clock step changes no time",
        {"when": {**PERSON, "absent": "1m"}, "again": {"cooldown": "1m"}},
        seconds(0, 9, "person") + "10 -\n11 step 3600\n11 -\n12 step -7200\n" + seconds(12, 30, "-"),
        [],
    ),
    Story(
        "three people",
        {"when": {**PERSON, "count": ">= 3"}, "grace": "1s"},
        "0 person person\n1 person person person\n2 person person person person\n3 person\n4 person",
        ["1 start", "2 update count 4", "3 end"],
    ),
    Story(
        "escalates once",
        {"when": PERSON, "escalate": {"after": "5s", "to": "critical"}, "severity": "high"},
        seconds(0, 20, "person"),
        ["0 start", "5 update not over after 5 s"],
    ),
    Story(
        "only at night",
        {"when": PERSON, "between": "22:00-06:00"},
        "0 person\n3599 person\n3600 person",
        ["3600 start"],
    ),
    Story(
        "person without a dog",
        {"when": {"all": [PERSON, {"not": {"label": "dog", "task": "people"}}]}, "grace": "1s"},
        "0 person dog\n1 person\n2 person dog\n3 person dog",
        ["1 start", "2 end"],
    ),
    Story(
        "unchanged answers hold",
        {"when": PERSON, "hold": {"for": "3s"}, "grace": "2s"},
        "0 person\n1 =\n2 =\n3 =\n4 -\n5 =\n6 =",
        ["3 start", "5 end"],
    ),
    Story(
        "caption",
        {"when": {"says": r"(?i)\bfire\b"}, "grace": "1s"},
        '0 "a firefly"\n1 "A fire burns."\n2 "a firefly"',
        ["1 start", "2 end"],
        task="scene",
    ),
    Story(
        "better frame",
        {"when": PERSON},
        "0 person*0.5\n1 person*0.55\n2 person*0.8",
        ["0 start", "2 update better frame"],
    ),
    Story(
        "gate is open",
        {"when": {"state": {"of": "gate", "words": ["open", "closed"], "is": "open"}}, "grace": "1s"},
        "0 closed_gate\n1 open_gate*0.5 closed_gate*0.8\n2 open_gate*0.8 closed_gate*0.5\n3 open_gate*0.8\n"
        "4 closed_gate",
        ["2 start", "4 end"],
        task="open-gate",
    ),
    Story(
        "state without an answer neither starts nor ends",
        {"when": {"state": {"of": "gate", "words": ["open", "closed"], "is": "open"}}, "grace": "1s"},
        "0 open_gate*0.8 closed_gate*0.78\n1 -\n2 car\n3 open_gate\n4 -\n5 open_gate*0.8 closed_gate*0.79\n6 ?\n"
        "7 closed_gate\n8 closed_gate",
        ["3 start", "8 end"],
        task="open-gate",
    ),
    Story(
        "state in a zone",
        {"when": {"state": {"of": "gate", "words": ["open", "closed"], "is": "open"}, "zone": "drive"}, "grace": "1s"},
        "0 open_gate@0.2,0.5\n1 open_gate@0.2,0.5 closed_gate*0.5\n2 open_gate*0.5 closed_gate@0.2,0.5",
        ["2 start"],
        task="open-gate",
    ),
    Story(
        "unusual at night, usual in the evening",
        {"when": {**PERSON, "unusual": True}, "grace": "1s"},
        days(0, 7, "21:00 person", "03:00 -") + days(8, 8, "21:30 person", "21:31 -", "03:10 person", "03:11 -"),
        [f"{8 * DAY_S + 22200:g} start", f"{8 * DAY_S + 22260:g} end"],
    ),
    Story(
        "nothing is unusual before a week was seen",
        {"when": {**PERSON, "unusual": True}},
        days(0, 5, "21:00 -", "03:00 -") + days(6, 6, "21:00 person", "03:00 person"),
        [],
    ),
    Story(
        "hours without answers teach nothing",
        {"when": {**PERSON, "unusual": True}},
        days(0, 20, "21:00 -", "03:00 ?") + days(21, 21, "03:00 person"),
        [],
    ),
    Story(
        "seen on three of twenty days is usual",
        {"when": {**PERSON, "unusual": True}, "grace": "1s"},
        days(0, 2, "03:00 person") + days(3, 19, "03:00 -") + days(20, 20, "03:00 person"),
        [],
    ),
    Story(
        "seen on two of twenty days is unusual",
        {"when": {**PERSON, "unusual": True}, "grace": "1s"},
        days(0, 1, "03:00 person") + days(2, 19, "03:00 -") + days(20, 20, "03:00 person"),
        [f"{20 * DAY_S + 21600:g} start"],
    ),
    Story(
        "the hours beside count too",
        {"when": {**PERSON, "unusual": True}},
        days(0, 7, "02:10 person", "03:00 -") + days(8, 8, "03:50 person"),
        [],
    ),
    Story(
        "unusually many",
        {"when": {**PERSON, "unusual": True, "count": ">= 3"}},
        days(0, 7, "21:00 person person") + days(8, 8, "21:00 person person", "21:01 person person person"),
        [f"{8 * DAY_S + 60:g} start"],
    ),
    Story(
        "mode switched in the middle",
        {"when": PERSON, "modes": ["away"]},
        seconds(0, 2, "person") + "3 mode away\n" + seconds(4, 6, "person") + "7 mode home\n" + seconds(8, 9, "person"),
        ["4 start", "7 end the mode is home"],
    ),
    Story(
        "camera down before the mode",
        {"when": {"stream": "down for 10s"}, "modes": ["away"]},
        "0 up\n1 down\n20 clock\n30 mode away\n33 clock\n40 mode home\n50 clock",
        ["30 start", "40 end the mode is home"],
    ),
    Story("unknown mode in the past", {"when": PERSON, "modes": ["away"]}, "0 mode out\n1 person", []),
    Story(
        "snoozed",
        {"when": PERSON},
        "0 snooze 60\n" + seconds(1, 3, "person") + seconds(4, 14, "-"),
        ["1 start (snoozed)", "13 end (snoozed)"],
    ),
    Story(
        "snooze ends during an activity",
        {"when": PERSON},
        "0 snooze 10\n" + seconds(1, 20, "person"),
        ["1 start (snoozed)", "10 update the snooze has ended"],
    ),
    Story(
        "snooze is taken back",
        {"when": PERSON},
        "0 snooze 60\n1 person\n2 snooze off\n3 person",
        ["1 start (snoozed)", "2 update the snooze has ended"],
    ),
    Story(
        "snooze after the start",
        {"when": PERSON, "grace": "1s"},
        "0 person\n1 snooze 3\n2 person\n5 person\n6 -\n7 person\n8 clock",
        ["0 start", "6 end", "7 start"],
    ),
    Story(
        "clock step keeps what is left of a snooze",
        {"when": PERSON},
        "0 snooze 60\n4 -\n5 step -7200\n5 person\n50 person\n70 person",
        ["-7195 start (snoozed)", "-7139 update the snooze has ended"],
    ),
    Story(
        "acknowledged incident does not escalate",
        {"when": PERSON, "escalate": {"after": "5s", "to": "critical"}, "severity": "high", "grace": "1s"},
        "0 person\n1 person\n2 ack 0\n" + seconds(3, 9, "person") + "10 -\n11 person",
        ["0 start", "2 update acknowledged by anna", "10 end", "11 start"],
    ),
    Story("acknowledged too late", {"when": PERSON, "grace": "1s"}, "0 person\n1 -\n2 ack 0", ["0 start", "1 end"]),
    Story(
        "label that was never seen",
        {"when": {"not": {"label": "dog", "task": "people"}}, "grace": "1s"},
        "0 person\n1 -\n2 dog\n3 dog",
        ["0 start", "2 end"],
    ),
    Story("recording ends", {"when": PERSON}, "0 person\n1 person\n2 ended", ["0 start", "2 end the stream has ended"]),
]
