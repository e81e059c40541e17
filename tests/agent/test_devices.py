"""One inference process per device, with all processes of an agent: streams are divided, and move when one dies."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from streamer.bus.commands import Ask, ListTasks
from streamer.bus.rpc import Message, RpcClient, control_socket
from tests.support import faulty
from tests.support.agents import RunningAgent, assert_identity, assert_no_duplicates, until

START_S = 100.0
STREAMS = ("gate", "yard", "roof", "shed")


def config(folder: Path) -> Path:
    task = {"task": "caption", "every": "100ms"}
    file = folder / "home.yaml"
    file.write_text(
        json.dumps(
            {
                "model": {"devices": 2, "trace": str(folder / "trace")},
                "streams": {
                    **{name: {"source": "synthetic?fps=20&size=64x48", "tasks": [task]} for name in STREAMS},
                    "clip": {
                        "source": {"kind": "synthetic", "fps": 20, "size": "64x48", "pace": "file", "seconds": 60},
                        "tasks": [{"task": "caption", "every_n_frames": 1}],
                    },
                },
                "sinks": [{"kind": "jsonl", "path": str(folder / "events.jsonl")}],
            }
        )
    )
    return file


class Caller:
    def __init__(self, agent: RunningAgent) -> None:
        self._client = RpcClient(control_socket(agent.folder / "run" / "streamer" / "home"))

    def call(self, message: Message) -> Message:
        self._client.send(**message)
        (answer,) = until(self._client.receive, START_S, "an answer")
        return answer

    def devices(self) -> dict[str, str]:
        found: dict[str, str] = self.call(ListTasks().message())["devices"]
        return found

    def close(self) -> None:
        self._client.close()


def test_streams_of_a_killed_process_go_on_and_come_back(tmp_path: Path) -> None:
    environment = faulty.install(tmp_path / "installed")
    with RunningAgent(tmp_path, ["run", str(config(tmp_path))], tmp_path / "events.jsonl", environment) as agent:
        agent.wait_for_results(1, START_S)
        caller = Caller(agent)
        until(lambda: len(caller.devices()) == 5, START_S, "all streams have a device")
        assert max(Counter(caller.devices().values()).values()) <= 4
        for stream in STREAMS:
            agent.wait_for_results(3, START_S, stream)
            ask = Ask(stream=stream, task={"task": "caption"}, seconds=60)
            assert caller.call(ask.message())["event"]["data"]["stream"] == stream

        # Not earlier: on a slow machine a stream has moved by now to balance the loads.
        moved = [stream for stream, device in caller.devices().items() if device == "device 1"]
        agent.kill("infer:1")
        until(lambda: set(caller.devices().values()) == {"device 0"}, START_S, "the other one serves all")
        known = {stream: len(agent.results(stream)) for stream in moved}
        for stream in moved:
            agent.wait_for_results(known[stream] + 3, START_S, stream)

        until(lambda: "device 1" in caller.devices().values(), START_S, f"streams come back; {agent.log()}")
        back = [stream for stream, device in caller.devices().items() if device == "device 1"]
        known = {stream: len(agent.results(stream)) for stream in back}
        for stream in back:  # the process is new: its first answer makes it import libraries
            agent.wait_for_results(known[stream] + 3, START_S, stream)
        caller.close()
        agent.stop()
        assert_no_duplicates(agent.events())
        for stream in (*STREAMS, "clip"):
            frames = agent.statuses("stream.stopped", stream)[-1]["data"]["frames"]
            assert_identity(frames)
            assert frames["in_flight"] == 0
            # Any stream: one that was just moved to balance the loads can have a frame on the device it comes from.
            assert frames["dropped"].get("worker_lost", 0) <= 2, "no more than the frame in work and the next one"
        numbers = [event["data"]["frame"]["seq"] for event in agent.results("clip")]
        assert set(numbers) == set(range(max(numbers) + 1)), "each frame of a recording is answered"
        assert [event["data"]["worker"] for event in agent.statuses("worker.restarted")] == ["infer:1"]


def test_a_guilty_task_is_blocked_on_all_devices(tmp_path: Path) -> None:
    environment, file = faulty.install(tmp_path / "installed"), config(tmp_path)
    settings = json.loads(file.read_text())
    settings["model"]["poison"] = "gate/ocr/.*"
    del settings["streams"]["clip"]
    settings["streams"]["gate"]["tasks"] += [{"task": "ocr", "every": "100ms"}]
    file.write_text(json.dumps(settings))
    with RunningAgent(tmp_path, ["run", str(file)], tmp_path / "events.jsonl", environment) as agent:
        (event,) = until(lambda: agent.statuses("task.quarantined"), START_S, "the verdict")
        assert (event["data"]["stream"], event["data"]["task"]) == ("gate", "ocr")

        def blocked() -> int:
            return sum(one["data"]["outcome"] == "error" for one in agent.results("gate"))

        caller = Caller(agent)
        until(lambda: set(caller.devices()) == set(STREAMS) and blocked() >= 3, START_S, "all go on")
        device = caller.devices()["gate"]
        agent.kill(f"infer:{device.removeprefix('device ')}")
        until(lambda: caller.devices().get("gate", device) != device, START_S, "the stream moves")
        known = blocked()
        until(lambda: blocked() >= known + 3, START_S, "it is blocked there too")
        caller.close()
        agent.stop()
        assert len(agent.statuses("worker.restarted")) == 3, "two deaths of the task, one kill"
        assert len(agent.statuses("task.quarantined")) == 1
        assert_no_duplicates(agent.events())
