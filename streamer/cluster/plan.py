"""The part of a config that the controller needs, and the placement of its streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from streamer.cluster import placement
from streamer.cluster.controller import Candidate
from streamer.cluster.host import fingerprint
from streamer.cluster.placement import Placed
from streamer.config.cluster import agent_name
from streamer.config.model import Config
from streamer.core.errors import ConfigError
from streamer.core.settings import Settings


class Plan(Settings):
    """The part of a config that the controller needs, without secrets."""

    agent: str
    config: str
    """Absolute path of the config file, the same on all hosts."""
    mark: str
    """Its `fingerprint`."""
    hosts: dict[str, dict[str, str]]
    """Labels by host, in the order of the config."""
    costs: dict[str, float]
    """Device seconds per second by stream."""
    needs: dict[str, dict[str, str]]
    """Labels that the host of a stream must have, by stream."""
    lease_s: float
    exclusive: bool


def make_plan(path: Path, config: Config, costs: Mapping[str, float]) -> Plan:
    """Return the plan of a config file. Raises ConfigError without `cluster`, and for too long names."""
    if config.cluster is None:
        raise ConfigError(f"{path}: `cluster` is missing: it names the hosts that share the streams")
    for host in config.cluster.hosts:
        agent_name(config.name, host)
    return Plan(
        agent=config.name,
        config=str(path.absolute()),
        mark=fingerprint(config.cluster, config.streams),
        hosts={name: dict(host.labels) for name, host in config.cluster.hosts.items()},
        costs=dict(costs),
        needs={name: dict(stream.host_labels) for name, stream in config.streams.items()},
        lease_s=config.cluster.lease,
        exclusive=config.cluster.exclusive,
    )


def place(plan: Plan, hosts: Sequence[Candidate], current: Mapping[str, str]) -> Placed:
    """Return the hosts of the streams, from these hosts in reach and the present ones."""
    table = [
        placement.Host(host.name, host.capacity, plan.hosts[host.name], "draining" if host.is_draining else "up")
        for host in hosts
    ]
    streams = [placement.Stream(name, cost, plan.needs[name]) for name, cost in plan.costs.items()]
    return placement.place(table, streams, current)
