"""`streamer cluster`: share the streams of one config among several hosts, with Ray."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamer.cli.options import ConfigFile
from streamer.cli.run import NO_STREAMS

if TYPE_CHECKING:
    from streamer.config.model import Config

READY_S = 180.0
"""Longest wait of `run` until all streams have a host."""
POLL_S = 0.5
Address = Annotated[
    str, typer.Option(envvar="RAY_ADDRESS", metavar="HOST:PORT", help="Address of the Ray cluster's head.")
]
HostName = Annotated[str, typer.Argument(metavar="HOST", help="Name of a host of the config's `cluster`.")]

app = typer.Typer(help="Share the streams of one config among several hosts, with Ray.", no_args_is_help=True)


@app.command("run")
def run_cluster(config: ConfigFile, address: Address = "auto") -> None:
    """Start the streams of a config on a running Ray cluster.

    The config file is at the same place on each host. The streams go on when this command has ended.
    """
    from streamer.cli.load_estimate import stream_costs
    from streamer.cluster.engine import Cluster
    from streamer.cluster.plan import make_plan
    from streamer.config.model import load

    checked = load(config)
    plan = make_plan(config, checked, stream_costs(checked))
    cluster, deadline = Cluster(address), time.monotonic() + READY_S
    cluster.start(plan)
    while not _is_ready(status := cluster.status()) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    _show(status)
    if not _is_ready(status):
        raise typer.Exit(1)


@app.command("status")
def show_status(address: Address = "auto") -> None:
    """Print hosts and streams. Exits with 1 while a stream has no host."""
    from streamer.cluster.engine import Cluster

    status = Cluster(address).status()
    _show(status)
    if not _is_ready(status):
        raise typer.Exit(1)


@app.command("drain")
def drain_host(
    host: HostName,
    address: Address = "auto",
    back: Annotated[bool, typer.Option("--back", help="Let the host get streams again.")] = False,
    timeout: Annotated[float, typer.Option(metavar="S", help="Seconds to wait at most.")] = 600.0,
) -> None:
    """Move all streams of a host to others, one by one.

    A stream leaves the host when its new host has answered. The command waits for all of them.
    """
    from streamer.cluster.engine import Cluster

    cluster, deadline = Cluster(address), time.monotonic() + timeout
    cluster.drain(host, back)
    while not back and time.monotonic() < deadline:
        state = cluster.status()["hosts"][host]
        if state["state"] == "draining" and not state["streams"]:
            print(f"{host}: no streams")
            return
        time.sleep(POLL_S)
    if back:
        print(f"{host}: gets streams again")
    else:
        print(f"{host}: {state['state']}, still has {', '.join(state['streams']) or 'unknown streams'}")
        raise typer.Exit(1)


@app.command("stop")
def stop_cluster(address: Address = "auto") -> None:
    """Stop the cluster, with the agents of all hosts in reach."""
    from streamer.cluster.engine import Cluster

    if missing := Cluster(address).stop():
        print(f"not reached, their agents may go on: {', '.join(missing)}")
        raise typer.Exit(1)
    print("stopped")


@app.command("host")
def run_host(
    config: ConfigFile,
    name: Annotated[str, typer.Option(metavar="HOST", help="Name of this host in the config's `cluster`.")],
) -> None:
    """Run the part of this host in a cluster.

    It runs the host's agent and votes on which host runs a stream. It needs no Ray. `streamer cluster run` starts it on
    the hosts where it does not run.
    """
    from streamer.config.model import load
    from streamer.core import logs

    logs.setup("cluster")
    with _host(config, load(config), name) as process:
        process.run()


def _host(path: Path, config: Config, name: str) -> Any:
    """Return the host process of a config. Raises ConfigError."""
    from streamer.bus.host_keys import HostKeys
    from streamer.cli.load_estimate import capacity
    from streamer.cluster.agent import AgentProcess, NoAgent
    from streamer.cluster.host import HostProcess, fingerprint, host_folder
    from streamer.config.model import at_host

    agent, cluster = at_host(config, name).name, config.cluster
    assert cluster is not None
    runs = cluster.hosts[name].runs_streams
    process = (
        AgentProcess(agent, ["run", str(path.absolute()), "--streams", NO_STREAMS, "--host", name])
        if runs
        else NoAgent()
    )
    mark = fingerprint(cluster, config.streams)
    return HostProcess(name, cluster, mark, capacity(config) if runs else 0.0, host_folder(agent), process, HostKeys())


def _is_ready(status: dict[str, Any]) -> bool:
    if status.get("epoch") is None or status["waiting"]:
        return False
    return all(host["has_lease"] for host in status["hosts"].values() if host["streams"])


def _show(status: dict[str, Any]) -> None:
    for name, host in status.get("hosts", {}).items():
        lease = "" if host["has_lease"] or host["state"] == "out of reach" else ", no lease"
        problem = f" ({host['problem']})" if host["problem"] else ""
        print(f"{name}: {host['state']}{lease}, streams: {', '.join(host['streams']) or 'none'}{problem}")
    if status.get("epoch") is None:
        print("no orders yet: most of the hosts must be in reach")
    for stream, reason in status.get("waiting", {}).items():
        print(f"{stream}: {reason}")
