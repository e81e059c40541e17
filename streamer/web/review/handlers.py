"""The handlers of the URLs of the review page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ParamSpec, TypeVar

from fastapi import HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from streamer.core.errors import ConfigError
from streamer.core.reasons import reason_of
from streamer.core.settings import Settings
from streamer.types.review import Review, ReviewedObject, ReviewedPicture
from streamer.web.auth import access_of
from streamer.web.json_body import parse_body

MAX_BYTES = 1 << 20
"""Longest decision; 300 objects with labels of 200 characters need half of it."""
MAX_GIVEN = 1000
"""Most objects of a decision that are read. The review has its own, lower limit."""
DECODERS, MAX_WAITING = 2, 64
"""Pictures that are decoded at once, and those that wait; more are refused."""
Number = Annotated[int, Field(strict=True, ge=0, le=1 << 31)]
Place = Annotated[int, Query(ge=-1, le=1 << 31)]

P = ParamSpec("P")
T = TypeVar("T")


class _Object(Settings):
    label: str = Field(max_length=1000)
    box: tuple[float, float, float, float]
    source: Number | None = None
    wrong: bool = False


class _Decision(Settings):
    number: Number
    labels: Number
    objects: list[_Object] = Field(max_length=MAX_GIVEN)


@dataclass(eq=False, slots=True)
class ReviewHandlers:
    """One method per URL, see the table in `make_review_app`."""

    review: Review
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _decoders: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(DECODERS))
    _pictures: int = 0
    """Requests for pictures that are open."""

    async def describe(self, request: Request) -> JSONResponse:
        """The reviewer's name, the sets and the known labels."""
        return JSONResponse({"by": access_of(request.scope).name, **await self._call(self.review.describe)})

    async def next(self, request: Request, after: Place = -1) -> JSONResponse:
        """The next picture without a decision."""
        return JSONResponse(await self._call(self.review.next, access_of(request.scope).name, after))

    async def decide(self, request: Request) -> JSONResponse:
        """Store a decision; the answer is the next picture."""
        given = await parse_body(request, _Decision, MAX_BYTES)
        by = access_of(request.scope).name
        objects = tuple(ReviewedObject(one.label, one.box, one.source, one.wrong) for one in given.objects)
        await self._call(self.review.decide, by, ReviewedPicture(given.number, given.labels, objects))
        return JSONResponse(await self._call(self.review.next, by, given.number))

    async def undo(self, request: Request) -> JSONResponse:
        """Withdraw the newest decision of the reviewer; the answer is its picture."""
        await parse_body(request, Settings)
        return JSONResponse(await self._call(self.review.undo, access_of(request.scope).name))

    async def picture(self, number: int) -> Response:
        """A picture as JPEG."""
        if self._pictures >= DECODERS + MAX_WAITING:
            raise HTTPException(503, "too many pictures are asked for at once", {"Retry-After": "5"})
        self._pictures += 1
        try:
            async with self._decoders:
                return Response(await _in_thread(self.review.picture, number), media_type="image/jpeg")
        finally:
            self._pictures -= 1

    async def _call(self, method: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
        async with self._turn:
            return await _in_thread(method, *arguments, **keywords)


async def _in_thread(method: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """Call a method of the review. Raises HTTPException with its reason."""
    try:
        return await asyncio.to_thread(method, *arguments, **keywords)
    except ValueError as error:
        raise HTTPException(400, str(error)) from None
    except ConfigError as error:
        raise HTTPException(409, str(error)) from None
    except OSError as error:
        raise HTTPException(507, f"not stored: {reason_of(error, 'review')}") from None


def routes(handlers: ReviewHandlers) -> list[tuple[str, str, Callable[..., Any]]]:
    """Return method, path and handler of each URL."""
    return [
        ("GET", "/api/review", handlers.describe),
        ("GET", "/api/review/next", handlers.next),
        ("GET", "/api/review/pictures/{number}.jpg", handlers.picture),
        ("POST", "/api/review/decisions", handlers.decide),
        ("POST", "/api/review/undo", handlers.undo),
    ]
