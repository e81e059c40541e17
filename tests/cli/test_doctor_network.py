"""`streamer doctor` on what has to do with other computers: addresses, keys of hosts, and brokers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from streamer.bus.host_keys import HostKeys
from streamer.cli.doctor import _targets
from streamer.cli.doctor_network import keys, ports
from streamer.config.model import from_mapping
from tests.support.ports import free_port

FILE = Path("home.yaml")
TASKS = [{"task": "caption"}]
CAMERA = {"gate": {"source": "synthetic", "tasks": TASKS}}
KEY = "ab" * 32


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostKeys:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return HostKeys()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of 127.0.0.1 at which a program listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def found(check: Any, **config: Any) -> list[str]:
    return [str(finding) for finding in check(from_mapping({"streams": CAMERA, **config}), FILE)]


def serve(port: int = 5600, host: str = "127.0.0.1") -> dict[str, str]:
    return {"bind": f"{host}:{port}"}


def cluster(*addresses: str, port: int = 5620) -> dict[str, Any]:
    return {"port": port, "hosts": {f"h{number}": {"address": one} for number, one in enumerate(addresses, 1)}}


def test_a_config_without_other_hosts_needs_no_key() -> None:
    assert found(keys) == []
    assert found(ports) == []


def test_addresses_for_other_hosts_are_free(taken: int) -> None:
    free = free_port()
    assert found(ports, serve=serve(free)) == [f"ok    serve.bind: 127.0.0.1:{free} is free"]
    assert found(ports, serve=serve(taken), web={"bind": f"127.0.0.1:{free}"}) == [
        f"ok    web.bind: 127.0.0.1:{free} is free",
        f"fail  serve.bind: cannot serve on 127.0.0.1:{taken}: Address already in use"
        " -> stop the program that uses it (ss -lntp; it may be this agent), or change serve.bind",
    ]
    assert found(ports, serve=serve(host="198.51.100.1")) == [
        "fail  serve.bind: cannot serve on 198.51.100.1:5600: Cannot assign requested address"
        " -> change serve.bind: use an address of this computer and a port above 1023"
    ]


def test_this_host_of_a_cluster_is_found_by_its_address(taken: int) -> None:
    ok, port = found(ports, cluster=cluster("198.51.100.1", "127.0.0.1", port=taken))
    assert ok == "ok    cluster: this computer has the address of the host h2, 127.0.0.1"
    assert port.startswith(f"fail  cluster.port: cannot serve on 127.0.0.1:{taken}: Address already in use")
    (other,) = found(ports, cluster=cluster("198.51.100.1", "198.51.100.2"))
    assert other.startswith(
        "warn  cluster: this computer has none of the addresses of the hosts: 198.51.100.1, 198.51.100.2"
    )


def test_keys_of_this_host_and_of_others_are_named(files: HostKeys) -> None:
    (none,) = found(keys, serve=serve())
    assert none == f"fail  keys: this host has no key: {files.secret_file} does not exist -> run `streamer keys new`"
    own = files.create()
    assert found(keys, serve=serve()) == [
        f"ok    keys: public key of this host {own.public.hex()}, in {files.folder}",
        "warn  keys: no other host is allowed to get frames -> streamer keys allow NAME KEY",
    ]
    files.allow("boxb", KEY)
    assert found(keys, serve=serve())[1:] == ["ok    keys: allowed hosts: boxb"]
    assert own.secret.hex() not in "".join(found(keys, serve=serve()))


def test_files_that_others_can_read_are_failures(files: HostKeys) -> None:
    files.create()
    files.allow("boxb", KEY)
    files.peer_file("boxb").chmod(0o644)
    (problem,) = found(keys, serve=serve())[1:]
    path = files.peer_file("boxb")
    assert problem.startswith(f"fail  keys: other users may read or change {path} -> run `chmod 600 {path}`")
    files.secret_file.chmod(0o640)
    (problem,) = found(keys, serve=serve())
    assert problem.startswith(f"fail  keys: other users may read or change {files.secret_file} -> run `chmod 600 ")


def test_hosts_of_the_config_need_keys(files: HostKeys) -> None:
    files.create()
    remote = {name: {"source": f"streamer://boxa/{name}", "tasks": TASKS} for name in ("gate", "yard")}
    missing = (
        "fail  keys: no key of `{0}` is known, which this config names"
        " -> streamer keys allow {0} KEY, with the KEY that `streamer keys show` prints there"
    )
    assert found(keys, streams=remote)[1:] == [missing.format("boxa")]
    assert found(keys, cluster=cluster("127.0.0.1", "198.51.100.1"))[1:] == [missing.format("h2")]
    files.allow("boxa", KEY)
    assert found(keys, streams=remote)[1:] == ["ok    keys: allowed hosts: boxa"]


def test_each_broker_of_a_cluster_is_tried(taken: int) -> None:
    pytest.importorskip("confluent_kafka")
    dead = free_port()
    sink = {"kind": "kafka", "url": f"kafka://127.0.0.1:{taken}", "brokers": [f"127.0.0.1:{dead}"]}
    usable, first, second = found(_targets, sinks=[sink])
    assert usable == "ok    sink kafka: usable"
    assert first == f"ok    sink kafka: 127.0.0.1:{taken} answers"
    assert second.startswith(f"fail  sink kafka: 127.0.0.1:{dead} does not answer (connection refused")
