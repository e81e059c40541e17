"""Votes on leases between the hosts, over CURVE with the keys of `streamer keys`.

host -> voter    {"id": round, "epoch": epoch of its order, "moving": streams that come to it}
voter -> host    {"id": round, "needed": null, or the epoch that its order needs at least, "held": those that it has}
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated

import zmq
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from streamer.bus.curve import CurveClient, CurveServer, LinkFailed
from streamer.bus.host_keys import HostKeys
from streamer.core.closing import Closing
from streamer.core.errors import WireError
from streamer.core.ipc import decode_json
from streamer.core.logs import RareLog

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 4096
"""Bytes per message. The handshake of CURVE needs more than the votes do."""
RETRY_S = 1.0
"""Pause before a broken connection is made again."""
_Number = Annotated[int, Field(ge=0, lt=1 << 53)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class VoteRequest(_Strict):
    """A host asks for a vote."""

    id: _Number
    epoch: _Number
    moving: frozenset[str]


class VoteReply(_Strict):
    """The vote, or its refusal."""

    id: _Number
    needed: _Number | None
    held: frozenset[str]


_requests, _replies = TypeAdapter(VoteRequest), TypeAdapter(VoteReply)


class Peers(Closing):
    """The connections of one host to all others. Never blocks. Not thread-safe."""

    def __init__(self, keys: HostKeys, name: str, addresses: Mapping[str, str], port: int) -> None:
        """`addresses`: of all hosts. Raises ConfigError for missing keys, or an address that cannot be used."""
        self._keys, self._port = keys, port
        self._addresses = {other: address for other, address in addresses.items() if other != name}
        for other in self._addresses:
            keys.peer(other)
        self._server = CurveServer(keys, addresses[name], port, MAX_MESSAGE_BYTES)
        self._clients: dict[str, CurveClient] = {}
        self._retry_at = dict.fromkeys(self._addresses, 0.0)
        self._refused = RareLog(log, "connection refused %s: %s", noun="time")
        self._failed = {
            other: RareLog(log, f"host {other}: connection failed %s: %s", noun="time") for other in addresses
        }

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self._server.close()

    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Return the sockets to poll for reading."""
        own = [socket for client in self._clients.values() for socket in (client.socket, client.monitor)]
        return [*self._server.sockets(), *own]

    def ask(self, number: int, epoch: int, moving: Iterable[str], now: float) -> None:
        """Ask all other hosts for a vote, and which of the `moving` streams they have."""
        body = VoteRequest(id=number, epoch=epoch, moving=frozenset(moving)).model_dump_json().encode()
        for other, address in self._addresses.items():
            if other not in self._clients and now >= self._retry_at[other]:
                self._clients[other] = CurveClient(self._keys, other, address, self._port, MAX_MESSAGE_BYTES)
            if client := self._clients.get(other):
                client.send(body)

    def answer(self, vote: Callable[[str, int], int | None], held: frozenset[str]) -> None:
        """Answer the requests that have arrived. `vote` gets host and epoch and returns the epoch that is needed.

        `held`: streams that this host has.
        """
        for message in self._server.receive():
            try:
                request = decode_json(_requests, message.body)
            except WireError as error:
                self._refused.add(f"{message.peer} sent an invalid request: {error}")
                continue
            needed = vote(message.peer, request.epoch)
            reply = VoteReply(id=request.id, needed=needed, held=request.moving & held)
            self._server.send(message.route, [reply.model_dump_json().encode()])
        for refusal in self._server.take_refusals():
            self._refused.add(refusal)

    def votes(self, now: float) -> list[tuple[str, VoteReply]]:
        """Return the answers of other hosts that have arrived."""
        found = []
        for other, client in list(self._clients.items()):
            try:
                for parts in client.receive():
                    found.append((other, decode_json(_replies, b"".join(parts))))
            except (LinkFailed, WireError) as error:
                self._failed[other].add(str(error))
                client.close()
                del self._clients[other]
                self._retry_at[other] = now + RETRY_S
        return found
