"""Estimate the share of the device that a config needs: an upper bound, computed from the cost of each task.

The estimate does not subtract frames that several tasks share (encoded once), closed `between` windows, or quiet
scenes of tasks with `when`. Recordings use the remaining capacity and count as 0, as do paused tasks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from streamer.config.follow_up import all_follow_ups
from streamer.config.model import Config, find_pipeline
from streamer.core import atomic_file
from streamer.core.errors import ConfigError
from streamer.core.paths import state_home
from streamer.inference.overload import MARGIN, Demand, shares
from streamer.inference.placement import Placement
from streamer.inference.stream_load import (
    FPS,
    follow_up_load,
    known_fps,
    max_runs_per_second,
    prompts_of,
    stream_load,
    task_load,
)
from streamer.types import PRIORITIES, Costs, Device, Priority

NAMED_TASKS = 3
"""Number of tasks that a warning names."""
COSTS_FILE = "costs.json"
"""Seconds per answer on this computer, which `streamer bench` stores and `streamer check` reads."""
_COSTS = TypeAdapter(dict[str, Costs])
_INCLUDED = ""
"""Name of the included model, which has no checkpoint name in a config."""

TaskId = tuple[str, str]
ModelId = tuple[str | None, int | None, str | None]
"""Checkpoint, image size and device; None: the included model, the checkpoint's own size, the device `auto`."""


@dataclass(frozen=True, slots=True)
class Load:
    """Upper bound of the load, in device seconds per second (1 = the whole device)."""

    costs: Costs
    is_measured: bool
    """True if `costs` was measured on this computer by `streamer bench`."""
    by_task: Mapping[TaskId, float]
    """Keys: stream and task name."""
    by_kind: Mapping[str, float]
    """Keys: type of task."""
    demands: Mapping[Priority, Demand]
    """Load of the tasks whose intervals overload control can stretch, by priority."""
    assumptions: tuple[str, ...]
    """Assumptions behind the estimate, as printed."""
    devices: tuple[tuple[str, float, tuple[str, ...]], ...]
    """Name, load and streams of each device, as they are divided at the start."""
    follow_ups: float
    """Load of the follow-ups (`then`). It is no part of the others: follow-ups run in the time that is left."""

    @property
    def total(self) -> float:
        return sum(self.by_task.values())


def estimate(config: Config) -> Load | None:
    """Return the load of a config, or None if the costs of its model are unknown."""
    devices = find_pipeline().devices(config.model)
    own = _own_costs(devices[0])
    costs = own or find_pipeline().costs(config.model)
    if not costs.seconds:
        return None
    by_task: dict[TaskId, float] = {}
    by_kind: defaultdict[str, float] = defaultdict(float)
    demands = dict.fromkeys(PRIORITIES, Demand())
    assumptions, follow_ups = set(), 0.0
    for name, stream in config.streams.items():
        for task in stream.tasks:
            rate = max_runs_per_second(task, stream.source)
            cost = task_load(task, stream.source, costs.seconds)
            by_task[name, task.name] = cost
            by_kind[task.task] += cost
            if task.at is None:
                demand = demands[task.priority]
                demands[task.priority] = Demand(demand.tasks + 1, 0, demand.cost + cost)
            prompts = prompts_of(task, costs.seconds)
            for kind in prompts if rate else ():
                if kind not in costs.seconds:
                    assumptions.add(f"{kind} is not measured and counts as the most expensive measured task")
            if rate and len(prompts) > 1:
                asked = " and ".join(f"{count:g} {kind}" for kind, count in prompts.items())
                assumptions.add(f"{name}.{task.name} has several stages and counts as {asked}")
            if rate and task.params.quality == "official":
                assumptions.add("`quality: official` costs more than estimated")
            follow_ups += follow_up_load(task, stream.source, costs.seconds)
            if rate and any(one.on == "new_tracks" for one in all_follow_ups(task)):
                assumptions.add("of follow-ups with `on: new_tracks`, only those after `refresh` are counted")
            if rate and any(follow_up.crop for follow_up in all_follow_ups(task)):
                assumptions.add("a follow-up with `crop: native` costs a vision pass per shape: fewer run under load")
            if rate and task.every_n_frames and not known_fps(stream.source):
                assumptions.add(f"cameras without a known rate count as {FPS:g} fps")
    divided = tuple(_divide(config, devices, costs))
    return Load(costs, own is not None, by_task, by_kind, demands, tuple(sorted(assumptions)), divided, follow_ups)


def stream_costs(config: Config) -> dict[str, float]:
    """Return the load of each stream in device seconds per second, the same on every computer.

    It is computed from the costs that come with the model. Without any, one device can run all streams.
    """
    costs = find_pipeline().costs(config.model).seconds
    if not costs:
        return dict.fromkeys(config.streams, 1 / len(config.streams))
    return {name: stream_load(stream, costs) for name, stream in config.streams.items()}


