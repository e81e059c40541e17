"""The host process of `streamer cluster`: keeps the host's lease, votes for other hosts and passes orders to the agent.

It needs no Ray. A Ray actor of the controller sends it commands over `host.sock`, one JSON object each: `report`,
`claim`, `order` and `stop`. Its promises and its order are in `host.json`, so it goes on after a restart.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import zmq
from pydantic import Field, TypeAdapter, ValidationError

from streamer.bus.commands import Command, parse
from streamer.bus.host_keys import HostKeys
from streamer.bus.rpc import Request, RpcServer
from streamer.cluster.agent import Agent
from streamer.cluster.controller import Order, Report, provisional_s
from streamer.cluster.lease import Claimed, Lease, Promises, Voter
from streamer.cluster.peers import Peers, VoteReply
from streamer.config.cluster import Cluster
from streamer.core import atomic_file
from streamer.core.closing import Closing
from streamer.core.errors import ConfigError
from streamer.core.paths import check_socket_lengths, state_folder
from streamer.core.printable import counted
from streamer.core.reasons import reason_of

log = logging.getLogger(__name__)

ASKS_PER_LEASE = 6
"""Rounds of votes in the time of a lease: several may fail."""
POLL_MS = 100
"""Longest wait of the main loop."""
STOP_S = 1.0
"""Time for the agent to end the processes of streams: its lease is over this much earlier."""
SOCKET, LOCK_FILE, STATE_FILE = "host.sock", "host.lock", "host.json"


class ReportState(Command):
    """Return the `Report` of this host."""

    op: Literal["report"] = "report"


class ClaimEpoch(Command):
    """Claim an epoch for the controller and bar the older orders of hosts; return `Claimed`."""

    op: Literal["claim"] = "claim"
    epoch: Annotated[int, Field(ge=0, lt=1 << 53)]
    barred: list[str]


class GiveOrder(Command):
    """Run these streams."""

    op: Literal["order"] = "order"
    epoch: Annotated[int, Field(ge=0, lt=1 << 53)]
    streams: list[str]
    provisional: dict[str, str] = Field({})
    """Those of them to give up after `provisional_s` unless they are confirmed, with the host that they come from."""
    is_draining: bool = False
    """The host gets no more streams. Kept until another order or `stop`."""


class StopHost(Command):
    """End the agent and this process."""

    op: Literal["stop"] = "stop"


HostCommand = ReportState | ClaimEpoch | GiveOrder | StopHost
HOST: TypeAdapter[HostCommand] = TypeAdapter(Annotated[HostCommand, Field(discriminator="op")])
REPORT: TypeAdapter[Report] = TypeAdapter(Report)
ORDER: TypeAdapter[Order] = TypeAdapter(Order)
CLAIMED: TypeAdapter[Claimed] = TypeAdapter(Claimed)


@dataclass(frozen=True, slots=True)
class Saved:
    """The state of a host that outlives a restart."""

    promises: Promises = Promises()  # noqa: RUF009
    order: Order = Order()  # noqa: RUF009


_SAVED: TypeAdapter[Saved] = TypeAdapter(Saved)


def clock() -> float:
    """Return seconds that also pass while the computer sleeps, and that nobody can set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def host_folder(agent: str) -> Path:
    """Return the folder of the host process, in the state folder of its agent."""
    return state_folder(agent) / "cluster"


def check_host_socket(folder: Path) -> None:
    """Raise ConfigError, with the setting to change, if the path of the socket in a host's folder is too long."""
    check_socket_lengths(folder, [SOCKET], is_state=True)


