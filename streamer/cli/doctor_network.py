"""Checks of `streamer doctor` about other computers: addresses at which this one listens, and the keys of hosts."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from streamer.cli.finding import Finding
from streamer.config.bind import Bind
from streamer.core.errors import ConfigError

if TYPE_CHECKING:
    from streamer.config.model import Config

KEYS, CLUSTER = "keys", "cluster"


def ports(config: Config, _file: Path) -> Iterator[Finding]:
    """Check that the addresses of the page and of the frames for other hosts are free, and those of the cluster."""
    if config.web is not None:
        yield _port("web.bind", config.web.bind)
    if config.serve is not None:
        yield _port("serve.bind", config.serve.bind)
    if config.cluster is None or len(config.cluster.hosts) < 2:
        return
    if (own := _own_host(config)) is None:
        addresses = ", ".join(host.address for host in config.cluster.hosts.values())
        fix = "run this on one of the hosts, or correct `address`"
        yield Finding("warn", CLUSTER, f"this computer has none of the addresses of the hosts: {addresses}", fix)
        return
    address = config.cluster.hosts[own].address
    yield Finding("ok", CLUSTER, f"this computer has the address of the host {own}, {address}")
    yield _port("cluster.port", Bind(address, config.cluster.port))
    if config.web is not None:
        yield _port("cluster.page_port", Bind(address, config.cluster.page_port))


def keys(config: Config, _file: Path) -> Iterator[Finding]:
    """Check the key of this host and those of the hosts that it allows, if the config exchanges anything with them."""
    from streamer.bus.host_keys import HostKeys

    needed = _needed_peers(config)
    if config.serve is None and not needed:
        return
    try:
        files = HostKeys()
        public, (known, problems) = files.own().public.hex(), files.peers()
    except ConfigError as error:
        yield Finding("fail", KEYS, *_with_fix(error))
        return
    yield Finding("ok", KEYS, f"public key of this host {public}, in {files.folder}")
    for problem in problems:
        yield Finding("fail", KEYS, *_with_fix(problem))
    if known:
        yield Finding("ok", KEYS, f"allowed hosts: {', '.join(known)}")
    elif config.serve is not None and not problems:
        yield Finding("warn", KEYS, "no other host is allowed to get frames", "streamer keys allow NAME KEY")
    for name in needed:
        if not files.peer_file(name).exists():
            fix = f"streamer keys allow {name} KEY, with the KEY that `streamer keys show` prints there"
            yield Finding("fail", KEYS, f"no key of `{name}` is known, which this config names", fix)


def _with_fix(error: ConfigError) -> tuple[str, str]:
    """Return the problem and the remedy of an error of `HostKeys`, whose message ends with the remedy."""
    what, _, fix = str(error).rpartition(": ")
    return what, fix


def _needed_peers(config: Config) -> list[str]:
    """Return the names of the other hosts in a config, each once."""
    from streamer.capture.sources import Remote

    peers = [stream.source.peer_name for stream in config.streams.values() if isinstance(stream.source, Remote)]
    own = _own_host(config)
    if config.cluster is not None and own is not None:
        peers += [name for name in config.cluster.hosts if name != own]
    return list(dict.fromkeys(peers))


def _own_host(config: Config) -> str | None:
    """Return the host of the cluster whose address this computer has."""
    hosts = config.cluster.hosts if config.cluster is not None else {}
    return next((name for name, host in hosts.items() if _bind_error(Bind(host.address, 0)) is None), None)


def _port(where: str, bind: Bind) -> Finding:
    """Return whether a program can listen at an address."""
    if (number := _bind_error(bind)) is None:
        return Finding("ok", where, f"{bind} is free")
    if number == errno.EADDRINUSE:
        fix = f"stop the program that uses it (ss -lntp; it may be this agent), or change {where}"
    else:
        fix = f"change {where}: use an address of this computer and a port above 1023"
    return Finding("fail", where, f"cannot serve on {bind}: {os.strerror(number)}", fix)


def _bind_error(bind: Bind) -> int | None:
    """Return the `errno` that prevents listening at an address, or None."""
    with socket.socket(socket.AF_INET6 if ":" in bind.host else socket.AF_INET) as listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(bind)
            listener.listen()
        except OSError as error:
            return error.errno or errno.EINVAL
    return None
