"""Names of the sockets of an agent. The path of each one has a limit, which depends on the names in its config."""

from __future__ import annotations

from streamer.config.model import Config
from streamer.video.outputs.base import outputs_by_view
from streamer.video.outputs.rtsp_push import RtspPush


def socket_names(config: Config) -> list[str]:
    """Return the names of the sockets that contain a name from the config, and the longest fixed one."""
    return [
        "bus.sock.replay",
        *(f"frames-{stream}.sock" for stream in config.streams),
        *(f"jpeg-{view}.sock" for view in outputs_by_view(config.outputs)),
        *(f"packets-{output.label}.sock" for output in config.outputs if isinstance(output, RtspPush)),
    ]
