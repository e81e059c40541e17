"""The plan of a config, and the placement of its streams by cost and label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamer.cluster.controller import Candidate
from streamer.cluster.host import fingerprint
from streamer.cluster.plan import make_plan, place
from streamer.config.cluster import agent_name
from streamer.config.model import at_host, from_mapping
from streamer.core.errors import ConfigError

CAMERA = {"source": "synthetic", "tasks": [{"task": "caption", "every": "1s"}]}
HOSTS = {
    "north": {"address": "10.0.0.1", "labels": {"site": "north"}},
    "south": {"address": "10.0.0.2"},
    "tower": {"address": "10.0.0.3", "runs_streams": False},
}


def config(streams: dict[str, Any], **cluster: Any) -> dict[str, Any]:
    return {"streams": streams, "cluster": {"hosts": HOSTS, **cluster}}


def test_streams_go_to_hosts_with_their_labels() -> None:
    checked = from_mapping(config({"gate": {**CAMERA, "host_labels": {"site": "north"}}, "yard": CAMERA}))
    plan = make_plan(Path("shop.yaml"), checked, {"gate": 0.9, "yard": 0.2})
    hosts = [Candidate(name, 1.0, False) for name in ("north", "south")]
    assert place(plan, hosts, {}).host_of == {"gate": "north", "yard": "south"}
    alone = place(plan, hosts[1:], {})
    assert alone.host_of == {"yard": "south"}
    assert "site: north" in alone.waiting["gate"]


def test_agent_of_a_host_has_a_name_of_its_own() -> None:
    checked = from_mapping({"agent": "shop", **config({"gate": CAMERA})})
    north = at_host(checked, "north")
    assert (north.name, north.raw["agent"], north.host, checked.host) == ("shop-north", "shop-north", "north", None)
    with pytest.raises(ConfigError, match="unknown host east: the config has north, south, tower"):
        at_host(checked, "east")
    with pytest.raises(ConfigError, match="the config has no `cluster`"):
        at_host(from_mapping({"streams": {"gate": CAMERA}}), "north")


def test_labels_that_no_host_has_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"streams\.gate\.host_labels: no host"):
        from_mapping(config({"gate": {**CAMERA, "host_labels": {"site": "east"}}}))
    with pytest.raises(ConfigError, match=r"streams\.gate\.host_labels: needs `cluster`"):
        from_mapping({"streams": {"gate": {**CAMERA, "host_labels": {"site": "north"}}}})


def test_wrong_addresses_and_leases_are_errors() -> None:
    with pytest.raises(ConfigError, match="IP address"):
        from_mapping({"streams": {"gate": CAMERA}, "cluster": {"hosts": {"a": {"address": "here or there"}}}})
    with pytest.raises(ConfigError, match=r"cluster\.lease"):
        from_mapping(config({"gate": CAMERA}, lease="1s"))


def test_a_plan_needs_a_cluster() -> None:
    with pytest.raises(ConfigError, match=r"shop\.yaml: `cluster` is missing"):
        make_plan(Path("shop.yaml"), from_mapping({"streams": {"gate": CAMERA}}), {})


def test_other_streams_or_hosts_have_another_mark() -> None:
    one, two = from_mapping(config({"gate": CAMERA})), from_mapping(config({"gate": CAMERA}, lease="9s"))
    assert one.cluster is not None
    assert two.cluster is not None
    marks = {
        fingerprint(one.cluster, one.streams),
        fingerprint(two.cluster, one.streams),
        fingerprint(one.cluster, {**one.streams, "yard": one.streams["gate"]}),
    }
    assert len(marks) == 3


def test_names_that_would_be_too_long_are_an_error() -> None:
    assert agent_name("shop", "north") == "shop-north"
    with pytest.raises(ConfigError, match="shorten"):
        make_plan(Path("shop.yaml"), from_mapping({"agent": "s" * 60, **config({"gate": CAMERA})}), {"gate": 0.1})
