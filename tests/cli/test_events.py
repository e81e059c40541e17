"""`streamer events`, on a real ledger while it is written."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamer.cli import events
from streamer.cli.ask import describe
from streamer.cli.main import app
from streamer.core.errors import ConfigError
from streamer.events.build import result_event, status_event
from streamer.events.ledger import Ledger
from streamer.events.schema import ResultEvent, encode
from streamer.types import Answer, Quad, Span
from tests.support import sample_events


def answer_event(seq: int, stream: str = "gate", name: str = "scene", **answer: Any) -> ResultEvent:
    return result_event("home", replace(sample_events.result(stream, seq, name), answer=Answer(**answer)), "tiny")


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "streamer" / "home").mkdir(parents=True)
    with Ledger(tmp_path / "streamer" / "home" / "ledger.db", "home") as ledger:
        cursor = ledger.cursors(["hook"])["hook"]
        corners = ((0.0, 0.0), (0.5, 0.0), (0.5, 0.25), (0.0, 0.25))
        ledger.commit(
            [
                answer_event(1, text="A red van waits\nin front of the gate."),
                answer_event(2, text="Two red vans and a dog"),
                answer_event(3, text="=cmd() on a sign"),
                answer_event(4, "yard", "plate", quads=(Quad(corners, "HH AB 1234"),)),
                sample_events.event(seq=5),
                status_event("home", "yard", "down", "no answer"),
            ]
        )
        cursor.dead_letter(2, "HTTP 422")
        cursor.close()
        yield ledger


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    app(["events", *arguments], standalone_mode=False)
    return capsys.readouterr().out.splitlines()


def test_unsupported_phrases_are_marked(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    event = answer_event(6, text="a dog and a red van", spans=(Span(0, 5, (), 0.1, False), Span(10, 19, (), 0.9, True)))
    ledger.commit([event])
    assert run(capsys)[-1].endswith("gate  scene  ok  a dog (?) and a red van")
    assert list(describe(json.loads(encode(event)))) == ["a dog (?) and a red van"]


@pytest.mark.usefixtures("ledger")
def test_filters_and_search_select_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(run(capsys)) == 6
    assert run(capsys)[0].endswith("gate  scene  ok  A red van waits in front of the gate.")
    assert run(capsys)[5].endswith("yard  stream.down  no answer")
    assert len(run(capsys, "--stream", "gate")) == 4
    assert [line.split("  ")[2] for line in run(capsys, "--task", "plate")] == ["plate"]
    assert len(run(capsys, "--search", "red van")) == 2  # all words, in any grammatical form
    assert len(run(capsys, "--search", "red dog")) == 1
    assert len(run(capsys, "--search", "ab 12*")) == 1
    assert len(run(capsys, "--search", "person")) == 1
    assert run(capsys, "--search", 'red" OR "dog') == []
    assert len(run(capsys, "--since", "2h")) == 6
    with pytest.raises(ConfigError, match="--since: must be a duration"):
        run(capsys, "--since", "yesterday")


@pytest.mark.usefixtures("ledger")
def test_exports_as_jsonl_and_csv(capsys: pytest.CaptureFixture[str]) -> None:
    found = [json.loads(line) for line in run(capsys, "--export", "jsonl")]
    assert [one["data"]["stream"] for one in found] == ["gate"] * 3 + ["yard", "gate", "yard"]
    rows = list(csv.DictReader([*run(capsys, "--export", "csv", "--stream", "gate")[:1], "x"]))
    assert set(rows[0]) == set(events.COLUMNS)
    assert "'=cmd() on a sign" in run(capsys, "--export", "csv")[4]


def test_since_excludes_older_events(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    ledger._db.execute("UPDATE events SET created = created - 7200 WHERE pos <= 4")

    assert len(run(capsys, "--since", "1h")) == 2


def test_follow_prints_new_events(ledger: Ledger) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "streamer.cli", "events", "--follow", "--stream", "gate", "--export", "jsonl"],
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            old = [json.loads(process.stdout.readline())["data"]["frame"]["seq"] for _ in range(4)]
            ledger.commit([answer_event(6, "yard", text="not this"), answer_event(7, text="but this")])
            assert (old, json.loads(process.stdout.readline())["data"]["result"]["text"]) == ([1, 2, 3, 5], "but this")
        finally:
            process.kill()


def test_dead_letters_are_listed_and_resent(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = run(capsys, "--dead")
    assert line.endswith(f"hook  scene {answer_event(2, text='').id}: HTTP 422")
    assert run(capsys, "--resend", "hook") == ["1 event will be sent again by hook"]
    assert run(capsys, "--dead")[0].endswith("(will be sent again)")
    cursor = ledger.cursors(["hook"])["hook"]
    assert [position for position, _ in cursor.to_resend(10)] == [2]
    cursor.close()
    with pytest.raises(ConfigError, match="no sink other; its sinks: hook"):
        run(capsys, "--resend", "other")


@pytest.mark.usefixtures("ledger")
def test_ledger_is_found_by_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"no ledger of agent shop .*; agents with a ledger: home"):
        run(capsys, "--agent", "shop")
    (tmp_path / "streamer" / "shop").mkdir()
    Ledger(tmp_path / "streamer" / "shop" / "ledger.db").close()
    with pytest.raises(ConfigError, match="add --agent and one of home, shop"):
        run(capsys)
    assert len(run(capsys, "--agent", "home")) == 6
    (tmp_path / "streamer" / "shop" / "ledger.db-wal").unlink(missing_ok=True)
    whole = (tmp_path / "streamer" / "shop" / "ledger.db").read_bytes()
    (tmp_path / "streamer" / "shop" / "ledger.db").write_bytes(b"x" * 9000)
    with pytest.raises(ConfigError, match=r"cannot read .*/shop/ledger.db: "):
        run(capsys, "--agent", "shop")
    (tmp_path / "streamer" / "shop" / "ledger.db").write_bytes(whole)
    (tmp_path / "streamer" / "home" / "ledger.db").unlink()
    assert run(capsys, "--agent", "shop") == []


def test_texts_steer_no_terminal_and_odd_events_are_skipped(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    odd = answer_event(11, text="later").model_copy(update={"time": "not a time"})
    ledger.commit([answer_event(10, text="\x1b[2J\u202eevil"), odd, answer_event(12, text="last")])
    app(["events"], standalone_mode=False)
    shown = capsys.readouterr()
    assert r"\u202eevil" in shown.out
    assert shown.out.splitlines()[-1].endswith("last")
    assert "\x1b" not in shown.out
    assert shown.err == "streamer: event at position 8 skipped: it cannot be read\n"
