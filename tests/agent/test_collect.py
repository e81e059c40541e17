"""Pictures that a whole agent collects become a dataset that can be filtered, while it runs."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from pipelines.dataset.formats import coco
from streamer.cli.main import app
from tests.support.agents import RunningAgent, until

CONFIG = """
agent: home
streams:
  gate:
    source: synthetic?seed=3&fps=10&size=640x360
    tasks:
      - {task: object_detection, every: 500ms}
      - {task: region_proposal, every: 500ms}
    collect: {scores: [0, 1]}
sinks: [{kind: stdout}]
"""


def test_collected_pictures_become_labels(tmp_path: Path) -> None:
    file, out = tmp_path / "home.yaml", tmp_path / "pictures"
    file.write_text(CONFIG)
    with RunningAgent(tmp_path / "agent", ["run", str(file)]) as agent:
        state = tmp_path / "agent" / "state" / "streamer" / "home"
        until(lambda: len(list((state / "collected" / "gate").glob("*.json"))) >= 2, 300, f"pictures; {agent.log()}")
        run = CliRunner().invoke(app, ["dataset", "collect", "--from", f"agent:{state}", "--out", str(out)])
        assert run.exit_code == 0, run.output
        agent.stop()
        results = {(one["data"]["epoch"], one["data"]["frame"]["seq"]): one["data"] for one in agent.results()}
    records = [json.loads(line) for line in (out / "pictures.jsonl").read_text().splitlines()]
    assert len(records) >= 2
    run = CliRunner().invoke(
        app, ["dataset", "filter", str(out), "--out", f"coco:{out}/labels.json", "--min-score", "0"]
    )
    assert run.exit_code == 0, run.output
    labels = {one.file: {thing.label for thing in one.objects} for one in coco.read(out / "labels.json").pictures}
    for record in records:
        assert record["reasons"][0].startswith("score: ")
        data = results[record["epoch"], record["seq"]]
        assert record["stream"] == data["stream"] == "gate"
        if record["image"] in labels and data["name"] == "object_detection":
            assert labels[record["image"]] <= {box["label"] for box in data["result"]["boxes"]}
