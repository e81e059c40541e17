"""The values that travel through the program and the interfaces between its parts. Read this file first.

    Source --Picture--> capture <--request / Frame--> infer: DueTask -> Job -> Engine.admit/step -> Result
                                                      Result -> Event --acked--> emit: ledger -> sinks

All values are frozen. Coordinates are fractions (0..1) of the full frame, x to the right, y down. Times named `*_mono`
are seconds of CLOCK_MONOTONIC on this host; times named `*_at` are unix seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from streamer.types.answer import Answer as Answer
from streamer.types.answer import Box as Box
from streamer.types.answer import Confirmation as Confirmation
from streamer.types.answer import Point as Point
from streamer.types.answer import Polygon as Polygon
from streamer.types.answer import Quad as Quad
from streamer.types.answer import Refusal as Refusal
from streamer.types.answer import Refused as Refused
from streamer.types.answer import Span as Span

Image = npt.NDArray[np.uint8]
"""uint8, shape (height, width, 3), BGR, read-only once it is in a Frame."""

Luma = npt.NDArray[np.uint8]
"""uint8, shape (height, width): brightness."""

Pace = Literal["live", "file"]
"""live: consumers get the newest frame, intervals run on the monotonic clock. file: the reader waits for its consumers,
intervals run on media time."""

Outcome = Literal["ok", "empty", "unchanged", "stale", "dropped", "error", "timeout"]
"""Outcome of a job. `ok` and `empty` (the model found nothing) are answers; all others mean that there is no answer."""

Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
"""Highest first."""

Crop = Literal["native"]
"""Part of the frame that the model sees of a task with a region: native, the pixels around the region."""

Pixels = tuple[int, int, int, int]
"""left, top, right, bottom"""

When = Literal["always", "motion", "change"]
"""Condition for a planned run: none, motion since the last answer, or a picture that differs from that answer's."""

Origin = Literal["schedule", "request", "canary", "follow_up"]
"""Why a task runs: it is due, a caller asked once, the agent tests whether the model still answers, or an answer had
shapes or a text to ask about."""

FrameOutcome = Literal["done", "stale", "unchanged", "error", "stopped"]
"""Outcome with which a consumer settles a fetched frame: `done`, or dropped with this cause."""


class FrameId(NamedTuple):
    """Identifies a frame of a stream. Ordered: frames of a later connection (epoch) are newer."""

    epoch: int
    """Unix milliseconds at which the connection was opened; strictly increasing per stream."""
    seq: int
    """Number of the decoded frame, from 0 in each epoch."""


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
    """Names of the tasks with `when` whose condition is met."""

    @property
    def id(self) -> FrameId:
        return FrameId(self.epoch, self.seq)


@dataclass(frozen=True, slots=True)
class Zone:
    """A named polygon in the pictures of a stream. A task with a zone sees only this part."""

    name: str
    points: tuple[Point, ...]
    """At least three corners."""


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle that is part of a task's prompt."""

    x0: float
    y0: float
    x1: float
    y1: float


class TaskParams(Protocol):
    """The part of a task's pipeline-specific keys that the rest of the program reads."""

    @property
    def quality(self) -> str:
        """Decoding quality, as published in events."""

    @property
    def prompt_text(self) -> str | None:
        """Text of the prompt, if the task takes one."""

    @property
    def prompt_region(self) -> Region | None:
        """Region of the prompt, if the task takes one."""

    @property
    def prompts(self) -> Mapping[str, float]:
        """Expected number of prompts of one run, by kind of task: a task of several stages asks as other kinds too."""

    @property
    def labels(self) -> Collection[str] | None:
        """All labels that the answer can have; None if they are not known."""


@dataclass(frozen=True, slots=True)
class Task:
    """A task of a stream. `config.task.ScheduledTask` adds its schedule."""

    name: str
    """Unique in its stream."""
    task: str
    """The pipeline's key, for example `object_detection`."""
    params: Any
    """A `TaskParams`: an instance of the task's `TaskSpec.parameters`."""
    priority: Priority = "normal"
    max_age: float | None = None
    """Seconds. If the frame is older when the engine could take the job, the outcome is `stale`."""
    zone: Zone | None = None
    crop: Crop | None = None
    """None: a task with a region sees the whole frame, or its whole zone."""

    @property
    def work(self) -> Hashable:
        """Equal for tasks whose runs cost about the same."""
        return self.task, self.params.quality, *self.params.prompts.items()


@dataclass(frozen=True, slots=True)
class Parent:
    """The answer, and the part of it, that a follow-up task is about."""

    event: str
    """Id of the answer's event."""
    path: tuple[int, ...]
    """Number of the shape in its answer, 0 for a text, after the numbers of the answers before."""
    label: str | None = None
    track: int | None = None
    region: Region | None = None
    """Bounding box of the shape. None: the follow-up is about the answer's text."""


@dataclass(frozen=True, slots=True)
class DueTask:
    """A task that is due. It is chosen before its frame is fetched."""

    stream: str
    task: Task
    deadline: float
    """Monotonic second at which the task is due again."""
    unchanged_since: float | None = None
    """Unix second of the frame whose answer still holds: the job needs no run, its outcome is `unchanged`."""
    origin: Origin = "schedule"
    parent: Parent | None = None
    """Set if the task is a follow-up."""

    @property
    def key(self) -> str:
        """The task's name, with the part of its parent's answer: unique among the jobs of one frame."""
        return self.task.name if self.parent is None else f"{self.task.name}#{'.'.join(map(str, self.parent.path))}"


