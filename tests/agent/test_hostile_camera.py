"""A camera that sends endless and huge answers takes little memory and disturbs no other camera."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from tests.support import faulty
from tests.support.agents import RunningAgent, until
from tests.support.certificates import Authority
from tests.support.hostile_camera import HostileCamera, ways

START_S = 100.0
MAX_MB = 300
WAYS = (
    "a picture of 60,000 columns", "a PNG that unpacks to 2 GB", "a part of 2 GB", "headers without end",
    "a playlist without end", "zeros without end",
)  # fmt: skip


def most_memory(pid: int) -> float:
    """Return the most memory that a process has had, in MB."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def test_hostile_camera_disturbs_no_other_camera(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    talks = ways("https://localhost:1/x")
    tasks = [{"task": "caption", "every": "500ms"}]
    with HostileCamera(authority.issue("camera")) as camera:
        source = {"kind": "http", "url": camera.url, "tls": {"ca": str(authority.cert)}}
        streams = {
            "other": {"source": "synthetic?fps=25&size=160x120", "tasks": tasks},
            "hostile": {"source": source, "tasks": tasks},
        }
        file = faulty.config(tmp_path, streams, {})
        environment = faulty.install(tmp_path / "installed")
        with RunningAgent(tmp_path, ["run", str(file)], tmp_path / "events.jsonl", environment) as agent:
            agent.wait_for_results(2, START_S, "hostile")
            known, pids = len(agent.results("other")), agent.children()
            for name in WAYS:
                camera.talk, served = talks[name], camera.served
                until(lambda served=served: camera.served > served, 20, name)  # type: ignore[misc]
            camera.talk = None
            agent.wait_for_results(len(agent.results("hostile")) + 1, 60, "hostile")
            assert agent.children() == pids
            assert max(most_memory(pid) for pid in pids.values()) < MAX_MB
            answers = agent.results("other")[known:]
            assert {event["data"]["outcome"] for event in answers} == {"ok"}
            times = [event["data"]["frame"]["pts"] for event in answers]
            assert max(after - before for before, after in pairwise(times)) < 15
            agent.stop()
