"""The content of a text about a picture, as `TaskSpec.content` returns it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Thing(NamedTuple):
    """Things of one kind, as a text names them."""

    kind: str
    """A noun in the singular."""
    colours: tuple[str, ...] = ()
    """Sorted by name."""


class Relation(NamedTuple):
    """A relation of two things, such as: a red ring, `above`, a blue star."""

    subject: Thing
    relation: str
    object: Thing


@dataclass(frozen=True, slots=True)
class Content:
    """Things and relations that a text names, whatever its wording."""

    things: Mapping[Thing, int | None] = field(default_factory=dict)
    """Their number; None: several."""
    relations: tuple[Relation, ...] = ()
