"""The checks of a config that compare its parts: names that come twice, shared files, outputs without a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from streamer.config.collect import collect_problems
from streamer.config.follow_up import names_of
from streamer.config.validation import Problem, nearest
from streamer.config.yaml_file import Where
from streamer.video.outputs.base import H264Settings, outputs_by_view


def cross_problems(config: Any) -> Iterator[Problem]:
    """Yield the problems of the parts of a config with each other. `config`: an instance of `schema_model()`."""
    yield from _repeated_names(config)
    yield from _shared_files(config)
    yield from _shared_devices(config)
    yield from _bad_outputs(config)
    yield from _unknown_zones(config)
    yield from collect_problems(config)
    yield from _bad_targets(config)
    yield from _bad_labels(config)


def _bad_labels(config: Any) -> Iterator[Problem]:
    for name, stream in config.streams.items():
        if stream.host_labels and config.cluster is None:
            yield ("streams", name, "host_labels"), "needs `cluster`, whose hosts have labels"
        elif config.cluster and not config.cluster.hosts_for(stream.host_labels):
            yield ("streams", name, "host_labels"), "no host of `cluster` that runs streams has these labels"


def _repeated_names(config: Any) -> Iterator[Problem]:
    for name, stream in config.streams.items():
        tasks = [task.name or task.task for task in stream.tasks]
        yield from _repeated(("streams", name, "tasks"), tasks, "task")
        for index, task in enumerate(stream.tasks):
            for where, follow_up in names_of(task.then):
                if follow_up in tasks:
                    problem = f"a second task with the name `{follow_up}`: give it a `name` of its own"
                    yield ("streams", name, "tasks", index, *where), problem
                tasks.append(follow_up)
    yield from _repeated(("sinks",), [sink.name for sink in config.sinks], "sink")


def _shared_files(config: Any) -> Iterator[Problem]:
    """Yield the sinks and outputs that would write a file of another one, also one that it has rotated away."""
    owners: set[Path] = set()
    for key in ("sinks", "outputs"):
        for index, entry in enumerate(getattr(config, key)):
            path = getattr(entry, "path", None)
            if path is None:
                continue
            rotated = range(1, getattr(entry, "keep", 0) + 1) if key == "sinks" else ()
            files = {path.absolute(), *(path.absolute().with_name(f"{path.name}.{number}") for number in rotated)}
            if owners & files:
                yield (
                    (key, index, "path"),
                    f"`{path}` or a rotated file of it is also a file of another sink or output",
                )
            owners |= files


def _shared_devices(config: Any) -> Iterator[Problem]:
    """Yield the sinks that would replace the discovery messages of another one: Home Assistant knows a device once."""
    owners: dict[tuple[str, int], str] = {}
    for index, sink in enumerate(config.sinks):
        if getattr(sink, "home_assistant", False):
            owner = owners.setdefault(sink.address, sink.name)
            if owner != sink.name:
                problem = f"the sink `{owner}` has it too, with the same broker: each would replace the other's devices"
                yield ("sinks", index, "home_assistant"), problem


def _unknown_zones(config: Any) -> Iterator[Problem]:
    for name, stream in config.streams.items():
        for index, zone in enumerate(stream.motion.ignore):
            if zone not in stream.zones:
                known = nearest(zone, list(stream.zones)) if stream.zones else ": the stream has no `zones`"
                yield ("streams", name, "motion", "ignore", index), f"unknown zone `{zone}`{known}"


def _bad_targets(config: Any) -> Iterator[Problem]:
    """Yield targets whose package is missing, and names in rules that are no target or come twice."""
    for name, target in config.notify.items():
        if problem := target.missing_package():
            yield ("notify", name, "kind"), problem
    for rule_name, rule in config.rules.items():
        for index, name in enumerate(rule.notify):
            where: Where = ("rules", rule_name, "notify", index)
            if name not in config.notify:
                known = nearest(name, list(config.notify)) if config.notify else ": the config has no `notify`"
                yield where, f"unknown target `{name}`{known}"
            elif name in rule.notify[:index]:
                yield where, f"`{name}` is named twice"


def _bad_outputs(config: Any) -> Iterator[Problem]:
    yield from _repeated(("outputs",), [output.label for output in config.outputs], "output")
    for index, output in enumerate(config.outputs):
        stream = config.streams.get(output.stream)
        if stream is None:
            known = nearest(output.stream, list(config.streams))
            yield ("outputs", index, "stream"), f"there is no stream `{output.stream}`{known}"
        elif stream.source.pace == "file":
            yield ("outputs", index, "stream"), f"`{output.stream}` is a recording: outputs show live streams only"
        if output.SERVED and config.web is None:
            yield ("outputs", index, "kind"), f"only the page serves {output.kind}, and there is none: add `web:`"
    for view, outputs in outputs_by_view(config.outputs).items():
        encoders = {output.encoder for output in outputs if isinstance(output, H264Settings)}
        if len(encoders) > 1:
            place = max(config.outputs.index(output) for output in outputs if isinstance(output, H264Settings))
            words = " and ".join(f"`{name}`" for name in sorted(encoders))
            yield ("outputs", place, "encoder"), f"the outputs of `{view}` share one encode: {words} cannot both be"


def _repeated(where: Where, names: Sequence[str], what: str) -> Iterator[Problem]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield (*where, index), f"a second {what} with the name `{name}`: give it a `name` of its own"
