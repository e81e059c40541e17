"""The web application: all URLs in one table. All of them only read."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from streamer.web.auth import AuthMiddleware
from streamer.web.handlers import Handlers

STATIC = Path(__file__).with_name("static")


def make_app(handlers: Handlers) -> FastAPI:
    """Build the application with access control in front of every URL."""
    config = handlers.config
    assert config.web is not None
    app = FastAPI(title="streamer", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(AuthMiddleware, web=config.web, agent=config.name)
    for path, handler in (
        ("/api/streams", handlers.streams),
        ("/api/events", handlers.events),
        ("/api/events/live", handlers.live_events),
        ("/api/snapshot/{stream}.jpg", handlers.snapshot),
        ("/live/{view}.mjpeg", handlers.mjpeg),
        ("/hls/{view}/{file}", handlers.hls),
        ("/healthz", handlers.health),
        ("/readyz", handlers.ready),
        ("/metrics", handlers.metrics),
    ):
        app.add_api_route(path, handler)
    app.mount("/", _Page(directory=STATIC, html=True))
    return app


class _Page(StaticFiles):
    """Files of the page. Browsers may cache them but must revalidate them each time."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response
