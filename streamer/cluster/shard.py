"""Shards: agents with one config that each run a part of its streams, without knowing of each other.

Rendezvous hashing: a stream belongs to the shard with the highest hash of shard and stream. Another stream in the
config moves none, and one more shard moves only those streams that it gets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from streamer.core.errors import ConfigError

MAX_SHARDS = 1000
"""Largest number of shards: each stream is hashed once for each."""
MAX_AGENT_NAME = 63
"""Length of the longest agent name."""
_FORM = re.compile(r"(\d{1,9})/(\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Shard:
    index: int
    """0 for the first one, like the ordinal of a StatefulSet's pod."""
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def streams(self, names: Iterable[str]) -> list[str]:
        """Return those of these streams that belong to this shard."""
        return [name for name in names if shard_of(name, self.count) == self.index]

    def agent(self, name: str) -> str:
        """Return the name of this shard's agent: its events have sources of their own. Raises ConfigError."""
        own = f"{name}-{self.index}"
        if len(own) > MAX_AGENT_NAME:
            raise ConfigError(
                f"agent: `{own}` has more than {MAX_AGENT_NAME} characters: shorten `agent` in the config"
            )
        return own


def parse_shard(text: str) -> Shard:
    """Return the shard of a text such as `0/3`. Raises ConfigError."""
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"--shard {text!r}: write INDEX/COUNT, such as 0/3 for the first of three shards")
    shard = Shard(int(match[1]), int(match[2]))
    if not 1 <= shard.count <= MAX_SHARDS:
        raise ConfigError(f"--shard {shard}: there can be 1 to {MAX_SHARDS} shards")
    if shard.index >= shard.count:
        raise ConfigError(f"--shard {shard}: the shards are numbered from 0 to {shard.count - 1}")
    return shard


def shard_of(stream: str, count: int) -> int:
    """Return the index of the shard, of `count`, to which a stream belongs."""
    return max(range(count), key=lambda index: blake2b(f"{index}/{stream}".encode(), digest_size=8).digest())
