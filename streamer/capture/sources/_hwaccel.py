"""Hardware decoders of this computer."""

from __future__ import annotations

from functools import cache

import av
import av.error
from av.codec.hwaccel import HWAccel, hwdevices_available


def find_hardware(setting: str) -> tuple[HWAccel | None, str | None]:
    """Return PyAV's decoder (None: decode in software) and a note for the user, if any.

    `setting`: an HwAccel. A device that cannot be used is not an error: the stream is decoded in software.
    """
    if setting == "none":
        return None, None
    for kind in hwdevices_available() if setting == "auto" else [setting]:
        if (problem := _hardware_problem(kind)) is None:
            return HWAccel(kind, allow_software_fallback=True), f"decodes with {kind}"
        if kind == setting:
            return None, f"decodes in software: {kind} cannot be used: {problem}"
    return None, "decodes in software: no hardware decoder found"


@cache
def _hardware_problem(kind: str) -> str | None:
    """Return why a kind of device cannot be used, or None. Opens the device, once per process."""
    if kind not in hwdevices_available():
        return "it is not in this build of FFmpeg"
    try:
        HWAccel(kind, allow_software_fallback=False).create(av.codec.Codec("h264", "r"))
    except (av.error.FFmpegError, OSError, NotImplementedError, RuntimeError) as error:
        return str(getattr(error, "strerror", None) or error).lower()
    return None
