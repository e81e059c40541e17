"""`streamer rules` on a config and a real ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamer.bus.event_channel import EventClient
from streamer.cli.main import app
from streamer.cli.rules_commands import rule_line
from streamer.config.changes import Change, SavedChanges
from streamer.config.model import from_mapping
from streamer.core.errors import ConfigError
from streamer.core.printable import counted
from streamer.events.ledger import Ledger
from streamer.events.ledger.cursor import position_of
from streamer.events.schema import encode
from streamer.events.verdicts import Judgement, VerdictFile
from streamer.processes.assignment import Role
from streamer.rules.engine import Engine
from streamer.rules.incident import hash_of
from tests.support.agents import until
from tests.support.rules_process import Workers
from tests.support.stories import STORIES, Story, run, seconds

STORY = next(story for story in STORIES if story.name == "enter and leave")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A config file, and the ledger of its agent with the story's events."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    folder = tmp_path / "streamer" / "home"
    folder.mkdir(parents=True)
    file = tmp_path / "home.yaml"
    file.write_text(json.dumps(STORY.config().raw))
    with Ledger(folder / "ledger.db", "home") as ledger:
        ledger.commit(STORY.events())
        yield file


def output(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    app(["rules", *arguments], standalone_mode=False)
    return capsys.readouterr().out.splitlines()


def test_replay_prints_what_live_would_send(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = output(capsys, "test", "story", "--config", str(config), "--jsonl")
    assert lines == [encode(one).decode() for one in run(Engine(STORY.config()), STORY.events())]


def test_replay_prints_lines_for_people(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start, end, count = output(capsys, "test", "story", "--config", str(config))
    assert start.endswith("gate  start  medium  story at gate")
    assert end.endswith("gate  end  medium  story at gate  after 13 s")
    assert count == "1 incident in the last 7d"


NIGHT = {"between": "21:00-21:01", "below": "critical"}
TARGETS = {
    "phone": {"kind": "apprise", "url": "ntfy://127.0.0.1:1/topic", "quiet": NIGHT},
    "mail": {"kind": "apprise", "url": "json://127.0.0.1:1", "end": True},
}
RULES = {
    "night": {**STORY.rule, "grace": "2s", "escalate": {"after": "40s", "to": "critical"}, "notify": ["phone", "mail"]},
    "away": {**STORY.rule, "grace": "2s", "modes": ["away"], "notify": ["mail"]},
}
SCRIPT = "".join(
    [
        seconds(0, 8, "person"),
        "9 snooze 20\n10 mode away\n",
        *(f"{second} {'person' if second % 20 < 12 else '-'}\n" for second in range(11, 45)),
        "45 snooze off\n",
        seconds(46, 95, "person"),
        "96 mode home\n",
        seconds(97, 110, "-"),
    ]
)


def test_replay_notifies_the_same_targets_as_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Quiet hours, snoozes, modes and a rising severity, in the real rules process and by the command."""
    config, file = {**STORY.config().raw, "rules": RULES, "notify": TARGETS}, tmp_path / "home.yaml"
    file.write_text(json.dumps(config))
    events = Story("", STORY.rule, SCRIPT, []).events()
    with Workers(tmp_path, from_mapping(config)) as workers:
        until(lambda: position_of(workers.ledger, "rules") is not None, 60, "emit has opened the ledger")
        workers.kill(Role.RULES)  # it would send the time of now between these events of the past
        with EventClient(workers.runtime, "infer") as client:
            for one in events:
                client.send(one, None)
            assert client.flush(60)
        workers.start(Role.RULES)
        ids = {one.id for one in run(Engine(from_mapping(config)), events)}
        until(lambda: ids <= {one.id for one in workers.incidents()}, 20, "all incidents")
        live = {name: [one for one in workers.incidents() if one.data.rule == name] for name in RULES}
    (tmp_path / "streamer").mkdir()
    (tmp_path / "streamer" / "home").symlink_to(workers.state)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    for name, incidents in live.items():
        lines = output(capsys, "test", name, "--config", str(file), "--jsonl")
        assert lines == [encode(one).decode() for one in incidents]

    told = [(one.data.state, one.data.notify, one.data.silent) for one in live["night"]]
    assert {("start", ("mail",), False), ("update", ("phone",), False)} <= set(told)
    assert any(one.data.snoozed_until for one in live["night"])
    assert {one.data.notify for one in live["away"]} >= {(), ("mail",)}
    first, *_, phone, mail = output(capsys, "test", "night", "--config", str(file))
    assert first.endswith("gate  start  medium  night at gate  notifies mail")
    numbers = {name: sum(name in one.data.notify for one in live["night"]) for name in TARGETS}
    assert [phone, mail] == [f"{counted(numbers[name], 'notification')} to {name}" for name in ("phone", "mail")]


