"""The lines of a dataset's files: where its pictures come from, and a model's answers about them."""

from __future__ import annotations

from dataclasses import dataclass

from streamer.types import Answer, Region

PICTURES = "pictures.jsonl"
"""File of `PictureRecord` lines in the folder of a dataset."""
ANSWERS = "answers.jsonl"
"""File of `Annotation` lines in the folder of a dataset."""
FEEDBACK = "feedback"
"""Kind of the reason of a picture whose incident a person has called wrong."""


@dataclass(frozen=True, slots=True)
class PictureRecord:
    """The origin of one picture."""

    image: str
    """Path of the picture, relative to the dataset's folder."""
    stream: str | None = None
    """Camera or recording; None if unknown."""
    taken_at: float | None = None
    """Unix seconds; None if unknown."""
    epoch: int | None = None
    """With `seq` the identity of an agent's frame; None if it is none."""
    seq: int | None = None
    reasons: tuple[str, ...] = ()
    """Why it was collected: a kind, and what it is about after a colon."""
    blocks: str | None = None
    """Its `streamer.core.picture_blocks.PictureBlocks`, as hexadecimal digits."""
    sha256: str | None = None
    """Hash of the file."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """One answer about one picture."""

    image: str
    """Path of the picture, relative to the dataset's folder."""
    task: str
    answer: Answer
    model: str
    """Checkpoint, with a hash of its weights: `tiny@1f3a…`; or `person:` and a name."""
    text: str | None = None
    region: Region | None = None
    stream: str | None = None
    """Camera of the picture; None if unknown."""
    taken_at: float | None = None
    """Unix seconds; None if unknown."""

    @property
    def key(self) -> tuple[str, str, str | None, Region | None, str]:
        """Equal for two answers of one model to one question."""
        return self.image, self.task, self.text, self.region, self.model


@dataclass(frozen=True, slots=True)
class CollectedPicture:
    """A picture that an agent has collected, with the answers about it."""

    agent: str
    record: PictureRecord
    answers: tuple[Annotation, ...]

    @property
    def is_feedback(self) -> bool:
        """Return whether a person caused it."""
        return any(reason.startswith(f"{FEEDBACK}:") for reason in self.record.reasons)
