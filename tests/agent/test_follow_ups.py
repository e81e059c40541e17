"""Follow-ups in a running agent: each answer's shapes are asked about on the same frame, also over a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.agents import RunningAgent, until

SIZE = 640, 480
CONFIG = """
agent: home
streams:
  gate:
    source: synthetic?seed=7&fps=10&size=640x480
    tasks:
      - task: object_detection
        name: objects
        every: 1s
        then:
          - {task: region_to_category, name: what}
          - {task: region_to_description, name: who, on: new_tracks}
          - {task: region_to_category, name: near, crop: native, most: 2}
"""


def test_follow_ups_name_their_parent_also_after_a_crash(tmp_path: Path) -> None:
    config = tmp_path / "home.yaml"
    config.write_text(CONFIG)
    with RunningAgent(tmp_path / "agent", ["run", str(config)]) as agent:

        def answered(name: str) -> list[Any]:
            data = [event["data"] for event in agent.results("gate")]
            return [one for one in data if one["name"] == name and one["outcome"] == "ok"]

        until(
            lambda: len(answered("what")) >= 4 and answered("who") and answered("near"), 200, "follow-ups are answered"
        )
        agent.kill("infer")
        count = len(answered("what"))
        until(lambda: len(answered("what")) >= count + 4, 200, "follow-ups are answered again")
        agent.stop()
        events = {event["id"]: event for event in agent.results("gate")}
        assert len(events) == len(agent.results("gate"))  # no id twice

    parents = {key: event for key, event in events.items() if event["data"]["name"] == "objects"}
    asked = {key: 0 for key in parents}
    categories, crops = [], []
    for event in events.values():
        data = event["data"]
        if (parent := data.get("parent")) is None:
            continue
        about = events[parent["id"]]["data"]
        assert (data["epoch"], data["frame"]["seq"]) == (about["epoch"], about["frame"]["seq"])
        boxes = [box for box in about["result"]["boxes"] if box["box"] == data["region"]]
        assert parent["label"] in [box["label"] for box in boxes]
        asked[parent["id"]] += 1
        if "crop" in data:
            left, top, right, bottom = data["crop"]
            x0, y0, x1, y1 = (round(edge * side) for edge, side in zip(data["region"], SIZE * 2, strict=True))
            crops.append(left <= x0 < x1 <= right and top <= y0 < y1 <= bottom and data["name"] == "near")
        if data["name"] == "what" and data["outcome"] == "ok":
            categories.append(data["result"]["text"] == parent["label"])
    assert sum(categories) >= 0.8 * len(categories)
    assert crops
    assert all(crops)
    complete = [key for key, event in parents.items() if event["data"]["outcome"] == "ok"]
    assert all(asked[key] == parents[key]["data"]["follow_ups"]["asked"] for key in complete)
    tracks = [event["data"]["parent"]["track"] for event in events.values() if event["data"]["name"] == "who"
              and event["data"]["outcome"] == "ok"]  # fmt: skip
    assert tracks
    assert None not in tracks
