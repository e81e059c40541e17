"""Serves stored snapshots. The file is found through the ledger: a URL names an event, never a file."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from fastapi.responses import Response

from streamer.config.model import Config
from streamer.core.errors import SnapshotError, WireError
from streamer.events.schema import Event, StatusEvent, decode
from streamer.events.snapshots.picture import picture_of
from streamer.web.ledger_reader import LedgerReader, TooManySearches

READERS, MAX_WAITING = 2, 20
"""Pictures that are read or drawn at once, and those that wait; more are refused."""
CACHED_S = 3600
"""Seconds for which browsers keep a picture. It never changes, but it is deleted in time."""
_EVENT = re.compile(r"[0-9a-f]{32}")


class StoredPictures:
    """Snapshots by the id of their event. Belongs to the event loop."""

    def __init__(self, state: Path, config: Config, ledger: LedgerReader) -> None:
        self._state, self._streams, self._ledger = state, config.streams, ledger
        self._turn = asyncio.Semaphore(READERS)
        self._open = 0

    async def response(self, event_id: str, boxes: bool, known: str | None) -> Response:
        """Return the picture. `known`: ETag of the one that the client has. Raises SnapshotError, TooManySearches."""
        if self._open >= READERS + MAX_WAITING:
            raise TooManySearches
        self._open += 1
        try:
            async with self._turn:
                return await self._response(event_id, boxes, known)
        finally:
            self._open -= 1

    async def _response(self, event_id: str, boxes: bool, known: str | None) -> Response:
        event = await self._find(event_id)
        tag = f'"{event.id}-boxes"' if boxes else f'"{event.id}"'
        headers = {"Cache-Control": f"private, max-age={CACHED_S}, immutable", "ETag": tag}
        picture = await asyncio.to_thread(picture_of, self._state, event, boxes)
        if known == tag:
            return Response(status_code=304, headers=headers)
        return Response(picture, media_type="image/jpeg", headers=headers)

    async def _find(self, event_id: str) -> Event:
        if _EVENT.fullmatch(event_id) is None:
            raise SnapshotError("the address must be /api/snapshots/ID.jpg with the id of a result or an incident")
        entry = await self._ledger.find(event_id)
        if entry is None:
            raise SnapshotError(f"the ledger has no event {event_id}, or no longer")
        try:
            event = decode(entry.body)
        except WireError:
            raise SnapshotError(f"event {event_id} is of another version") from None
        if isinstance(event, StatusEvent) or event.data.stream not in self._streams:
            raise SnapshotError(f"event {event_id} has no snapshot")
        return event
