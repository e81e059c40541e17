"""`streamer check`: validate a config and print its contents and its expected load."""

from __future__ import annotations

import statistics
import threading
import time
from contextlib import closing, suppress
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamer.cli.options import ConfigFile, ShardText
from streamer.core.errors import ConfigError
from streamer.core.printable import printable
from streamer.core.proxies import forget_proxies
from streamer.core.reasons import reason_of
from streamer.core.redact import redact

if TYPE_CHECKING:
    from streamer.capture.interfaces import Source, SourceSettings
    from streamer.config.model import Config

PROBE_S = 30.0
"""Longest wait for a first frame. A camera with a frame every 10 s completes its first one when the second begins."""
MAX_FRAMES, MAX_S = 15, 4.0
"""Frames and seconds from which the rate is measured; after MAX_S, two frames are enough."""


def check(
    config: ConfigFile,
    probe: Annotated[bool, typer.Option("--probe", help="Open each source and print its frame size and rate.")] = False,
    shard: ShardText = None,
) -> None:
    """Check a config and estimate its load on the model.

    With --shard it also prints the streams of each shard.
    """
    from streamer.cli.shards import describe_shards, load_shard
    from streamer.cli.targets import check_targets
    from streamer.config.model import place

    if shard is not None:
        for line in describe_shards(config, shard):
            print(line)
    loaded, is_empty = load_shard(config, shard)
    if is_empty:
        print(f"{config} is valid: agent {loaded.name} runs no stream")
        return
    for kind, targets in (("sinks", loaded.sinks), ("outputs", loaded.outputs)):
        for index, target in enumerate(targets):
            try:
                target.check()
            except ConfigError as error:
                raise ConfigError(f"{place(config, (kind, index))}: {error}") from None
    check_targets(config, loaded)
    _check_sockets(loaded)
    if probe:
        raise typer.Exit(0 if probe_all(loaded) else 1)
    print(f"{config} is valid: agent {loaded.name}")
    _print_contents(loaded)


def _check_sockets(config: Config) -> None:
    """Raise ConfigError if a socket of the agent, or of a host of its cluster, has a path that is too long here."""
    from streamer.cluster.host import check_host_socket, host_folder
    from streamer.config.cluster import agent_name
    from streamer.config.socket_names import socket_names
    from streamer.core.paths import check_socket_lengths, runtime_folder

    hosts = [agent_name(config.name, host) for host in config.cluster.hosts] if config.cluster else []
    for agent in hosts or [config.name]:
        if (runtime := runtime_folder(agent)) is not None:
            check_socket_lengths(runtime, socket_names(config))
    try:
        folders = [host_folder(agent) for agent in hosts]
    except ConfigError:
        return  # a user without a home folder, who can run no host here
    for folder in folders:
        check_host_socket(folder)


def _print_contents(config: Config) -> None:
    from streamer.cli.load_estimate import describe, estimate, percent
    from streamer.cli.rules import rule_lines
    from streamer.config.model_choice import ModelChoices
    from streamer.core.paths import state_folder

    load = estimate(config)
    print(f"  model: {_keys(config.model)}")
    with suppress(ConfigError):  # a user without a home folder, who has run no agent
        if (choice := ModelChoices(state_folder(config.name), config).current) is not None:
            print(f"  model in use: {choice}, chosen with `streamer model use` instead of that of the config")
    for name, stream in config.streams.items():
        print(f"  stream {name}: {_keys(stream.source)}")
        for task in stream.tasks:
            share = load.by_task[name, task.name] if load else 0.0
            suffix = f", load {percent(share)}" if share else ""
            rules = config.made.get((name, task.name), ())
            made = f", for the rule{'s' if len(rules) > 1 else ''} {', '.join(rules)}" if rules else ""
            print(f"    {task.name}: {task.task}, {task.describe_schedule}{suffix}{made}")
    for index, (name, mode) in enumerate(config.modes.items()):
        armed = [rule for rule, one in config.rules.items() if one.modes is None or name in one.modes]
        words = [f"mode {name}"] + ([] if index else ["at the first start"])
        words += [] if mode.at is None else [f"from {mode.at.text}"]
        print(f"  {', '.join(words)}: {', '.join(armed) or 'no rule'} armed")
    for line in rule_lines(config, []):
        print(printable(f"  rule {line}"))
    for sink in config.sinks:
        print(f"  sink {_keys(sink)}")
    for name, one in config.notify.items():
        print(f"  notify {name}: {_keys(one)}")
    for output in config.outputs:
        print(f"  output {output.label}: {_keys(output)}")
    if config.web is not None:
        print(f"  page: http://{config.web.bind}{', with a token' if config.web.all_tokens else ''}")
    for line in describe(config, load):
        print(f"  {line}")


def _keys(settings: Any) -> str:
    """Return the keys and values of a settings object on one line, without unset ones and without secrets."""
    return redact(", ".join(f"{key} {value}" for key, value in settings if value is not None))


def probe_all(config: Config) -> bool:
    """Print frame size and rate of each source; return whether every one sent a frame within PROBE_S."""
    forget_proxies()
    probes = {name: _Probe(stream.source) for name, stream in config.streams.items()}
    deadline = time.monotonic() + PROBE_S
    for name, probe in probes.items():
        probe.thread.join(max(0.0, deadline - time.monotonic()))
        print(f"{name}: {redact(probe.describe())}", flush=True)
    return all(probe.size for probe in probes.values())


class _Probe:
    """Opens and reads one source in a thread, because a call that hangs in the video library cannot be interrupted."""

    def __init__(self, settings: SourceSettings) -> None:
        self.size: tuple[int, int] | None = None
        self.rate: float | None = None
        self.problem: str | None = None
        self.thread = threading.Thread(target=self._run, args=(settings,), daemon=True)
        self.thread.start()

    def describe(self) -> str:
        if self.size is None:
            return self.problem or f"no frame within {PROBE_S:g} s"
        rate = f"{self.rate:.3g} fps" if self.rate else "frame rate unknown"
        return f"{self.size[0]}x{self.size[1]}, {rate}"

    def _run(self, settings: SourceSettings) -> None:
        try:
            with closing(settings.open()) as source:
                self._read(source)
            self.problem = "ended without a frame"
        except Exception as error:  # also an error of a library is the result of this probe
            self.problem = reason_of(error, "probe") or "ended without a frame"

    def _read(self, source: Source) -> None:
        times: list[float] = []
        started = time.monotonic()
        for picture in islice((picture for picture in source if picture is not None), MAX_FRAMES):
            self.size = (picture.width, picture.height)
            if picture.pts is not None:
                times.append(picture.pts)
            if len(times) > 1 and time.monotonic() - started > MAX_S:
                break
        gaps = [after - before for before, after in pairwise(times) if after > before]
        if gaps:
            self.rate = 1 / statistics.median(gaps)  # the median ignores gaps of lost frames