def test_since_leaves_older_events_out(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    time.sleep(0.01)
    assert output(capsys, "test", "story", "--config", str(config), "--since", "1ms") == ["0 incidents in the last 1ms"]


def test_unknown_rule_names_the_nearest(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no rule `storey`.*did you mean `story`"):
        app(["rules", "test", "storey", "--config", str(config)], standalone_mode=False)


def test_list_names_condition_and_streams(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "list", "--config", str(config)) == ["story: label person, severity medium, streams gate"]


def test_list_has_the_word_of_a_state() -> None:
    line = rule_line("gate", "gate is open", "medium", ["yard", "door"], None, words={"yard": "open", "door": None})
    assert line.endswith(", streams yard, door, open at yard, no answer at door")


def test_events_print_the_text_of_incidents(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (start, _) = run(Engine(STORY.config()), STORY.events())
    with Ledger(tmp_path / "streamer" / "home" / "ledger.db", "home") as ledger:
        ledger.commit([start])
    app(["events", "--task", "incident.story"], standalone_mode=False)
    assert capsys.readouterr().out.rstrip().endswith("gate  incident.story  story at gate")


def test_list_prints_precision_and_a_better_threshold(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = STORY.config()
    rule = loaded.rules["story"]
    seen = {"rule_hash": hash_of(rule, loaded.streams["gate"]), "conditions": (str(rule.when),)}
    file = VerdictFile(config.parent / "streamer" / "home")
    for verdict, scores in (("wrong", (0.5, 0.55, 0.6)), ("right", (0.8, 0.9, 0.95))):
        for score in scores:
            one = {"incident": f"{score}", "rule": "story", "stream": "gate", "verdict": verdict, "by": "me"}
            scored = {"time": "", "best_score": score, "start_score": score}
            file.add(Judgement.model_validate({**one, **seen, **scored}))
    line, proposal = output(capsys, "list", "--config", str(config))
    assert line.endswith("precision 50 % (3 right, 3 wrong)")
    assert proposal == "  proposal: min_score 0.7 would have removed 3 of 3 wrong and 0 of 3 right"


def test_verdict_must_be_right_or_wrong() -> None:
    with pytest.raises(ConfigError, match="the verdict is `right` or `wrong`, not `perhaps`"):
        app(["rules", "feedback", "c0ffee", "perhaps"], standalone_mode=False)


def test_replay_uses_saved_changes(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rule runs on a task that was added to the running agent with `--save`."""
    people = {"task": "object_detection", "name": "people"}
    raw = STORY.config().raw
    gate = {**raw["streams"]["gate"], "tasks": [{"task": "caption", "name": "scene"}]}
    yard = {"source": "synthetic", "tasks": [people]}  # else no stream could answer the rule
    config.write_text(json.dumps({**raw, "streams": {"gate": gate, "yard": yard}}))
    assert output(capsys, "test", "story", "--config", str(config)) == ["0 incidents in the last 7d"]
    SavedChanges(tmp_path / "streamer" / "home").add(Change("add", "gate", "people", people))
    assert output(capsys, "test", "story", "--config", str(config))[-1] == "1 incident in the last 7d"
