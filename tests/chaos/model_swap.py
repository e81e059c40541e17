"""The model of a running agent with eight cameras is swapped; a model that answers nothing is given back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.chaos.bench import START_S, Row, Size, at_most, holes, is_so
from tests.support.agents import Event, RunningAgent, assert_identity, until
from tests.support.checkpoints import changed_copy

INTERVAL_S = 2.0
STREAMS = [f"cam{number}" for number in range(8)]
TASK = {"task": "caption", "every": f"{INTERVAL_S:g}s"}


def model_swapped(folder: Path, size: Size) -> Iterator[Row]:
    """the model of eight cameras is swapped and swapped back; one that answers nothing takes its place."""
    config, yard, mute = folder / "home.yaml", changed_copy(folder / "yard", 0.001), _mute_copy(folder / "mute")
    streams = {name: {"source": f"synthetic?fps=10&seed={name[3:]}", "tasks": [TASK]} for name in STREAMS}
    sinks = [{"kind": "jsonl", "path": str(folder / "events.jsonl")}]
    config.write_text(json.dumps({"agent": "home", "streams": streams, "sinks": sinks}))
    with RunningAgent(folder, ["run", str(config)], folder / "events.jsonl") as running:
        until(lambda: {one["data"]["stream"] for one in running.results()} == {*STREAMS}, START_S, "all answer")
        time.sleep(5 * INTERVAL_S)
        steady = _longest_gap(running)
        for _ in range(size.of(1, 3, 10)):
            kept = len(running.statuses("model.kept"))
            _model(folder, "use", str(yard), "--watch", "6s")
            until(lambda kept=kept: len(running.statuses("model.kept")) > kept, 120, "kept")  # type: ignore[misc]
            _model(folder, "back")
            until(lambda kept=kept: len(running.statuses("model.kept")) > kept + 1, 120, "kept")  # type: ignore[misc]
        changes = len(running.statuses("model.changed"))
        time.sleep(2 * INTERVAL_S)
        yield at_most("longest gap before, beyond the interval", 1, steady - INTERVAL_S, " s")
        yield at_most(f"in {changes} swaps", 1, _longest_gap(running) - INTERVAL_S, " s")
        _model(folder, "use", str(mute))
        until(lambda: running.statuses("model.returned"), 120, "the mute model is given up")
        (returned,) = running.statuses("model.returned")
        changed = running.statuses("model.changed")[-1]
        known = len(running.results())
        until(lambda: {one["data"]["stream"] for one in running.results()[known:]} == {*STREAMS}, 60, "all answer")
        yield at_most("a mute model is given up after", 60, _seconds(returned) - _seconds(changed), " s")
        yield is_so("the reason is told", "empty" in returned["data"]["reason"], returned["data"]["reason"])
        yield at_most("longest gap, beyond the interval", 1, _longest_gap(running) - INTERVAL_S, " s")
        running.stop(60)
    for name in STREAMS:
        assert_identity(running.statuses("stream.stopped", name)[-1]["data"]["frames"])
    yield at_most("holes in the sequences", 0, holes(running.events()))
    yield at_most("restarts", 0, len(running.statuses("worker.restarted")))


def _model(folder: Path, *arguments: str) -> None:
    """Run `streamer model`. Raises RuntimeError with what it printed if it fails."""
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    command = [sys.executable, "-m", "streamer.cli", "model", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(done.stderr)


def _longest_gap(running: RunningAgent) -> float:
    """Return the longest time between the frames of two successive answers of a stream, in seconds."""
    times = defaultdict(list)
    for one in running.results():
        times[one["data"]["stream"]].append(_seconds(one))
    return max(b - a for found in times.values() for a, b in zip(sorted(found), sorted(found)[1:], strict=False))


def _seconds(event: Event) -> float:
    """Return the time of an event: of a result, that of its frame. Unix seconds."""
    return datetime.fromisoformat(event["time"]).timestamp()


def _mute_copy(folder: Path) -> Path:
    """Copy the shipped small model with a decoder that always gives the end token."""
    changed_copy(folder, 0.0)
    file = folder / "model.safetensors"
    weights = load_file(file)
    norms = sorted(name for name in weights if "decoder.layers" in name and name.endswith(".final_layer_norm.weight"))
    (words,) = (weights[name] for name in weights if name.endswith("language_model.shared.weight"))
    weights[norms[-1]].zero_()
    weights[norms[-1].replace("weight", "bias")] = (words[2] * 20).contiguous()
    save_file(weights, file, metadata={"format": "pt"})
    return folder
