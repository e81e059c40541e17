"""The addresses of the web process, and what each answers. All are read-only."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Header, HTTPException, Query
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from streamer.config.model import Config
from streamer.events.ledger.query import Entry, Filter
from streamer.video.outputs.hls import hls_folder
from streamer.web.auth import AuthMiddleware
from streamer.web.metrics import Figures, exposition
from streamer.web.mjpeg import JpegHub, motion_jpeg
from streamer.web.monitor import status
from streamer.web.monitor.capture_poller import CapturePoller
from streamer.web.monitor.event_follower import EventFollower
from streamer.web.monitor.task_list import TaskLists
from streamer.web.video_urls import View, views_of

STATIC = Path(__file__).with_name("static")
MAX_EVENTS = 1000
QUIET_S = 10.0
"""A sign of life goes to who waits for events after so long without one."""
PICTURE_S = 2.0
HLS_TYPES = {
    r"index\.m3u8": "application/vnd.apple.mpegurl",
    r"init_\d{1,5}x\d{1,5}\.mp4": "video/mp4",
    r"seg_\d{5,12}\.m4s": "video/iso.segment",
}
"""Files of an HLS folder that are served, by their whole name."""

Text = Annotated[str | None, Query(max_length=200)]
Position = Annotated[int | None, Query(ge=0, lt=1 << 53)]


@dataclass(frozen=True, slots=True)
class Site:
    """What the answers are made from."""

    config: Config
    runtime: Path
    cameras: CapturePoller
    events: EventFollower
    jpegs: JpegHub
    tasks: TaskLists
    views: Mapping[str, View] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", views_of(self.config))

    def stream(self, name: str) -> str:
        """A stream of the config. Names from an address are looked up here, never used as they come."""
        if name not in self.config.streams:
            raise HTTPException(404, f"there is no stream {name!r}; there are: {', '.join(self.config.streams)}")
        return name

    def view(self, name: str, kind: str) -> View:
        view = self.views.get(name)
        if view is None or kind not in view.kinds:
            raise HTTPException(404, f"there is no {kind} output of {name!r}")
        return view


class Page(StaticFiles):
    """The page's files. A browser keeps them, and asks each time whether they are still the same."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def make_app(site: Site) -> FastAPI:
    """The application, guarded."""
    assert site.config.web is not None
    app = FastAPI(title="streamer", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(AuthMiddleware, web=site.config.web, agent=site.config.name)
    _add_state(app, site)
    _add_events(app, site)
    _add_pictures(app, site)
    app.mount("/", Page(directory=STATIC, html=True))
    return app


def _add_state(app: FastAPI, site: Site) -> None:
    figures = Figures(site.config.name, site.cameras, site.events, site.jpegs)

    @app.get("/api/streams")
    async def streams() -> JSONResponse:
        return JSONResponse(status.streams(site.config, site.views, site.cameras, site.events, site.tasks.of))

    @app.get("/healthz")
    async def health() -> JSONResponse:
        healthy, words = status.health(site.cameras, site.events)
        return JSONResponse(words, 200 if healthy else 503)

    @app.get("/readyz")
    async def ready() -> JSONResponse:
        is_ready, words = status.readiness(site.events)
        return JSONResponse(words, 200 if is_ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(exposition(figures), media_type=CONTENT_TYPE_LATEST)


def _add_events(app: FastAPI, site: Site) -> None:
    def wanted(stream: str | None, task: str | None, text: str | None) -> Filter:
        return Filter(site.stream(stream) if stream else None, task or None, text or None)

    @app.get("/api/events")
    def events(
        stream: Text = None,
        task: Text = None,
        text: Text = None,
        after: Position = None,
        limit: Annotated[int, Query(ge=1, le=MAX_EVENTS)] = 100,
    ) -> Response:
        """The newest events, or the first ones after a position; oldest first."""
        chosen, book = wanted(stream, task, text), site.events.query
        page = book.newest(limit, chosen) if after is None else book.after(after, limit, chosen)
        found = b",".join(b'{"position":%d,"event":%b}' % entry for entry in page.entries)
        body = b'{"position":%d,"events":[%b]}' % (page.position, found)
        return Response(body, media_type="application/json")

    @app.get("/api/events/live")
    async def live_events(
        stream: Text = None,
        task: Text = None,
        text: Text = None,
        after: Position = None,
        last_event_id: Annotated[str | None, Header(pattern=r"^\d{1,15}$")] = None,
    ) -> StreamingResponse:
        """Events as they are accepted: server-sent events whose id is the position."""
        chosen = wanted(stream, task, text)
        begin = int(last_event_id) if last_event_id else site.events.position if after is None else after
        entries = site.events.follow(begin, chosen, QUIET_S)
        return StreamingResponse(_server_sent(entries), media_type="text/event-stream")


def _add_pictures(app: FastAPI, site: Site) -> None:
    @app.get("/api/snapshot/{stream}.jpg")
    async def snapshot(
        stream: str, width: Annotated[int | None, Query(ge=16, le=7680)] = None, annotated: bool = False
    ) -> Response:
        """The newest picture as the camera gave it, or as a view drew it."""
        name = site.stream(stream)
        view = next((view.name for view in site.views.values() if view.stream == name and "mjpeg" in view.kinds), None)
        if annotated and view is not None:
            picture = await site.jpegs.picture(view, PICTURE_S)
        else:
            picture = await site.cameras.snapshot(name, width)
        if picture is None:
            raise HTTPException(503, f"{name} has no picture now")
        return Response(picture, media_type="image/jpeg")

    @app.get("/live/{view}.mjpeg")
    async def live(view: str) -> StreamingResponse:
        return motion_jpeg(site.jpegs.pictures(site.view(view, "mjpeg").name))

    @app.get("/hls/{view}/{file}")
    def hls(view: str, file: str) -> Response:
        folder = hls_folder(site.runtime, site.view(view, "hls").id)
        kind = next((kind for pattern, kind in HLS_TYPES.items() if re.fullmatch(pattern, file, re.ASCII)), None)
        content = _content(folder / file) if kind is not None else None
        if content is None:
            raise HTTPException(404, "there is no such part of the video (any more)")
        return Response(content, media_type=kind)


async def _server_sent(entries: AsyncIterator[Entry | None]) -> AsyncIterator[bytes]:
    yield b"retry: 1000\n\n"
    async for entry in entries:
        yield b": still here\n\n" if entry is None else b"id: %d\ndata: %b\n\n" % entry


def _content(path: Path) -> bytes | None:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            return file.read()
    except OSError:  # deleted meanwhile, or no file of a view's
        return None
