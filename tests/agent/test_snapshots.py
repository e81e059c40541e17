"""Snapshots of a running agent: incidents have the picture of their best frame, also after kills of inference."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from streamer.cli.main import app
from streamer.events.schema import IncidentEvent, ResultEvent, decode
from streamer.events.snapshots.folder import KEPT_MODE, SnapshotFolder
from streamer.events.snapshots.picture import picture_of
from streamer.toyworld.world import World
from tests.support.agents import RunningAgent, until

CONFIG: dict[str, Any] = {
    "agent": "home",
    "streams": {
        "gate": {
            "source": "synthetic?seed=3&fps=10",
            "tasks": [{"task": "object_detection", "name": "objects", "every": "200ms"}],
        }
    },
    "rules": {
        "rings": {"when": {"label": "ring"}, "grace": "300ms"},
        "no-star": {"when": {"not": {"label": "star"}}, "grace": "300ms"},
    },
}


def test_incident_has_the_frame_of_its_best_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, everything = tmp_path / "home.yaml", tmp_path / "all.jsonl"
    config.write_text(json.dumps({**CONFIG, "sinks": [{"kind": "jsonl", "path": str(everything)}]}))
    state = tmp_path / "agent" / "state" / "streamer" / "home"

    def incidents(agent: RunningAgent) -> list[IncidentEvent]:
        events = [decode(json.dumps(one).encode()) for one in agent.events() if "incident" in one["type"]]
        return [one for one in events if isinstance(one, IncidentEvent)]

    with RunningAgent(tmp_path / "agent", ["run", str(config)], everything) as agent:
        until(lambda: incidents(agent), 60, "an incident")
        agent.kill("infer")
        before = len(agent.results())
        agent.wait_for_results(before + 8, 40)
        count = len(incidents(agent))
        until(lambda: len(incidents(agent)) > count, 40, "an incident after the kill")
        agent.stop()
        found = incidents(agent)
        results = {one["id"]: one for one in agent.results()}
    for one in found:
        best = one.data.best
        assert best.snapshot is not None, one
        answer = decode(json.dumps(results[best.event]).encode())
        assert isinstance(answer, ResultEvent)
        assert answer.data.snapshot == best.snapshot
        image = cv2.imdecode(np.frombuffer(picture_of(state, one), np.uint8), cv2.IMREAD_COLOR)
        assert answer.data.frame.pts is not None
        frame = World(3).scene(answer.data.frame.pts).paint(answer.data.frame.width, answer.data.frame.height)
        assert np.abs(image.astype(int) - frame).mean() < 5  # type: ignore[union-attr]
        file = SnapshotFolder(state).file("gate", best.event)
        assert stat.S_IMODE(file.stat().st_mode) == KEPT_MODE
    assert picture_of(state, found[0], boxes=True) != picture_of(state, found[0])

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "agent" / "state"))
    first = found[0].data
    app(["rules", "test", first.rule, "--config", str(config)], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.endswith(f"/snapshots/gate/{first.best.event}.jpg") for line in lines)
