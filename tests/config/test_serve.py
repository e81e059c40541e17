"""`serve` and the streams that need no tasks because of it."""

from __future__ import annotations

from typing import Any

import pytest

from streamer.config.model import from_checked, from_mapping
from streamer.core.errors import ConfigError
from streamer.processes.assignment import Role
from streamer.processes.config_part import part_of

SERVE = {"bind": "0.0.0.0:5600"}
CAMERA = {"source": "synthetic"}


def test_served_stream_needs_no_tasks() -> None:
    config = from_mapping({"serve": SERVE, "streams": {"yard": CAMERA}})
    assert config.streams["yard"].tasks == ()
    assert config.serve is not None
    assert str(config.serve.bind) == "0.0.0.0:5600"
    assert from_checked(config.raw).streams.keys() == {"yard"}


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"streams": {"yard": CAMERA}}, "streams.yard: `tasks` is missing"),
        ({"serve": SERVE, "streams": {"yard": {"source": "synthetic?pace=file"}}}, "streams.yard: `tasks` is missing"),
        ({"serve": {}, "streams": {"yard": CAMERA}}, "serve: `bind` is missing"),
        ({"serve": {"bind": "boxa:5600"}, "streams": {"yard": CAMERA}}, "serve.bind: must begin with an IP address"),
        ({"serve": {"bind": "ipc://x"}, "streams": {"yard": CAMERA}}, "serve.bind: must be an address and a port"),
    ],
    ids=["no serve", "recording", "no address", "name", "ipc"],
)
def test_bad_serve_names_the_problem(config: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_mapping(config)
    assert problem in str(caught.value)


def test_serve_process_knows_no_source() -> None:
    config = from_mapping({"serve": SERVE, "streams": {"yard": {"source": "rtsp://me:s3cret@10.0.0.7/x"}}})
    part = part_of(config, Role.SERVE, None)
    assert part["serve"] == SERVE
    assert "s3cret" not in str(part)
