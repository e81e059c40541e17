"""Messages between the web processes of hosts, over CURVE with the keys of `streamer keys`.

asking host -> host    {"op": "ask", "id": number, …}     a request to the page
                       {"op": "next", "id": number}       the last piece has arrived, send the next one
                       {"op": "stop", "id": number}       send no more
host -> asking host    {"id": number, "more": bool, …}    a piece of the answer; the second frame has the bytes

The host sends a piece only when the one before was confirmed, so a slow reader holds up its own request only.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from streamer.config.web import Scope

PIECE_BYTES = 256 << 10
"""Largest piece of an answer."""
MAX_ANSWER_BYTES = PIECE_BYTES + (16 << 10)
MAX_ASK_BYTES = 32 << 10
"""Largest message of an asking host: its web process accepts 16 KB of head and 4 KB of body."""
MAX_OPEN = 64
"""Requests of one host to another one at a time. So many answers fit into the queues of a connection."""

_Number = Annotated[int, Field(ge=0, lt=1 << 53)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Ask(_Strict):
    """A request to the page. The asking host has checked the token of its sender."""

    op: Literal["ask"] = "ask"
    id: _Number
    method: Literal["GET", "POST"]
    path: str
    query: str
    headers: dict[str, str]
    body: str
    by: str
    """Name of the sender's access token."""
    scopes: list[Scope]
    """Permissions of the sender."""


class Next(_Strict):
    """Confirm a piece."""

    op: Literal["next"] = "next"
    id: _Number


class Stop(_Strict):
    """End an answer."""

    op: Literal["stop"] = "stop"
    id: _Number


class Piece(_Strict):
    """A piece of an answer."""

    id: _Number
    more: bool
    status: int | None = None
    """Status of the answer, in its first piece. In a later one: the answer broke off, the body says why."""
    headers: dict[str, str] | None = None
    """Headers of the answer, in its first piece."""


Message = Ask | Next | Stop
MESSAGES: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="op")])
PIECES: TypeAdapter[Piece] = TypeAdapter(Piece)
