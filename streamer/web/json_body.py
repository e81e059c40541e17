"""Reads the JSON object that a request carries."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from pydantic import ValidationError

from streamer.core.settings import Settings, in_words
from streamer.web.auth import MAX_FORM_BYTES, read_body

T = TypeVar("T", bound=Settings)


async def parse_body(request: Request, kind: type[T], most: int = MAX_FORM_BYTES) -> T:
    """Return the body of a request, of at most `most` bytes. Raises HTTPException.

    A page of another site can send no JSON without asking first.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send a JSON object with the header Content-Type: application/json")
    try:
        given = json.loads(await read_body(request.receive, most))
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON, or too long") from None
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise HTTPException(422, "; ".join(_problem(one) for one in error.errors(include_url=False))) from None


def _problem(error: Any) -> str:
    if error["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "must be a JSON object"
    return (str(error["loc"][-1]) + ": " if error["loc"] else "") + in_words(error)
