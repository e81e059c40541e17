"""Settings of a cluster: the hosts that share the streams of one config."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from streamer.core.errors import ConfigError
from streamer.core.settings import Name, Seconds, Settings

Label = Annotated[str, StringConstraints(min_length=1, max_length=63)]
MAX_NAME = 63
"""Characters of the name of an agent."""
MIN_LEASE_S = 3.0
"""A shorter lease would end whenever a host is busy for a moment."""


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("must be an IP address such as 192.168.1.10") from None


class ClusterHost(Settings):
    """A host of the cluster."""

    address: Annotated[str, AfterValidator(_address)]
    """IP address at which the other hosts reach it."""
    labels: dict[Name, Label] = Field({})
    """Properties that streams can ask for with `host_labels`."""
    runs_streams: bool = True
    """False: it only votes on leases, like a computer without cameras that makes two hosts three."""


def agent_name(config: str, host: str) -> str:
    """Return the name of a host's agent, the source of its events. Raises ConfigError if it is too long."""
    if len(name := f"{config}-{host}") > MAX_NAME:
        raise ConfigError(
            f"the agent's name {name} is longer than {MAX_NAME} characters: shorten `agent` or the host's"
        )
    return name


class Cluster(Settings):
    """Share the streams among several hosts with `streamer cluster`; each runs an agent with this config."""

    hosts: dict[Name, ClusterHost] = Field(min_length=1)
    """The hosts by name, the same name as in `ray start --node-name`."""
    port: int = Field(5620, ge=1, le=65535)
    """TCP port at which each host votes on the leases of the others."""
    page_port: int = Field(5621, ge=1, le=65535)
    """TCP port at which the web process of each host answers those of the others, for the page of all hosts."""
    lease: Annotated[Seconds, Field(ge=MIN_LEASE_S)] = 6.0
    """A host stops its streams when it cannot reach most hosts for this long."""
    exclusive: bool = True
    """False: a host that is cut off goes on, and a stream may run on two hosts until it is back."""

    @property
    def running(self) -> dict[str, ClusterHost]:
        """The hosts that run streams."""
        return {name: host for name, host in self.hosts.items() if host.runs_streams}

    def hosts_for(self, needed: Mapping[str, str]) -> list[str]:
        """Return the hosts that run streams and have all of these labels."""
        return [name for name, host in self.running.items() if needed.items() <= host.labels.items()]
