"""The handlers of all URLs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import Header, HTTPException, Query
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST

from streamer.config.model import Config
from streamer.core.errors import SnapshotError
from streamer.events.ledger.query import Entry, Filter, Page
from streamer.video.outputs.base import ViewId
from streamer.video.outputs.hls import hls_folder
from streamer.web.connections import Connections
from streamer.web.ledger_reader import SEARCH_S, LedgerReader, TooManySearches
from streamer.web.metrics import exposition
from streamer.web.mjpeg import UNBUFFERED, JpegHub, multipart_response
from streamer.web.monitor import status
from streamer.web.monitor.capture_poller import CapturePoller
from streamer.web.monitor.event_follower import EventFollower
from streamer.web.monitor.incident_list import IncidentList
from streamer.web.monitor.task_list import TaskLists
from streamer.web.rule_commands import RuleCommands
from streamer.web.stored_pictures import StoredPictures
from streamer.web.video_urls import served_views

MAX_EVENTS = 1000
"""Largest page of events."""
KEEP_ALIVE_S = 10.0
"""Idle seconds after which a comment is sent on the live events, so that proxies keep the connection open."""
JPEG_TIMEOUT_S = 2.0
"""Time for a view to deliver an annotated snapshot."""
HLS_TYPES = {
    r"index\.m3u8": "application/vnd.apple.mpegurl",
    r"init_\d{1,5}x\d{1,5}\.mp4": "video/mp4",
    r"seg_\d{5,12}\.m4s": "video/iso.segment",
}
"""Media types of the files of an HLS folder, by pattern of the whole name. No other file is served."""

BUSY = {"Retry-After": "5"}

Text = Annotated[str | None, Query(max_length=200)]
Position = Annotated[int | None, Query(ge=0, lt=1 << 53)]


@dataclass(frozen=True, slots=True)
class Handlers:
    """One method per URL, see the table in `make_app`. The fields are everything that they read."""

    config: Config
    runtime: Path
    capture: CapturePoller
    follower: EventFollower
    reader: LedgerReader
    jpegs: JpegHub
    tasks: TaskLists
    connections: Connections
    incidents: IncidentList
    pictures: StoredPictures
    commands: RuleCommands

    async def streams(self) -> JSONResponse:
        """State of every stream and its tasks, and how many incidents are open."""
        body = status.streams(self.config, self.capture, self.follower, self.tasks)
        rules = {"count": len(self.config.rules), "open": self.incidents.open_count}
        return JSONResponse({**body, "rules": rules})

    async def health(self) -> JSONResponse:
        healthy, body = status.health(self.capture, self.follower)
        return JSONResponse(body, 200 if healthy else 503)

    async def ready(self) -> JSONResponse:
        is_ready, body = status.readiness(self.follower, self.tasks)
        return JSONResponse(body, 200 if is_ready else 503)

    async def metrics(self) -> Response:
        rules = await self.commands.scrape() if self.config.rules else None
        text = exposition(self.config.name, self.capture, self.follower, self.jpegs, self.connections, rules)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    async def events(
        self,
        stream: Text = None,
        task: Text = None,
        text: Text = None,
        after: Position = None,
        limit: Annotated[int, Query(ge=1, le=MAX_EVENTS)] = 100,
    ) -> Response:
        """The newest events, or the first ones after a position; oldest first."""
        try:
            page = await self.reader.page(after, limit, self._filter(stream, task, text))
        except TooManySearches:
            raise HTTPException(503, "too many searches at once, try again in a few seconds", BUSY) from None
        entries = b",".join(b'{"position":%d,"event":%b}' % (one.position, one.body) for one in page.entries)
        note = json.dumps(_note(page, after)).encode()
        body = b'{"position":%d,"note":%b,"events":[%b]}' % (page.position, note, entries)
        return Response(body, media_type="application/json")

    async def live_events(
        self,
        stream: Text = None,
        task: Text = None,
        text: Text = None,
        after: Position = None,
        last_event_id: Annotated[str | None, Header(pattern=r"^\d{1,15}$")] = None,
    ) -> StreamingResponse:
        """Events as the ledger accepts them: server-sent events whose id is the position."""
        matching = self._filter(stream, task, text)
        start = int(last_event_id) if last_event_id else self.follower.position if after is None else after
        entries = self.reader.follow(start, matching, KEEP_ALIVE_S)
        return StreamingResponse(_server_sent(entries), media_type="text/event-stream", headers=UNBUFFERED)

    async def snapshot(
        self, stream: str, width: Annotated[int | None, Query(ge=16, le=7680)] = None, annotated: bool = False
    ) -> Response:
        """The newest frame of the camera, or of a view with its annotations."""
        name = self._check_stream(stream)
        views = served_views(self.config).values() if annotated else ()
        view = next((view.id for view in views if view.id.stream == name and "mjpeg" in view.kinds), None)
        if view is not None:
            jpeg = await self.jpegs.next_jpeg(view, JPEG_TIMEOUT_S)
        else:
            jpeg = await self.capture.snapshot(name, width)
        if jpeg is None:
            raise HTTPException(503, f"stream {name} has no frame now: its camera or capture process is down")
        return Response(jpeg, media_type="image/jpeg")

    async def stored_snapshot(
        self, event: str, boxes: bool = False, if_none_match: Annotated[str | None, Header(max_length=200)] = None
    ) -> Response:
        """The snapshot of a result, or of an incident's best frame, by the id of the event."""
        try:
            return await self.pictures.response(event, boxes, if_none_match)
        except SnapshotError as error:
            raise HTTPException(404, str(error)) from None
        except TooManySearches:
            raise HTTPException(503, "too many pictures at once, try again in a few seconds", BUSY) from None

    async def mjpeg(self, view: str) -> StreamingResponse:
        return multipart_response(self.jpegs.watch(self._view_id(view, "mjpeg")))

    def hls(self, view: str, file: str) -> Response:
        folder = hls_folder(self.runtime, self._view_id(view, "hls"))
        kind = next((kind for pattern, kind in HLS_TYPES.items() if re.fullmatch(pattern, file, re.ASCII)), None)
        content = _read(folder / file) if kind is not None else None
        if content is None:
            raise HTTPException(404, "no such segment, or no longer kept")
        return Response(content, media_type=kind)

    def _filter(self, stream: str | None, task: str | None, text: str | None) -> Filter:
        return Filter(self._check_stream(stream) if stream else None, task or None, text or None)

    def _check_stream(self, name: str) -> str:
        """Return the stream name if the config has it, so that no unchecked name from a URL is used; else 404."""
        if name not in self.config.streams:
            raise HTTPException(404, f"unknown stream {name!r}; there are: {', '.join(self.config.streams)}")
        return name

    def _view_id(self, name: str, kind: str) -> ViewId:
        """Return the view of this name if it has an output of this kind; else 404."""
        view = served_views(self.config).get(name)
        if view is None or kind not in view.kinds:
            raise HTTPException(404, f"{name!r} has no {kind} output")
        return view.id


def _note(page: Page, after: int | None) -> str | None:
    """Return in words that a search was stopped before it had looked at all events, and how to continue; else None."""
    if page.cut_at is None:
        return None
    how = f"events up to position {page.cut_at} were not searched" if after is None else f"continue after {page.cut_at}"
    return f"search stopped after {SEARCH_S:g} s: {how}"


async def _server_sent(entries: AsyncIterator[Entry | None]) -> AsyncIterator[bytes]:
    yield b"retry: 1000\n\n"
    async for entry in entries:
        yield b": keep-alive\n\n" if entry is None else _server_sent_event(entry)


def _server_sent_event(entry: Entry) -> bytes:
    """Return the lines of an event. A line end in the body begins another data line, so it never begins a field."""
    data = b"".join(b"data: %b\n" % line for line in entry.body.splitlines())
    return b"id: %d\n%b\n" % (entry.position, data)


def _read(path: Path) -> bytes | None:
    """Return the content of a file, or None if it is gone or a symbolic link."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            return file.read()
    except OSError:  # deleted by the view meanwhile, or a symbolic link
        return None