def capacity(config: Config) -> float:
    """Return the load that the devices of this computer can bear, in the unit of `stream_costs`.

    A device that `streamer bench` has measured counts by its speed.
    """
    devices = find_pipeline().devices(config.model)
    own, given = _own_costs(devices[0]), find_pipeline().costs(config.model).seconds
    measured = [kind for kind in given if own is not None and own.seconds.get(kind)]
    speed = 1.0
    if own is not None and measured:
        speed = sum(given[kind] for kind in measured) / sum(own.seconds[kind] for kind in measured)
    return len(devices) * speed * (MARGIN if given else 1.0)


def describe(config: Config, load: Load | None) -> Iterator[str]:
    """Return the load as lines of text; above 100 %, with a warning and the intervals that would fit."""
    name, side, _ = _model(config.model)
    bench = "streamer bench" + (f" --model {name}" if name else "") + (f" --image-size {side}" if side else "")
    if load is None:
        yield f"load: unknown, no costs for this model: measure them with `{bench}`"
        return
    if not load.total:
        yield "load: no fixed load, recordings use the whole device"
        return
    kinds = sorted(load.by_kind.items(), key=lambda item: -item[1])
    of = "the device" if len(load.devices) == 1 else f"one of {len(load.devices)} devices"
    yield f"load: at most {percent(load.total)} of {of} ({', '.join(f'{k} {percent(v)}' for k, v in kinds)})"
    for device, share, streams in load.devices if len(load.devices) > 1 else ():
        yield f"  {device}: {percent(share)} ({', '.join(streams)})"
    if load.follow_ups:
        yield f"  follow-ups (`then`): at most {percent(load.follow_ups)} more, in the time that is left"
    if load.is_measured:
        yield f"  costs measured {load.costs.measured}"
    else:
        yield f"  costs measured on {load.costs.measured}, not on this computer: measure them with `{bench}`"
    for assumption in load.assumptions:
        yield f"  {assumption}"
    yield "  not subtracted: frames that tasks share, closed `between` windows, quiet scenes of `when`"
    if load.total > len(load.devices):
        yield from _warning(load)


def _warning(load: Load) -> Iterator[str]:
    largest = sorted(load.by_task.items(), key=lambda item: -item[1])[:NAMED_TASKS]
    named = ", ".join(f"{stream}.{name} {percent(cost)}" for (stream, name), cost in largest)
    devices = len(load.devices)
    yield f"warning: the tasks need more than the device{'s' if devices > 1 else ''} can do. Most expensive: {named}"
    factor = math.ceil(10 * load.total / devices / MARGIN) / 10
    yield f"  all tasks fit if every interval is {factor:g} times as long"
    factors = [
        f"{key} {factor:.1f} times" for key, factor in shares(float(devices), load.demands).items() if factor > 1
    ]
    if factors:
        yield f"  otherwise intervals are stretched under full load: {', '.join(factors)}"


def percent(load: float) -> str:
    """Format a share of the device's time, such as `12 %`."""
    return f"{100 * load:.0f} %" if load >= 0.1 or not load else f"{max(100 * load, 0.1):.1f} %"


def store_cost(model: ModelId, task: str, seconds: float) -> None:
    """Store a task's seconds per answer, for all agents of this user. Raises OSError if that is not possible."""
    path, costs, key = costs_file(), _read_costs(), _key(model)
    before = costs.get(key)
    by_task = {**(before.seconds if before else {}), task: float(f"{seconds:.4g}")}
    costs[key] = Costs(f"here by `streamer bench`, {date.today()}", by_task)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_file.write(path, _COSTS.dump_json(costs, indent=1).decode() + "\n")


def _divide(config: Config, devices: Sequence[Device], costs: Costs) -> Iterator[tuple[str, float, tuple[str, ...]]]:
    """Yield the name, the load and the streams of each device."""
    loads = {name: stream_load(stream, costs.seconds) for name, stream in config.streams.items()}
    numbers = [str(number) for number in range(len(devices))]
    placement = Placement(numbers, loads, frozenset())
    for number, device in zip(numbers, devices, strict=True):
        streams = tuple(name for name in loads if placement.process_of[name] == number)
        yield device.name, sum(loads[name] for name in streams), streams


def _model(settings: Any) -> ModelId:
    """Return the model that these settings of a pipeline name."""
    device = getattr(settings, "device", None)
    sizes = getattr(settings, "checkpoint", None), getattr(settings, "image_size", None)
    return *sizes, None if device == "auto" else device


def _own_costs(device: Device) -> Costs | None:
    """Return the costs that were measured on this computer."""
    model, stored = _model(device.settings), _read_costs()
    # Most computers have one device to choose, which a measurement without a device has chosen too.
    return stored.get(_key(model)) or stored.get(_key((*model[:2], None)))


def _key(model: ModelId) -> str:
    checkpoint, image_size, device = model
    return (checkpoint or _INCLUDED) + (f" at {image_size}" if image_size else "") + (f" on {device}" if device else "")


def costs_file() -> Path:
    """Return the path of the file that stores the costs."""
    return state_home() / COSTS_FILE


def _read_costs() -> dict[str, Costs]:
    try:
        return _COSTS.validate_json(costs_file().read_bytes())
    except (OSError, ValidationError, ConfigError):
        return {}  # missing or damaged, or no home folder: the costs can be measured again
