"""Newest texts of the model, for rules whose `say` asks for them with `{description}`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from streamer.events.build import clean
from streamer.rules.observation import Observation

MAX_LENGTH = 300
"""Characters of a description; a longer one is cut."""
NONE = "no description"
"""Description of an incident without any text."""


@dataclass(slots=True)
class Texts:
    """Newest texts of one stream."""

    caption: str | None = None
    """Newest text about the whole frame or a zone."""
    parent: str | None = None
    """Id of the answer that the newest text about an object belongs to."""
    of_object: str | None = None
    """Newest text about an object."""


@dataclass(slots=True)
class Descriptions:
    """The texts by stream. A function of the events alone, so a replay describes an incident in the same words."""

    streams: dict[str, Texts] = field(default_factory=dict)

    def observe(self, seen: Observation) -> None:
        if seen.text is None:
            return
        texts = self.streams.setdefault(seen.stream, Texts())
        text = shortened(seen.text)
        if seen.parent is None:
            texts.caption = text or None
        else:
            texts.parent, texts.of_object = seen.parent, text or None

    def describe(self, stream: str, evidence: Collection[str]) -> str:
        """Return the newest text about an object of these answers, else the newest one of the stream.

        `evidence`: ids of the answers' events.
        """
        texts = self.streams.get(stream, Texts())
        about = texts.of_object if texts.parent in evidence else None
        return about or texts.caption or NONE


def shortened(text: str) -> str:
    """Return a text as one line without control characters, at most `MAX_LENGTH` long."""
    line = " ".join(clean(text).split())
    return line if len(line) <= MAX_LENGTH else f"{line[: MAX_LENGTH - 1]}…"
