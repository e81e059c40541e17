"""Reads the part of a config that `--shard` names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from streamer.cluster.shard import Shard, parse_shard
from streamer.config.model import Config, load
from streamer.config.selection import select_streams


class Part(NamedTuple):
    """The part of a config that an agent runs."""

    config: Config
    is_empty: bool = False
    """The shard has no stream: the config is the whole one, and the agent runs none of its streams."""


def load_shard(path: Path, text: str | None) -> Part:
    """Read a config, or its part for the shard of a text such as `0/3`. Raises ConfigError."""
    shard, config = None if text is None else parse_shard(text), load(path)
    if shard is None:
        return Part(config)
    name = shard.agent(config.name)
    if streams := shard.streams(config.streams):
        return Part(select_streams(config, streams, name))
    return Part(replace(config, name=name, raw={**config.raw, "agent": name}), is_empty=True)


def describe_shards(path: Path, text: str) -> Iterator[str]:
    """Yield one line of text for each shard of a config: its streams and its load."""
    from streamer.cli.load_estimate import estimate, percent

    count, config = parse_shard(text).count, load(path)
    load_of = estimate(config)
    for shard in (Shard(index, count) for index in range(count)):
        streams = shard.streams(config.streams)
        if not streams:
            yield f"shard {shard}: no stream, its agent waits"
            continue
        shares = sum(share for (stream, _), share in load_of.by_task.items() if stream in streams) if load_of else 0.0
        suffix = f", load at most {percent(shares)}" if load_of else ""
        yield f"shard {shard}: agent {shard.agent(config.name)}, {', '.join(streams)}{suffix}"
