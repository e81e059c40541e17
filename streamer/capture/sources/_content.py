"""Kinds of content of a camera's answer, recognised by its first bytes and its type."""

from __future__ import annotations

import re

from streamer.capture.sources._http_answer import Answer
from streamer.core.errors import SourceLost

HEAD_BYTES = 64
"""First bytes of an answer that are looked at."""
_NOT_VIDEO = {
    "text/html": "a web page",
    "text/plain": "text",
    "text/xml": "text",
    "application/xml": "text",
    "application/dash+xml": "a DASH playlist",
    "application/json": "text",
    "application/sdp": "a description of a session",
}
"""Types that no video has, in words. Other types stay out of errors: they may hold any text of the camera."""
_WEB_PAGE = re.compile(rb"\s*<(!doctype html|html|head|body)", re.IGNORECASE)
_TEXT = re.compile(rb"[\t\r\n\x20-\x7e]*")
_PICTURE_TYPES = frozenset(
    {"image/jpeg", "image/jpg", "image/pjpeg", "video/x-motion-jpeg", "video/x-mjpeg", "video/mjpeg", "video/jpeg"}
)


def holds_pictures(answer: Answer) -> bool:
    """Return True for JPEGs, in parts or not. Some cameras send them with a wrong type."""
    if answer.content_type.startswith("multipart/"):
        return True
    head = answer.peek(HEAD_BYTES)
    if answer.content_type in _PICTURE_TYPES:
        return not _WEB_PAGE.match(head)
    return head.startswith(b"\xff\xd8\xff") or head.lstrip().startswith(b"--")


def is_mp4(answer: Answer) -> bool:
    return answer.peek(HEAD_BYTES)[4:8] == b"ftyp"


def check_is_video(answer: Answer) -> None:
    """Raise SourceLost for text and for nothing."""
    head = answer.peek(HEAD_BYTES)
    if not head:
        raise SourceLost("the answer is empty")
    if not _TEXT.fullmatch(head):
        return
    if answer.content_type in _NOT_VIDEO:
        raise SourceLost(f"answers with {_NOT_VIDEO[answer.content_type]} ({answer.content_type}), not video")
    raise SourceLost(f"answers with {'a web page' if _WEB_PAGE.match(head) else 'text'}, not video")
