"""The values that travel through the program, and the interfaces they pass; read this file first.

    Source --Frame--> capture <--ask / newest frame--> infer: Due -> Job -> Engine.admit/step -> Result
                                                       Result -> Event --acked--> emit: ledger -> sinks

Everything here is frozen. Coordinates are fractions (0..1) of the full frame, x to the right, y down.
Times named `*_mono` are seconds of CLOCK_MONOTONIC on this host; times named `*_at` are unix seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
"""uint8, shape (height, width, 3), BGR, read-only once it is in a Frame."""

Luma = npt.NDArray[np.uint8]
"""uint8, shape (height, width): the brightness of a picture."""

MAX_PIXELS = 7680 * 4320
"""Largest picture, 8K, in pixels. Sources lose the connection over a larger one, pipelines refuse it."""

Point = tuple[float, float]
Pace = Literal["live", "file"]
"""live: the newest frame wins, intervals on the monotonic clock. file: nothing wanted is lost, media time counts."""

Outcome = Literal["ok", "empty", "unchanged", "stale", "dropped", "error", "timeout"]
"""What became of a due job. `empty` is the model's own "nothing there"; every other word but `ok` means "no answer"."""

Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
"""The most important first."""

When = Literal["always", "motion", "change"]
"""A task runs at each of its ticks; once something moved since its last answer; once the picture differs from it."""

Origin = Literal["schedule", "request", "canary"]
"""Why a task runs: it is due, a caller asked once, or the agent tests whether the model still answers."""

FrameOutcome = Literal["done", "stale", "unchanged", "error", "stopped"]
"""How a consumer settles a frame it pulled: answered, or dropped with this cause."""


class FrameId(NamedTuple):
    """Which frame of a stream. Ordered: a later connection (epoch) is newer than any earlier one."""

    epoch: int
    """Unix milliseconds at which this connection was opened; strictly increasing per stream."""
    seq: int
    """Counts decoded frames from 0 in each epoch."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture of one stream."""

    stream: str
    epoch: int
    seq: int
    captured_at: float
    captured_mono: float
    pts: float | None
    """Media time in seconds since the epoch's first frame, None where the container gives none."""
    image: Image
    triggered: frozenset[str] = frozenset()
    """Names of the tasks that wait for something to happen, and for which it did."""

    @property
    def id(self) -> FrameId:
        return FrameId(self.epoch, self.seq)


@dataclass(frozen=True, slots=True)
class Zone:
    """A named part of a stream's pictures; a task with a zone sees nothing else."""

    name: str
    points: tuple[Point, ...]
    """Corners of a polygon, at least three."""


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle that is part of a task's prompt."""

    x0: float
    y0: float
    x1: float
    y1: float


class TaskParams(Protocol):
    """The pipeline's own keys of a task, validated: what the rest of the program may read of them."""

    @property
    def quality(self) -> str:
        """Decoding quality, as it stands in events."""

    @property
    def prompt_text(self) -> str | None:
        """The text that the prompt asks about, if the task takes one."""

    @property
    def prompt_region(self) -> Region | None:
        """The region that the prompt asks about, if the task takes one."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task of a stream, without its schedule, which `config.task.ScheduledTask` adds."""

    name: str
    """Unique in its stream."""
    task: str
    """The pipeline's key, for example `object_detection`."""
    params: Any
    """A `TaskParams`: an instance of the task's `TaskSpec.parameters`."""
    priority: Priority = "normal"
    max_age: float | None = None
    """Seconds; if the frame is older when the engine could take it, the outcome is `stale`."""
    zone: Zone | None = None


@dataclass(frozen=True, slots=True)
class DueTask:
    """A task whose time has come; chosen before any pixel is fetched."""

    stream: str
    task: Task
    deadline: float
    """Monotonic second by which it should have run: the next due time of the same task."""
    unchanged_since: float | None = None
    """Unix second of the frame whose answer still holds: no answer for this frame is needed."""
    origin: Origin = "schedule"


@dataclass(frozen=True, slots=True)
class Job:
    due: DueTask
    frame: Frame


@dataclass(frozen=True, slots=True)
class Box:
    x0: float
    y0: float
    x1: float
    y1: float
    label: str
    score: float | None = None
    track: int | None = None
    """The same for the same object in later results of the same task, once it was seen twice."""


