"""The web application: all URLs in two tables: those that only read, and commands. HEAD is answered like GET."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from streamer.config.model import Config
from streamer.core.settings import in_words
from streamer.events.notify.push_links import PushLinks
from streamer.web.auth import AuthMiddleware
from streamer.web.connections import Connections
from streamer.web.forwarded import ForwardedMiddleware
from streamer.web.handlers import Handlers
from streamer.web.push_handlers import PushHandlers
from streamer.web.rule_commands import RuleCommands
from streamer.web.rule_handlers import RuleHandlers

STATIC = Path(__file__).with_name("static")


def make_app(
    handlers: Handlers, rules: RuleHandlers, commands: RuleCommands, push: PushHandlers | None = None
) -> FastAPI:
    """Build the application of this agent, without access control. `push`: None without such a target."""
    app = FastAPI(title="streamer", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_exception_handler(RequestValidationError, invalid_parameter)
    for path, handler in (
        ("/api/streams", handlers.streams),
        ("/api/events", handlers.events),
        ("/api/events/live", handlers.live_events),
        ("/api/incidents", rules.list_incidents),
        ("/api/rules", rules.list_rules),
        ("/api/rules/state", commands.state),
        ("/api/snapshot/{stream}.jpg", handlers.snapshot),
        ("/api/snapshots/{event}.jpg", handlers.stored_snapshot),
        ("/live/{view}.mjpeg", handlers.mjpeg),
        ("/hls/{view}/{file}", handlers.hls),
        ("/healthz", handlers.health),
        ("/readyz", handlers.ready),
        ("/metrics", handlers.metrics),
    ):
        app.add_api_route(path, handler)
    for path, command in (
        ("/api/rules/mode", commands.switch_mode),
        ("/api/rules/snooze", commands.snooze),
        ("/api/rules/ack", commands.acknowledge),
        ("/api/rules/feedback", commands.judge),
    ):
        app.add_api_route(path, command, methods=["POST"])
    if push is not None:
        _add_push(app, push)
    app.mount("/", Page(directory=STATIC, html=True))
    return app


def guarded(app: ASGIApp, config: Config, connections: Connections, links: PushLinks | None) -> ASGIApp:
    """Return the application with access control in front of every URL. `links`: of notifications."""
    assert config.web is not None
    checked = AuthMiddleware(app, web=config.web, agent=config.name, connections=connections, links=links)
    return ForwardedMiddleware(checked, web=config.web)


def _add_push(app: FastAPI, push: PushHandlers) -> None:
    app.add_api_route("/api/push", push.key)
    app.add_api_route("/push/picture/{link}", push.picture)
    for path, command in (
        ("/api/push/subscribe", push.subscribe),
        ("/api/push/unsubscribe", push.unsubscribe),
        ("/push/snooze/{link}", push.snooze),
        ("/push/wrong/{link}", push.wrong),
    ):
        app.add_api_route(path, command, methods=["POST"])


async def invalid_parameter(_: Request, error: Exception) -> Response:
    """Say which parameter of a URL is wrong, and what it must be."""
    assert isinstance(error, RequestValidationError)
    problems = [f"{one['loc'][-1]}: {in_words(one)}" for one in error.errors()]
    return JSONResponse({"detail": "; ".join(problems)}, 422)


class Page(StaticFiles):
    """Files of the page. Browsers may cache them but must revalidate them each time."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response
