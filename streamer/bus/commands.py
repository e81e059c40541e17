"""Requests to a running agent as typed messages: the command line sends them to the parent, the parent to inference.
Commands to the rules go to the rules process.

`bus/rpc.py` carries them; a response is plain JSON and repeats the request's `id`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from streamer.bus.stream_state import NO_ROWS, Moment, QuarantineRows, ScheduleState
from streamer.core.errors import ConfigError
from streamer.events.command_data import Verdict

T = TypeVar("T")
Action = Literal["add", "remove", "pause", "resume"]
MAX_ASK_S = 600.0
"""Longest wait for the answer to an `Ask`."""
GivenName = Annotated[str, StringConstraints(max_length=64)]
"""Name of a stream or task as the caller gives it, perhaps of none that exists."""


Sender = Annotated[str, StringConstraints(min_length=1, max_length=64)]
"""Name of the user, the access token or the program that sends a command."""
MAX_STREAMS = 10_000
"""Largest number of streams of a `RunStreams`: their names fit into one message."""
MAX_LEASE_S = 3600.0
WATCH_S = 60.0
MAX_TASK_BYTES = 16_384
"""Largest task of a request, as JSON: the check of a longer text would hold up the parent for seconds."""


def _bounded(task: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(task)) > MAX_TASK_BYTES:
        raise ValueError(f"larger than {MAX_TASK_BYTES} bytes")
    return task


TaskKeys = Annotated[dict[str, Any], AfterValidator(_bounded)]
"""Keys of a task, as in a config."""


class Command(BaseModel):
    """Base class. `op` names the command on the wire."""

    model_config = ConfigDict(frozen=True)

    def message(self) -> dict[str, Any]:
        """Return the fields as `RpcClient.send` takes them."""
        return self.model_dump(exclude_none=True)


class ListTasks(Command):
    """Return the agent's name, the path of its ledger and the tasks of each stream."""

    op: Literal["list"] = "list"


class Ask(Command):
    """Run a task once on the next frame and return its event."""

    op: Literal["ask"] = "ask"
    stream: GivenName
    task: TaskKeys
    seconds: float
    """Time to wait for the answer, at most `MAX_ASK_S`."""


class ChangeTask(Command):
    """Change a task of a stream."""

    op: Action
    stream: GivenName
    name: GivenName
    task: TaskKeys | None = None
    """Keys of the task that `add` adds."""
    save: bool = False
    """Apply the change again at each start of the agent."""

    @model_validator(mode="after")
    def _is_about_its_task(self) -> Self:
        task = self.task or {}
        if self.op == "add" and (task.get("name") or task.get("task")) != self.name:
            raise ValueError("`name` is not that of the task")
        return self


class RunStreams(Command):
    """Run these streams of the config and no others. Answered with `RunningStreams`; repeat it until none is `leaving`.

    A stream that is added starts, one that is left out is given up; the others are not touched. The same command may
    come again. `streamer run --streams` says with which streams the agent begins.
    """

    op: Literal["streams.run"] = "streams.run"
    names: Annotated[list[GivenName], Field(max_length=MAX_STREAMS)]
    by: Sender
    """Name of who decides; stands in the event `streams.changed`."""
    epoch: int | None = Field(default=None, ge=0)
    """Number of the decision. A command with a lower one than the last is late and refused."""
    lease_s: float | None = Field(default=None, gt=0, le=MAX_LEASE_S)
    """Seconds after which the agent gives up all streams unless a command renews this. None: no limit."""
    since: float | None = None
    """Second of CLOCK_BOOTTIME from which on `lease_s` counts, such as that at which the lease was granted. None: the
    arrival of the command."""


class RunningStreams(BaseModel):
    """Answer to `RunStreams`, and `running` of the answer to `ListTasks`."""

    model_config = ConfigDict(frozen=True)

    running: list[str]
    """Streams that this agent runs, in the order of the config."""
    leaving: list[str]
    """Streams whose processes or jobs have not ended yet. Another agent that runs one now runs it twice."""
    epoch: int | None = None
    """The last `epoch`."""
    lease_left_s: float | None = None


class ListModels(Command):
    """Return the models that the agent has used, and the state of a swap."""

    op: Literal["models"] = "models"


class _SwapModel(Command):
    """Base class of the commands that swap the model. Answered once the new one serves all streams."""

    watch_s: float = Field(default=WATCH_S, ge=1, le=3600)
    """Seconds for which the new model is watched before the choice is saved."""


