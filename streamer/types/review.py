"""The interface between the page on which people review labels, and the dataset behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class ReviewedObject:
    """One object of a picture, as a reviewer left it."""

    label: str
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in fractions of the picture."""
    source: int | None = None
    """Place of the object in the reviewed set; None if the reviewer added it."""
    wrong: bool = False
    """There is no such object."""


@dataclass(frozen=True, slots=True)
class ReviewedPicture:
    """Decision of a reviewer on all objects of one picture."""

    number: int
    labels: int
    """Place of the set whose objects were reviewed."""
    objects: tuple[ReviewedObject, ...]


class Review(Protocol):
    """Pictures with one or two sets of labels, the most useful picture first. One thread at a time may call it.

    Pictures are numbered from 0 in this order. Returned dicts are JSON for the page. Methods raise ConfigError for a
    file that cannot be used, OSError if the disk fails.
    """

    def describe(self) -> dict[str, Any]:
        """Return the names of the sets (`sets`), the known labels (`labels`) and how to use the result (`export`)."""

    def next(self, by: str, after: int) -> dict[str, Any]:
        """Return the next picture without a decision behind number `after`, from the first one again at the end."""

    def decide(self, by: str, decision: ReviewedPicture) -> None:
        """Return once the decision is on the disk. Raises ValueError for an impossible one."""

    def undo(self, by: str) -> dict[str, Any]:
        """Withdraw the newest decision of a reviewer; return its picture with the objects as decided.

        Raises ValueError if there is none.
        """

    def picture(self, number: int) -> bytes:
        """Return a picture as JPEG; any thread may call it. Raises ValueError if there is no such number."""


ServeReview = Callable[[Review, str, Sequence[str]], None]
"""Serves a review at an address `HOST:PORT` to reviewers with these names, until it is interrupted."""
