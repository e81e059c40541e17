"""Serves a review: one event loop with the HTTP server, until the command is interrupted."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from streamer.config.bind import Bind
from streamer.config.web import Web
from streamer.core.errors import ConfigError
from streamer.core.settings import in_words
from streamer.types.review import Review
from streamer.web.app import STATIC, Page, invalid_parameter
from streamer.web.auth import AuthMiddleware
from streamer.web.connections import Connections
from streamer.web.opening_links import OpeningLinks
from streamer.web.review.handlers import ReviewHandlers, routes
from streamer.web.server import Server, listen

OWN_STATIC = Path(__file__).with_name("static")


def serve(review: Review, bind: str, names: Sequence[str], tell: Callable[[str], None]) -> None:
    """Serve a review to people with these names until SIGINT or SIGTERM. `tell` prints a line for the user.

    Raises ConfigError for an address or a name that cannot be used.
    """
    keys = {name: {"token": secrets.token_urlsafe(32), "scopes": ["view", "command"]} for name in names}
    try:
        web = Web.model_validate({"bind": bind, "tokens": keys})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        option = "--bind" if first["loc"][:1] == ("bind",) else "--name"
        raise ConfigError(f"{option}: {in_words(first)}") from None
    with listen(web.bind) as listener:
        asyncio.run(_serve(review, web, listener, tell))


async def _serve(review: Review, web: Web, listener: socket.socket, tell: Callable[[str], None]) -> None:
    address = Bind(*listener.getsockname()[:2])
    connections = Connections(())
    openings = OpeningLinks(f"http://{address}", web.tokens, tell)
    server = Server(make_review_app(review, web, address, connections, openings), connections)

    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await server.serve([listener])


def make_review_app(
    review: Review, web: Web, address: Bind, connections: Connections, openings: OpeningLinks
) -> FastAPI:
    """Build the application with access control in front of every URL."""
    app = FastAPI(title="streamer", docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    name = f"review-{address.port}"  # names the cookie, which all ports of this computer share
    app.add_middleware(AuthMiddleware, web=web, agent=name, connections=connections, openings=openings)
    app.add_exception_handler(RequestValidationError, invalid_parameter)
    for method, path, handler in routes(ReviewHandlers(review)):
        app.add_api_route(path, handler, methods=[method])
    page = Page(directory=OWN_STATIC, html=True)
    page.all_directories = [OWN_STATIC, STATIC]  # shares style and modules with the agent's page
    app.mount("/", page)
    return app