def fingerprint(cluster: Cluster, streams: dict[str, Any]) -> str:
    """Return a text that differs for configs with other hosts or streams."""
    content = json.dumps([cluster.model_dump(mode="json"), sorted(streams)], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class HostProcess(Closing):
    """Call `run`. Not thread-safe."""

    def __init__(
        self, name: str, cluster: Cluster, mark: str, capacity: float, folder: Path, agent: Agent, keys: HostKeys
    ) -> None:
        """`mark`: the `fingerprint` of its config. `keys`: unused where it is the only host.

        Raises ConfigError if it runs already, for missing keys, and if its folder or its address cannot be used.
        """
        check_host_socket(folder)
        self._name, self._mark, self._capacity, self._agent = name, mark, capacity, agent
        self._exclusive, self._lease_s = cluster.exclusive, cluster.lease
        self._folder, hosts = folder, tuple(cluster.hosts)
        self._lock = _lock(folder)
        saved = _read(folder / STATE_FILE)
        self._order = saved.order.without(saved.order.provisional)
        self._give_up_at: dict[str, float] = {}
        """Second by provisional stream."""
        self._confirm_from: dict[str, int] = {}
        """First round of votes after its order, by provisional stream."""
        self._voter = Voter(hosts, cluster.lease, saved.promises, clock())
        self._lease = Lease(hosts, cluster.lease)
        addresses = {host: settings.address for host, settings in cluster.hosts.items()}
        self._peers = Peers(keys, name, addresses, cluster.port) if len(addresses) > 1 else None
        self._server = RpcServer(folder / SOCKET)
        self._next_ask = 0.0
        self._was_held = False
        self._stop = False

    def close(self) -> None:
        self._server.close()
        if self._peers is not None:
            self._peers.close()
        os.close(self._lock)

    def run(self) -> None:
        """Run until SIGTERM, SIGINT or the command `stop`, then end the agent."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        streams = counted(len(self._order.streams), "stream")
        log.info("host %s runs, order %d with %s", self._name, self._order.epoch, streams)
        self.serve()

    def serve(self) -> None:
        """Run until `stop`, then end the agent."""
        while not self._stop:
            self.step()
        self._agent.stop()

    def stop(self) -> None:
        """Let `run` or `serve` end."""
        self._stop = True

    def step(self) -> None:
        """Wait for messages for at most `POLL_MS`, handle them, and do what is due."""
        poller = zmq.Poller()
        for socket in (self._server.socket, *(self._peers.sockets() if self._peers else ())):
            poller.register(socket, zmq.POLLIN)
        poller.poll(POLL_MS)
        for request in self._server.receive():
            try:
                self._handle(request)
            except Exception as error:  # whatever a caller sends, this process runs on and the caller gets an answer
                self._server.reply_error(request, reason_of(error, "cluster"))
        self._vote()
        self._give_up()
        self._agent.step(clock())
        self._renew()

    def _handle(self, request: Request) -> None:
        match parse(HOST, request.message):
            case ReportState():
                self._server.reply(request, report=REPORT.dump_python(self._report(), mode="json"), mark=self._mark)
            case ClaimEpoch() as claim:
                answer = self._voter.claim(claim.epoch, claim.barred, clock())
                self._save(self._order)
                self._server.reply(request, claimed=CLAIMED.dump_python(answer, mode="json"))
            case GiveOrder() as command:
                self._obey(_order_of(command))
                self._server.reply(request, done=True)
            case StopHost():
                self.stop()
                self._save(Order(self._order.epoch))  # a service may start this process again
                self._server.reply(request, done=True)

    def _report(self) -> Report:
        now = clock()
        return Report(
            order=self._order,
            has_lease=self._lease.is_held(now),
            answering=self._agent.answering(),
            claimed=self._voter.promises.epoch,
            capacity=self._capacity,
            problem=self._agent.problem,
            leaving=self._agent.leaving,
            left={stream: until - now for stream, until in self._give_up_at.items()},
        )

    def _obey(self, order: Order) -> None:
        if order.epoch < max(self._order.epoch, self._voter.promises.epoch):
            raise ConfigError(f"the order has epoch {order.epoch}, epoch {self._voter.promises.epoch} is claimed")
        if order != self._order:
            log.info("order %d: %s", order.epoch, ", ".join(sorted(order.streams)) or "no streams")
            self._save(order)
            self._set_order(order)

    def _set_order(self, order: Order) -> None:
        self._order, until, following = order, clock() + provisional_s(self._lease_s), self._lease.next_round
        self._give_up_at = {stream: self._give_up_at.get(stream, until) for stream in order.provisional}
        self._confirm_from = {stream: self._confirm_from.get(stream, following) for stream in order.provisional}
        self._send_order()

    def _give_up(self) -> None:
        """Give up the provisional streams whose time is over. A restart gives up all, so nothing is saved."""
        now = clock()
        if over := {stream for stream, until in self._give_up_at.items() if until <= now}:
            log.warning("given up, no order confirmed them: %s", ", ".join(sorted(over)))
            self._set_order(self._order.without(over))

    def _confirm(self, host: str, reply: VoteReply) -> None:
        """Keep the provisional streams that this host, from which they come, has given up."""
        given_up = {
            stream
            for stream, source in self._order.provisional.items()
            if source == host and reply.id >= self._confirm_from[stream] and stream not in reply.held
        }
        if given_up:
            order = self._order.confirming(given_up)
            try:
                self._save(order)
            except ConfigError as error:
                log.warning("not confirmed: %s: %s", ", ".join(sorted(given_up)), error)
                return  # the next vote tries again
            log.info("confirmed, %s has given them up: %s", host, ", ".join(sorted(given_up)))
            self._set_order(order)

    def _vote(self) -> None:
        if self._peers is None:
            return
        held = self._order.streams | self._agent.leaving
        self._peers.answer(lambda host, epoch: self._voter.vote(host, epoch, clock()), held)
        for host, reply in self._peers.votes(clock()):
            if reply.needed is None:
                self._lease.add(reply.id, host)
                self._confirm(host, reply)

    def _renew(self) -> None:
        """Ask for votes when it is time, and give the agent the lease that this host has."""
        now = clock()
        if now < self._next_ask:
            return
        self._next_ask = now + self._lease_s / ASKS_PER_LEASE
        self._send_order()
        number = self._lease.ask(now)
        if self._voter.vote(self._name, self._order.epoch, now) is None:
            self._lease.add(number, self._name)
        if self._peers is not None:
            self._peers.ask(number, self._order.epoch, self._order.provisional, now)

    def _send_order(self) -> None:
        """Send the agent its streams with the rest of the lease; none without a lease."""
        left = self._lease.until - clock()
        if (left > 0) != self._was_held:
            self._was_held = left > 0
            lost = "the lease is over, streams stop" if self._exclusive else "no lease, streams go on (not exclusive)"
            log.log(*((logging.INFO, "lease held") if left > 0 else (logging.WARNING, lost)))
        if not self._exclusive:
            self._agent.run(self._order, None)
        elif left > STOP_S:
            self._agent.run(self._order, self._lease.until - STOP_S)
        else:
            self._agent.run(Order(self._order.epoch), None)

    def _save(self, order: Order) -> None:
        """Write the promises and an order to the disk. Raises ConfigError: then the caller gets no promise."""
        try:
            content = _SAVED.dump_json(Saved(self._voter.promises, order)).decode()
            atomic_file.write(self._folder / STATE_FILE, content + "\n")
        except OSError as error:
            raise ConfigError(f"cannot write {self._folder / STATE_FILE}: {error.strerror}") from None


def _order_of(command: GiveOrder) -> Order:
    return Order(command.epoch, frozenset(command.streams), command.provisional, command.is_draining)


def is_running(folder: Path) -> bool:
    """Return whether a host process has this folder."""
    try:
        os.close(_lock(folder))
    except ConfigError:
        return True
    return False


def _lock(folder: Path) -> int:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot use {folder}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(f"this host runs already: another process holds {folder / LOCK_FILE}") from None
    return descriptor


def _read(path: Path) -> Saved:
    """Return what was saved. Raises ConfigError for a damaged file: the promises in it may be needed."""
    try:
        return _SAVED.validate_json(atomic_file.read(path))
    except FileNotFoundError:
        return Saved()
    except (OSError, ValidationError):
        raise ConfigError(
            f"{path} cannot be read: stop all hosts of the cluster, remove the file, and start them again"
        ) from None