@dataclass(frozen=True, slots=True)
class Polygon:
    points: tuple[Point, ...]
    label: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Quad:
    """Four corners around a piece of text, clockwise from the text's top left."""

    points: tuple[Point, Point, Point, Point]
    label: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said, parsed. A task fills the fields of its result kind and leaves the others empty."""

    text: str | None = None
    score: float | None = None
    boxes: tuple[Box, ...] = ()
    polygons: tuple[Polygon, ...] = ()
    quads: tuple[Quad, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.text or self.boxes or self.polygons or self.quads)


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one job."""

    job: Job
    outcome: Outcome
    answer: Answer = field(default_factory=Answer)
    error: str | None = None
    started_mono: float = 0.0
    inference_s: float = 0.0
    """Seconds in the engine, from the start of the batch that held the job to its answer."""
    batch: int = 1
    """Jobs that were in the engine together."""
    draft: tuple[int, int] | None = None
    """Tokens of the camera's previous answer that were tried for this one, and how many of them were right."""


ResultKind = Literal["text", "boxes", "polygons", "quads", "boxes_or_polygons"]


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a pipeline says of one task without loading anything heavy."""

    task: str
    summary: str
    takes_text: bool
    takes_region: bool
    result: ResultKind
    parameters: type[Any]
    """A `streamer.settings.Settings` class: the keys the pipeline takes for this task, and their checks."""


class Costs(NamedTuple):
    """What answers cost the device."""

    measured: str
    """Where, or when, in words."""
    seconds: Mapping[str, float]
    """Device seconds of an answer by task; not of every task."""


class Engine(Protocol):
    """A loaded model. Not thread-safe; lives in the inference process."""

    @property
    def model(self) -> str:
        """Name of the checkpoint, as it stands in events."""

    def free(self) -> int:
        """How many jobs it can take now."""

    def admit(self, jobs: Sequence[Job]) -> None:
        """Take jobs. The frames' images must stay readable until their results are out."""

    def step(self) -> list[Result]:
        """Make some progress; return the jobs that finished. One bad job raises nothing: its outcome is `error`."""


class Pipeline(Protocol):
    """A kind of model. Its module must not import torch; `open` may."""

    settings: type[Any]
    """A `streamer.settings.Settings` class: the config's `model:` block."""

    def tasks(self) -> Mapping[str, TaskSpec]: ...

    def refuse(self, settings: Any, task: str, params: Any) -> str | None:
        """In words, why the model of these settings could never answer such a question, as far as is known unopened.

        Asked of every config: quick, without loading or downloading a model.
        """

    def costs(self, settings: Any) -> Costs:
        """What answers of such a model cost on a computer of its makers, for who has not measured the own one."""

    def open(self, settings: Any) -> Engine:
        """Load and warm up. Raises ConfigError when the checkpoint or device cannot be used."""


class Picture(Protocol):
    """A decoded picture that has not been converted to BGR yet."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def pts(self) -> float | None:
        """Seconds on the source's own clock, None where it gives none."""

    def write_bgr(self, out: Image) -> None:
        """Fill `out`, uint8 (height, width, 3)."""

    def luma(self) -> Luma:
        """A small copy of its brightness, as `scene.shrink` makes it."""


class Source(Protocol):
    """One connection. Knows only how to run once; retry, pacing and counting are capture's."""

    @property
    def note(self) -> str | None:
        """What the user should know of how it runs, if anything."""

    def __iter__(self) -> Iterator[Picture | None]:
        """Pictures until the end; None: data came, and no picture: none is wanted (see `ease`), or none is there yet.

        Raises SourceLost (try again) or SourceEnded (it is over).
        """

    def set_interval(self, every: float) -> bool:
        """Nobody wants a picture more often than every so many seconds; 0: all are wanted.

        True while it leaves pictures out because of that.
        """

    def close(self) -> None: ...


class SourceSettings(Protocol):
    """A kind of source, as configured; its own factory."""

    @property
    def pace(self) -> Pace: ...

    def open(self, read_limit: float = 15.0) -> Source:
        """Connect; from then on `read_limit` seconds of silence are a SourceLost (files and made-up sources ignore it).

        Raises SourceLost when it is worth another try, ConfigError when it is not.
        """


class Sink(Protocol):
    """Where events go. Runs in the emit process, one thread per sink."""

    def write(self, events: Sequence[tuple[int, bytes]]) -> None:
        """Deliver (ledger position, CloudEvents JSON) in order; return when they are safe there.

        Raises SinkError to be tried again.
        """

    def close(self) -> None: ...