class UseModel(_SwapModel):
    """Swap the model for that of a checkpoint."""

    op: Literal["models.use"] = "models.use"
    checkpoint: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    """Absolute path of a folder, or a name on the hub."""
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    """Name of the model in events."""
    hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12,64}$")]
    """Hash of its files."""


class UseModelBefore(_SwapModel):
    """Swap the model for the one that ran before, or end a swap that is not over."""

    op: Literal["models.back"] = "models.back"


class CountOutcomes(Command):
    """Return the outcomes of the last jobs of each task, as `OutcomeCounts` gives them."""

    op: Literal["outcomes"] = "outcomes"


class SetTasks(Command):
    """Replace the tasks of a stream in the inference process."""

    op: Literal["tasks"] = "tasks"
    stream: str
    tasks: list[dict[str, Any]]


class ServeStream(Command):
    """Serve a stream from now on. Answered with `served`."""

    op: Literal["serve"] = "serve"
    stream: str
    schedule: ScheduleState | None = None
    """Go on with this schedule. None: start the tasks afresh."""
    since: Moment | None = None
    """End of the process before: runs of `at` that were due since then are made up for."""
    quarantine: QuarantineRows = NO_ROWS
    """Suspects and blocked tasks of the stream."""
    lease: int | None = None
    """`epoch` of the command with which the agent got the stream: stands in its events."""


class ReleaseStream(Command):
    """Stop serving a stream. Answered with a `Released` once its frames are settled."""

    op: Literal["release"] = "release"
    stream: str
    is_final: bool = False
    """No process of this agent will serve the stream: its waiting jobs are dropped, and it is given up even if its
    capture process does not answer."""


class Released(BaseModel):
    """Answer to `ReleaseStream`."""

    released: bool
    """The stream is given up. False if its capture process did not confirm that."""
    schedule: ScheduleState | None = None
    quarantine: QuarantineRows = NO_ROWS


class _RulesCommand(Command):
    """Base class of what the rules process executes."""

    by: Sender


class SwitchMode(_RulesCommand):
    """Switch to a mode."""

    op: Literal["mode"] = "mode"
    mode: GivenName


class Snooze(_RulesCommand):
    """Notify nobody of the incidents of a rule, a stream, a rule on a stream, or of all incidents, for a time."""

    op: Literal["snooze"] = "snooze"
    rule: GivenName | None = None
    stream: GivenName | None = None
    seconds: float | None = None
    """Duration from now on. None ends the snooze."""


class Acknowledge(_RulesCommand):
    """Neither escalate an open incident nor notify anybody of it any more."""

    op: Literal["ack"] = "ack"
    incident: GivenName | None = None
    """Id of the incident, or the beginning of it."""
    rule: GivenName | None = None
    """Rule of the incident, with `stream` in place of `incident`."""
    stream: GivenName | None = None


class Feedback(_RulesCommand):
    """Judge an incident, also one that has ended."""

    op: Literal["feedback"] = "feedback"
    incident: GivenName
    verdict: Verdict


class ShowRules(Command):
    """Return the rules, the mode, the snoozes and the open incidents."""

    op: Literal["rules"] = "rules"


RulesChange = SwitchMode | Snooze | Acknowledge | Feedback
RulesCommand = RulesChange | ShowRules
RULES: TypeAdapter[RulesCommand] = TypeAdapter(Annotated[RulesCommand, Field(discriminator="op")])
"""Commands to the rules process."""
ModelCommand = ListModels | UseModel | UseModelBefore
ControlCommand = ListTasks | Ask | ChangeTask | RunStreams | ModelCommand
InferenceStreamCommand = Ask | SetTasks | ServeStream | ReleaseStream
InferenceCommand = InferenceStreamCommand | CountOutcomes
CONTROL: TypeAdapter[ControlCommand] = TypeAdapter(Annotated[ControlCommand, Field(discriminator="op")])
"""Commands to the parent."""
INFERENCE: TypeAdapter[InferenceCommand] = TypeAdapter(Annotated[InferenceCommand, Field(discriminator="op")])
"""Commands to the inference process."""


def parse(adapter: TypeAdapter[T], message: Mapping[str, Any]) -> T:
    """Return the command in a message; `adapter`: one of the three above. Raises ConfigError for the sender."""
    try:
        return adapter.validate_python(dict(message))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        problem = f"`{place}` is missing or wrong" if place else "unknown command"
        raise ConfigError(f"malformed request ({problem}): CLI and agent versions may differ") from None
