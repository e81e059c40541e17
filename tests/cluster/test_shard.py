"""Shards: each stream has one, and few streams move when their number changes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.cluster.shard import Shard, parse_shard, shard_of
from streamer.core.errors import ConfigError

NAMES = st.lists(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,20}", fullmatch=True), unique=True, max_size=30)


@given(NAMES, st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_each_stream_belongs_to_one_shard(names: list[str], count: int) -> None:
    parts = [Shard(index, count).streams(names) for index in range(count)]
    assert sorted(name for part in parts for name in part) == sorted(names)


@given(NAMES, st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_one_more_shard_moves_streams_only_to_itself(names: list[str], count: int) -> None:
    assert all(shard_of(name, count + 1) in (shard_of(name, count), count) for name in names)


def test_the_shard_of_a_stream_never_changes() -> None:
    """Agents of two versions would otherwise run a stream twice, or not at all."""
    assert [shard_of(name, 4) for name in ("gate", "yard", "ramp", "office", "cam-01")] == [0, 1, 2, 0, 3]


def test_shards_have_about_equally_many_streams() -> None:
    sizes = [len(Shard(index, 10).streams(f"cam{number}" for number in range(1000))) for index in range(10)]
    assert 70 < min(sizes) <= max(sizes) < 130


@pytest.mark.parametrize("text", ["3/3", "0/0", "1", "a/3", "-1/3", "0/1001", "0/3/5", "$(POD_INDEX)/3", "/3", "1.0/3"])
def test_a_wrong_shard_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError, match="--shard"):
        parse_shard(text)


def test_a_shard_is_read_and_names_its_agent() -> None:
    assert parse_shard(" 2/12 ") == Shard(2, 12)
    assert Shard(2, 12).agent("home") == "home-2"
    with pytest.raises(ConfigError, match="shorten `agent`"):
        Shard(2, 12).agent("a" * 62)