@dataclass(frozen=True, slots=True)
class Job:
    due: DueTask
    frame: Frame


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of one job."""

    job: Job
    outcome: Outcome
    answer: Answer = field(default_factory=Answer)
    error: str | None = None
    started_mono: float = 0.0
    inference_s: float = 0.0
    """Seconds in the engine, from the start of the job's batch to its answer."""
    batch: int = 1
    """Number of jobs that were in the engine together."""
    device_s: float | None = None
    """Seconds of the device that the job took for itself; None: its share of the batch."""
    draft: tuple[int, int] | None = None
    """Tokens of the previous answer that were tried as a draft, and the number of them that were accepted."""
    near: int = 0
    """Locations in the answer that were taken from the draft although a place next to them was more probable."""
    crop: Pixels | None = None
    """Part of the frame that the model saw, if it is a crop around the task's region."""

    @property
    def device_seconds(self) -> float:
        return self.inference_s / self.batch if self.device_s is None else self.device_s


ResultKind = Literal["text", "boxes", "polygons", "quads", "boxes_or_polygons"]


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """Description of a task. Reading it must not load a model."""

    task: str
    summary: str
    takes_text: bool
    takes_region: bool
    result: ResultKind
    parameters: type[Any]
    """A `streamer.core.settings.Settings` class: the pipeline's keys of this task and their checks."""
    content: Callable[[Answer], Any] | None = None
    """Returns the `streamer.core.content.Content` of an answer; None: answers do not describe the picture in words."""
    names_region: bool = False
    """The text of an answer is the kind of thing in its region."""


class Costs(NamedTuple):
    """Device time per answer."""

    measured: str
    """Place or date of the measurement, as text."""
    seconds: Mapping[str, float]
    """Device seconds of an answer by task. Some tasks may be missing."""


class Device(NamedTuple):
    """A device that an inference process of its own uses."""

    name: str
    """For users, such as `cuda:1`."""
    settings: Any
    """The pipeline's settings for this device alone."""


class Engine(Protocol):
    """A loaded model in the inference process. Not thread-safe."""

    @property
    def model(self) -> str:
        """Name of the checkpoint, as published in events."""

    @property
    def description(self) -> str:
        """The engine, device and number type that the model runs with, and why, for users."""

    @property
    def warnings(self) -> Sequence[str]:
        """Settings that could not be followed, and why, for users. A fault while it runs may add one."""

    def free(self) -> int:
        """Return the number of jobs it can take now."""

    def admit(self, jobs: Sequence[Job]) -> None:
        """Take jobs. Their images must stay readable until their results are returned."""

    def step(self) -> list[Result]:
        """Make some progress; return the results of jobs that have finished.

        A bad job must not raise: its outcome is `error`.
        """


class Pipeline(Protocol):
    """A kind of model. Its module must not import torch; `open` may do so."""

    settings: type[Any]
    """A `streamer.core.settings.Settings` class: the `model:` block of the config."""

    def tasks(self) -> Mapping[str, TaskSpec]: ...

    def refuse(self, settings: Any, task: str, params: Any) -> str | None:
        """Return why the model of these settings can never run this task, or None.

        Must not load or download the model.
        """

    def devices(self, settings: Any) -> Sequence[Device]:
        """Return the devices that these settings name, at least one. `open` and `costs` take the settings of any.

        Must not import torch. Raises ConfigError.
        """

    def costs(self, settings: Any) -> Costs:
        """Return the costs measured on a reference computer, for hosts without a measurement of their own."""

    def identify(self, settings: Any) -> tuple[str, str]:
        """Return the name of the model and the hash of its files, all of which are read. Must not import torch.

        Raises ConfigError when they are missing, incomplete, or have another hash than the settings name.
        """

    def memory(self, settings: Any) -> int:
        """Return the bytes of memory that a process needs at most to load the model. Must not import torch.

        Raises ConfigError as `identify` does.
        """

    def open(self, settings: Any, alive: Callable[[], None] = ...) -> Engine:
        """Load and warm up the model. Raises ConfigError when the checkpoint or the device cannot be used.

        Calls `alive` after each part of a long warm-up, at least every few minutes.
        """

    def quantize(
        self,
        settings: Any,
        collect: Callable[[], tuple[Sequence[Job], Sequence[Job]]],
        floor: float,
        tell: Callable[[str], None],
    ) -> bool:
        """Make an int8 model and compare it with the exact one; return whether it answers a task as well and faster.

        `collect` returns the jobs for calibration and the held-out jobs that are compared; it is called when all else
        that is needed was found. `floor` is the share of shapes, of words and of statements that must be equal. `tell`
        gets lines of progress and the report. Raises ConfigError when the model of these settings cannot be quantized.
        """

    def compare(self, settings: Any, seconds: float, tell: Callable[[str], None]) -> Mapping[str, Any]:
        """Measure the model beside another implementation of it, each row for `seconds`; return values for JSON.

        `tell` gets the table line by line. Raises ConfigError as `open` does.
        """


class Sink(Protocol):
    """Delivers events to one destination. Runs in the emit process, one thread per sink."""

    def write(self, events: Sequence[tuple[int, bytes]]) -> None:
        """Deliver (ledger position, CloudEvents JSON) in order; return once the destination has them.

        Raises SinkError: the same events are delivered again later.
        """

    def close(self) -> None: ...
