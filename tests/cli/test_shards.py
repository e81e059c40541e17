"""`--shard` of `streamer check` and `streamer run`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from streamer.cli.main import main
from streamer.cluster.shard import Shard

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


def test_an_empty_shard_is_a_config_error(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    empty = next(index for index in range(50) if not Shard(index, 50).streams(STREAMS))
    assert streamer("check", config, "--shard", f"{empty}/50") == 2
    done = capsys.readouterr()
    assert f"shard {empty}/50 has no stream: use fewer shards" in done.err
    assert f"shard {empty}/50: no stream, its agent cannot run" in done.out
