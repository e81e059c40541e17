"""Settings of a cluster: the hosts that share the streams of one config."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from streamer.core.settings import Name, Seconds, Settings

Label = Annotated[str, StringConstraints(min_length=1, max_length=63)]
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


class Cluster(Settings):
    """Share the streams among several hosts with `streamer cluster`; each runs an agent with this config."""

    hosts: dict[Name, ClusterHost] = Field(min_length=1)
    """The hosts by name, the same name as in `ray start --node-name`."""
    port: int = Field(5620, ge=1, le=65535)
    """TCP port at which each host votes on the leases of the others."""
    lease: Annotated[Seconds, Field(ge=MIN_LEASE_S)] = 6.0
    """A host stops its streams when it cannot reach most hosts for this long."""
    exclusive: bool = True
    """False: a host that is cut off goes on, and a stream may run on two hosts until it is back."""

    def hosts_for(self, needed: Mapping[str, str]) -> list[str]:
        """Return the hosts that run streams and have all of these labels."""
        return [
            name for name, host in self.hosts.items() if host.runs_streams and needed.items() <= host.labels.items()
        ]
