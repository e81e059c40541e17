"""Two hosts in network namespaces of this computer, with a link between them that can be cut, blocked or lossy."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from tests.chaos.bench import Skipped

A, B = "10.231.0.1", "10.231.0.2"
"""Addresses of the two hosts."""
_ALL, _RANDOM = 0xFFFFFFFF, 0xFFFFF000 + 56
"""Largest random number, and the place at which a packet filter (BPF) reads one, SKF_AD_OFF + SKF_AD_RANDOM."""
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


class Hosts:
    """The hosts `a` and `b`; a context manager. Raises Skipped where namespaces are not permitted."""

    def __init__(self) -> None:
        if not shutil.which("tc") or not shutil.which("ip"):
            raise Skipped("needs ip and tc (Debian package iproute2)")
        number = os.getpid()
        self._names = {"a": f"streamer-a-{number}", "b": f"streamer-b-{number}"}
        self._links = {"a": f"sa{number}", "b": f"sb{number}"}

    def __enter__(self) -> Self:
        try:
            for name in self._names.values():
                run("ip", "netns", "add", name)
            run("ip", "link", "add", self._links["a"], "type", "veth", "peer", "name", self._links["b"])
        except subprocess.CalledProcessError as error:
            self.__exit__(None, None, None)
            raise Skipped(f"network namespaces are not permitted: {error.stderr.decode().strip()}") from None
        for host, address in (("a", A), ("b", B)):
            name, link = self._names[host], self._links[host]
            run("ip", "link", "set", link, "netns", name)
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", link)
            for device in ("lo", link):
                run("ip", "-n", name, "link", "set", device, "up")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for name in self._names.values():
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)

    def cut(self) -> None:
        """Take the link down, as a pulled cable does: both hosts notice it."""
        run("ip", "-n", self._names["b"], "link", "set", self._links["b"], "down")

    def block(self) -> None:
        """Drop every packet in both directions: neither host notices it."""
        self._shape("tbf", "rate", "8bit", "burst", "1", "limit", "1")

    def lose(self, percent: int) -> None:
        """Drop this share of the packets in both directions. Raises Skipped for a kernel that cannot.

        A random number puts a packet into the second class, which drops all. Not by `netem`, which kernels of virtual
        machines often lack. Packets go out one segment at a time, so that a lost one is no larger than on a real link.
        """
        for host, name in self._names.items():
            device = ("dev", self._links[host])
            drop = f"4,32 0 0 {_RANDOM},53 1 0 {percent * _ALL // 100},6 0 0 {_ALL},6 0 0 0"
            try:
                run("ip", "-n", name, "link", "set", *device, "gso_max_segs", "1")
                run("tc", "-n", name, "qdisc", "replace", *device, "root", "handle", "1:", "htb", "default", "1")
                for number in (1, 2):
                    rate = ("htb", "rate", "1gbit", "quantum", "60000")
                    run("tc", "-n", name, "class", "add", *device, "parent", "1:", "classid", f"1:{number}", *rate)
                run("tc", "-n", name, "qdisc", "add", *device, "parent", "1:2", "blackhole")
                chance = ("bpf", "bytecode", drop, "classid", "1:2")
                run("tc", "-n", name, "filter", "add", *device, "parent", "1:", *chance)
            except subprocess.CalledProcessError as error:
                raise Skipped(f"this kernel cannot lose packets: {error.stderr.decode().strip()}") from None

    def mend(self) -> None:
        """Make the link perfect again."""
        run("ip", "-n", self._names["b"], "link", "set", self._links["b"], "up")
        self._shape("pfifo")

    def _shape(self, *discipline: str) -> None:
        for host, name in self._names.items():
            run("tc", "-n", name, "qdisc", "replace", "dev", self._links[host], "root", *discipline)

    @contextmanager
    def inside(self, host: str) -> Iterator[None]:
        """Start processes on a host: those that this thread starts meanwhile."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        other = os.open(f"/run/netns/{self._names[host]}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(other)
            try:
                yield
            finally:
                _enter(own)
        finally:
            os.close(own)
            os.close(other)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
