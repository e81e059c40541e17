"""Tasks that come and go while the agent runs are seen by everybody who shows tasks."""

from __future__ import annotations

import json
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from streamer.bus.rpc import RpcClient, control_socket
from streamer.core.errors import SinkError
from streamer.core.redact import Url
from streamer.events.build import task_event
from streamer.events.schema import encode
from streamer.events.sinks import Mqtt, TaskKinds
from tests.support.agents import RunningAgent, until
from tests.support.broker import Broker, Listener
from tests.support.ports import free_port
from tests.support.sinks import RecordedProgress, sink_context
from tests.support.viewing import JpegReader

DISCOVERY = "homeassistant/device/streamer_home_gate/config"


def components(listener: Listener) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(listener.retained(DISCOVERY) or "{}").get("components", {})
    return found


def has_zone(data: bytes) -> bool:
    """Return whether the frame shows the right edge of the zone `left`: a white vertical line in the middle."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    height, width = image.shape[:2]
    line = image[height // 4 : -height // 4, width // 2 - 2 : width // 2 + 3].max(axis=1).min(axis=1)
    return float((line > 180).mean()) > 0.8


def test_page_mqtt_top_and_video_follow_task_changes(tmp_path: Path) -> None:
    port, config = free_port(), tmp_path / "home.yaml"

    def request(**message: Any) -> dict[str, Any]:
        parent = RpcClient(control_socket(tmp_path / "run" / "streamer" / "home"))
        try:
            parent.send(**message)
            (answer,) = until(parent.receive, 10, "the parent answers")
            assert "error" not in answer, answer
            return answer
        finally:
            parent.close()

    def in_top() -> list[str]:
        """Return the names of the tasks that `streamer top` shows."""
        return [task["name"] for task in request(op="list")["streams"]["gate"]]

    def on_the_page() -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/streams", timeout=60) as answer:
            (stream,) = json.load(answer)["streams"]
        return {task["name"]: task for task in stream["tasks"]}

    def metrics() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            return str(answer.read().decode())

    with Broker(tmp_path) as broker, Listener(broker.port) as listener:
        config.write_text(f"""
agent: home
web: {{bind: "127.0.0.1:{port}"}}
streams:
  gate:
    source: synthetic?seed=3&fps=10
    zones: {{left: [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}}
    tasks: [{{task: caption, every: 500ms}}]
outputs: [{{kind: mjpeg, stream: gate}}]
sinks:
  - {{kind: jsonl, path: {tmp_path}/events.jsonl}}
  - {{kind: mqtt, url: "{broker.url}", home_assistant: true}}
""")
        runtime = tmp_path / "run" / "streamer" / "home"
        with (
            RunningAgent(tmp_path, ["run", str(config)], tmp_path / "events.jsonl") as agent,
            JpegReader(runtime, "gate") as video,
        ):
            agent.wait_for_results(1, 200)
            until(lambda: "page served at" in agent.errors.read_text(), 60, "the page")
            assert not has_zone(video.next())
            until(lambda: on_the_page()["caption"]["latest"], 10, "the page shows an answer")
            task = {"task": "object_detection", "name": "things", "every": "300ms", "zone": "left"}
            request(op="add", stream="gate", name="things", task=task)
            until(lambda: on_the_page().get("things", {}).get("latest"), 20, "the page shows the new task's answer")
            assert on_the_page()["things"]["often"] == "every 0.3 s"
            until(lambda: "task.things" in components(listener), 10, "discovery names the task")
            sensor = components(listener)["task.things"]
            assert sensor["state_topic"] == "streamer/home/streams/gate/things"
            assert "length" in sensor["value_template"], "boxes are counted"
            until(lambda: 'task="things"' in metrics(), 10, "the metrics count it")
            assert in_top() == ["caption", "things"]
            search = {"task": "phrase_grounding", "text": "a red star and a blue ring", "confirm": True, "zone": "left"}
            answer = request(op="ask", stream="gate", task=search, seconds=60)["event"]["data"]
            assert answer["confirmation"]["confirmed"] == len(answer["result"]["boxes"])
            until(lambda: has_zone(video.next()), 10, "the video shows the zone")

            request(op="pause", stream="gate", name="things")
            until(lambda: on_the_page()["things"]["paused"], 10, "the page shows that it is paused")
            request(op="remove", stream="gate", name="things")
            until(lambda: "things" not in on_the_page(), 10, "the page drops it")
            until(lambda: components(listener)["task.things"] == {"platform": "sensor"}, 10, "Home Assistant drops it")
            assert "task.caption" in components(listener)
            until(lambda: 'task="things"' not in metrics(), 10, "the metrics drop it")
            assert in_top() == ["caption"]
            until(lambda: not has_zone(video.next()), 10, "the video shows the zone no more")
            agent.stop()


def test_reconnect_publishes_current_discovery_again(tmp_path: Path) -> None:
    """The broker has lost its retained messages meanwhile."""
    tasks = TaskKinds({"caption": "text", "ocr": "text"}, {"gate": {"caption": "text"}})
    with Broker(tmp_path) as broker:
        sink: Any = Mqtt(url=Url(broker.url), home_assistant=True).open(sink_context(tasks=tasks), RecordedProgress())
        added = task_event("home", "gate", "signs", "added", asks="ocr")
        removed = task_event("home", "gate", "caption", "removed", asks="caption")
        sink.write([(1, encode(added)), (2, encode(removed))])
        broker.stop()
        (tmp_path / "mosquitto" / "mosquitto.db").unlink()
        broker.start()

        def discovered() -> dict[str, Any]:
            with suppress(SinkError):
                sink.idle()
            return components(listener)

        with Listener(broker.port) as listener:
            until(discovered, 20, "discovery after a break")
            assert set(components(listener)) == {"connection", "task.caption", "task.signs"}
            assert components(listener)["task.caption"] == {"platform": "sensor"}
        sink.close()
