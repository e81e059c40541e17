"""One line of `streamer doctor`."""

from __future__ import annotations

from typing import Literal, NamedTuple

from streamer.core.redact import redact

Level = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """The result of one check."""

    level: Level
    where: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        return redact(f"{self.level:<4}  {self.where}: {self.what}{f' -> {self.fix}' if self.fix else ''}")
