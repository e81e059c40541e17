"""Decoders on a graphics card, as far as this computer has one."""

from __future__ import annotations

import logging
from functools import cache

import av
import av.error
from av.codec.hwaccel import HWAccel, hwdevices_available

log = logging.getLogger(__name__)


def find_hardware(wanted: str) -> tuple[HWAccel | None, str | None]:
    """What PyAV is told to decode with, and what the user should know; None: in software.

    `wanted`: `none`, `auto` (the first that works), or a kind of device. What cannot be used is no error: the stream is
    decoded in software then.
    """
    if wanted == "none":
        return None, None
    for kind in hwdevices_available() if wanted == "auto" else [wanted]:
        if (problem := _problem(kind)) is None:
            return HWAccel(kind, allow_software_fallback=True), f"decodes with {kind}"
        if kind == wanted:
            return None, f"decodes in software: {kind} cannot be used: {problem}"
    return None, "decodes in software: no graphics card was found that can"


@cache
def _problem(kind: str) -> str | None:
    """Why a kind of device cannot be used here; None when it can. Opens the device once."""
    if kind not in hwdevices_available():
        return "it is not in this build of FFmpeg"
    try:
        HWAccel(kind, allow_software_fallback=False).create(av.codec.Codec("h264", "r"))
    except (av.error.FFmpegError, OSError, NotImplementedError, RuntimeError) as error:
        return str(getattr(error, "strerror", None) or error).lower()
    return None
