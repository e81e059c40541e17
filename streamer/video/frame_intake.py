"""Fetches the frames of one stream for a view, one at a time and always the newest."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import zmq

from streamer.bus.frame_client import FrameClient, FrameRequest, NoBuffer
from streamer.types import Frame, FrameId, Image

WAIT_S = 1.0
"""Timeout of a wait for the next frame."""
BUFFERS = 3


class FrameIntake:
    """Waits until capture has a newer frame, then fetches it. Frames are copied and settled at once."""

    def __init__(self, runtime: Path, stream: str) -> None:
        self.ended = False
        """The source ended: no further frame will come."""
        self._stream = stream
        self._client = FrameClient(runtime, "view", BUFFERS)
        self._client.connect(stream)
        self._pending: int | None = None
        """Id of the request without a reply."""
        self._is_ready = True
        """A newer frame may exist: fetch instead of wait."""
        self._newest: FrameId | None = None

    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Return the sockets to poll for reading; call `receive` when one is readable."""
        return self._client.sockets()

    def request(self) -> None:
        """Request the next frame, unless a request is pending."""
        if self._pending is not None or self.ended:
            return
        request = FrameRequest(after=self._newest)
        if not self._is_ready:
            self._pending = self._client.wait(self._stream, request, WAIT_S)
            return
        with contextlib.suppress(NoBuffer):
            self._pending = self._client.fetch(self._stream, request)

    def receive(self) -> list[Frame]:
        """Return the frames that have arrived. Never blocks. Call at least once a second."""
        frames = []
        for reply in self._client.receive():
            if reply.request == self._pending:
                self._pending = None
                self._is_ready = reply.ready and reply.frame is None
                self.ended = reply.ended
            if reply.frame is not None:
                frames.append(self._copy(reply.frame))
        return frames

    def close(self) -> None:
        self._client.close()

    def _copy(self, frame: Frame) -> Frame:
        self._newest = frame.id
        image = with_even_sides(frame.image)
        self._client.settle(frame, "done")
        return replace(frame, image=image)


def with_even_sides(image: Image) -> Image:
    """Return a copy of even size, which H.264 needs: the last row or column of an odd side stands there twice."""
    height, width = image.shape[:2]
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
