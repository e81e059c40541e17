"""`--shard` of `streamer check` and `streamer run`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from streamer.bus.commands import ListTasks
from streamer.bus.rpc import control_socket, request
from streamer.cli.main import main
from streamer.cluster.shard import Shard
from tests.support import faulty
from tests.support.agents import RunningAgent, until

STREAMS = [f"cam{number}" for number in range(6)]
TEXT = "agent: home\nstreams:\n" + "".join(
    f"  {name}: {{source: synthetic, tasks: [{{task: object_detection}}]}}\n" for name in STREAMS
)


def streamer(*arguments: str) -> int:
    sys.argv = ["streamer", *arguments]
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", [])
    (tmp_path / "home.yaml").write_text(TEXT)
    return str(tmp_path / "home.yaml")


def test_check_prints_the_streams_of_each_shard(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert streamer("check", config, "--shard", "1/2") == 0
    lines = capsys.readouterr().out.splitlines()
    for index in (0, 1):
        own = Shard(index, 2).streams(STREAMS)
        assert lines[index].startswith(f"shard {index}/2: agent home-{index}, {', '.join(own)}, load at most ")
    printed = [line.split()[1].rstrip(":") for line in lines if line.startswith("  stream ")]
    assert printed == Shard(1, 2).streams(STREAMS)


EMPTY = next(index for index in range(50) if not Shard(index, 50).streams(STREAMS))


def test_check_names_an_empty_shard(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert streamer("check", config, "--shard", f"{EMPTY}/50") == 0
    out = capsys.readouterr().out
    assert f"shard {EMPTY}/50: no stream, its agent waits" in out
    assert out.endswith(f"home.yaml is valid: agent home-{EMPTY} runs no stream\n")


def test_empty_shard_waits_without_streams(config: str, tmp_path: Path) -> None:
    """A pod of a StatefulSet that ended would be started again and again."""
    name = f"home-{EMPTY}"
    socket = control_socket(tmp_path / "run" / "streamer" / name)
    arguments, environment = ["run", config, "--shard", f"{EMPTY}/50"], faulty.install(tmp_path / "installed")
    with RunningAgent(tmp_path, arguments, environment=environment) as agent:
        until(lambda: "emit" in agent.children() or agent.process.poll() is not None, 60, "its processes start")
        answer = request(socket, ListTasks().message(), 60)
        assert (answer["agent"], answer["running"]["running"]) == (name, [])
        assert not [child for child in agent.children() if child.startswith("capture")]
        agent.stop()
    assert agent.process.returncode == 0, agent.log()
