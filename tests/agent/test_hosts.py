"""Two agents with keys of their own: one has the camera, the other one the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamer.bus.host_keys import HostKeys
from tests.support.agents import RunningAgent, assert_identity, assert_no_holes, until
from tests.support.capturing import CaptureThread
from tests.support.ports import free_port

START_S = 80.0
CAMERA = """
agent: boxa
serve: {{bind: "127.0.0.1:{port}"}}
streams: {{yard: {{source: "synthetic?fps=25&size=320x240"}}}}
sinks: [{{kind: jsonl, path: {events}}}]
"""
MODEL = """
agent: boxb
streams:
  yard:
    source: {{kind: remote, url: "streamer://127.0.0.1:{port}/yard", peer: boxa}}
    tasks: [{{task: object_detection, every: 500ms}}]
sinks: [{{kind: jsonl, path: {events}}}]
"""


def keys(folder: Path) -> HostKeys:
    return HostKeys(folder / "state" / "streamer" / "host.keys")


def run(folder: Path, text: str, **values: Any) -> RunningAgent:
    file, events = folder / "config.yaml", folder / "events.jsonl"
    file.write_text(text.format(events=events, **values))
    return RunningAgent(folder, ["run", str(file)], events)


def last_frames(agent: RunningAgent, subject: str) -> dict[str, Any]:
    counts: dict[str, Any] = agent.statuses(subject, "yard")[-1]["data"]["frames"]
    assert_identity(counts)
    return counts


def test_model_on_one_host_answers_about_a_camera_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, stranger = (tmp_path / name for name in ("a", "b", "c"))
    public = {folder: keys(folder).create().public.hex() for folder in (a, b, stranger)}
    keys(a).allow("boxb", public[b])
    for asking in (b, stranger):
        keys(asking).allow("boxa", public[a])
    port = free_port()
    with run(a, CAMERA, port=port) as camera:
        with run(b, MODEL, port=port) as model:
            model.wait_for_results(4, START_S, "yard")
            until(lambda: model.results()[-1]["data"]["timing"]["waited_ms"] < 500, 30, "an answer about a fresh frame")
            assert not any(child.startswith("infer") for child in camera.children())
            model.stop()
        frames = last_frames(model, "stream.stopped")
        assert frames["done"] == len(model.results())
        until(lambda: camera.statuses("peer.down", "yard"), 10, "the end of the link")
        assert camera.statuses("peer.up", "yard")[0]["data"]["peer"] == "boxb"
        sent = last_frames(camera, "peer.down")
        assert sent["done"] <= frames["captured"] <= sent["captured"]
        monkeypatch.setenv("XDG_STATE_HOME", str(stranger / "state"))
        source = {"kind": "remote", "url": f"streamer://127.0.0.1:{port}/yard", "peer": "boxa"}
        with CaptureThread(stranger, source) as unknown:
            assert "keys allow" in str(unknown.statuses.wait("down", timeout=30)["reason"])
            assert unknown.stop()["frames"]["captured"] == 0
        refused = until(lambda: camera.statuses("peer.refused"), 10, "a refusal")[0]["data"]["reason"]
        assert f"127.0.0.1 has the key {public[stranger]}, which is not allowed here" in refused
        camera.stop()
    last_frames(camera, "stream.stopped")
    assert camera.results() == []
    assert_no_holes(camera.events())
    secret = keys(a).own().secret.hex()
    assert secret not in camera.log() + camera.file.read_text()
