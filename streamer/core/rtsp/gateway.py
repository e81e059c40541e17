"""A gateway between FFmpeg and an RTSP server, in this process.

FFmpeg connects to it over the loopback interface, without user and password, and speaks RTSP as to the server. The
gateway owns the connection to the server: TLS, authentication, limits of sizes, and the reason of a failure.
"""

from __future__ import annotations

import logging
import queue
import select
import socket
import threading
from contextlib import closing, suppress
from dataclasses import replace

from streamer.core.closing import Closing
from streamer.core.errors import SourceLost, WireError
from streamer.core.network_failures import describe_os_error
from streamer.core.rtsp.client import CLOSED, RECEIVE_BYTES, Answer, Server
from streamer.core.rtsp.local_listener import local_listener
from streamer.core.rtsp.message import Message, Splitter
from streamer.core.rtsp.picture_limit import PictureLimit
from streamer.core.rtsp.session import Session

log = logging.getLogger(__name__)

ACCEPT_S = 10.0
"""Longest wait for FFmpeg's connection."""
CLOSE_S = 1.0
"""Longest wait for the end of the session when the gateway is closed."""
TICK_MS = 250
"""Longest sleep while an answer is awaited."""
_ESSENTIAL = ("SETUP", "PLAY")
"""Requests that must succeed."""


class Gateway(Closing):
    """Serves one session to one connection of FFmpeg, in a thread that ends with the session."""

    def __init__(self, session: Session) -> None:
        """Take over the session: `close` also closes its connection. Raises SourceLost."""
        self.failure: SourceLost | None = None
        """Reason for which the session failed, set before FFmpeg's connection is closed."""
        self._client = session.client
        self._responses = dict(session.responses)
        self._limit = PictureLimit()
        self._ffmpeg: socket.socket | None = None
        # With UDP, FFmpeg receives media on sockets of the family of this connection.
        try:
            self._listener = local_listener(self._client.socket.family)
        except OSError as error:
            self._client.close()
            raise SourceLost(f"no loopback interface to pass the video on: {describe_os_error(error)}") from None
        self._path, self._arrivals = self._listener.expect()
        uri = session.server.uri
        self._remote = uri.removesuffix("/")
        self._local = Server("rtsp", self._listener.host, self._listener.port, self._path).uri
        self.url = self._local + ("/" if uri.endswith("/") else "")
        """URL for FFmpeg. Its path is a secret, so that no other program of this computer can use the gateway."""
        self._thread = threading.Thread(target=self._run, name="rtsp-gateway", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the session. If FFmpeg has closed its connection before, the server gets FFmpeg's TEARDOWN."""
        self._listener.forget(self._path)
        self._arrivals.put(None)
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            for connection in (self._client.socket, self._ffmpeg):
                _shut_down(connection)
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        try:
            with closing(self._client):
                if (arrived := self._arrivals.get(timeout=ACCEPT_S)) is not None:
                    self._ffmpeg = arrived.socket
                    self._relay(*arrived)
        except SourceLost as error:
            self.failure = error
        except (OSError, WireError, queue.Empty) as error:  # of FFmpeg's connection: FFmpeg tells its own reason
            log.debug("RTSP gateway ended: %s", type(error).__name__)
        finally:
            if self._ffmpeg is not None:
                self._ffmpeg.close()

    def _relay(self, ffmpeg: socket.socket, splitter: Splitter, requests: list[bytes | Message]) -> None:
        """Pass data both ways until one side closes its connection."""
        poller = select.poll()
        for connection in (ffmpeg, self._client.socket):
            poller.register(connection, select.POLLIN)
        while True:
            for item in requests:
                if isinstance(item, bytes):
                    self._client.send_packets(item)
                elif not item.is_response:
                    self._on_request(item, ffmpeg)
            requests = []
            for descriptor, _ in poller.poll(TICK_MS if self._client.awaits(*_ESSENTIAL) else None):
                if descriptor == ffmpeg.fileno():
                    if not (data := ffmpeg.recv(RECEIVE_BYTES)):
                        return
                    requests = list(splitter.feed(data))
                else:
                    if (items := self._client.receive()) is None:
                        if self._client.awaits(*_ESSENTIAL):
                            raise SourceLost(CLOSED)
                        return
                    for received in items:
                        if isinstance(received, bytes):
                            self._limit.check(received)
                        ffmpeg.sendall(self._on_answer(received).encode() if isinstance(received, Answer) else received)
            self._client.check_answers(*_ESSENTIAL)

    def _on_request(self, request: Message, ffmpeg: socket.socket) -> None:
        """Pass a request to the server, unless its response is known already."""
        if (response := self._responses.pop(request.method, None)) is not None:
            ffmpeg.sendall(self._reply(response, request.value("CSeq")).encode())
            return
        if request.method == "PLAY":
            self._client.begin_media()
        start = request.start.replace(self._local, self._remote)
        self._client.send(replace(request, start=start), request.value("CSeq"))

    def _on_answer(self, answer: Answer) -> Message:
        """Return what FFmpeg gets. Raises SourceLost if the session cannot continue."""
        failure = self._client.failure(answer.response)
        if failure is not None and answer.request.method in _ESSENTIAL:
            raise failure
        return self._reply(answer.response, answer.tag)

    def _reply(self, response: Message, cseq: str) -> Message:
        """Return a response of the server as a response to FFmpeg's request."""
        headers = [(name, value.replace(self._remote, self._local)) for name, value in response.headers]
        body = response.body.replace(self._remote.encode(), self._local.encode())
        reply = replace(response, headers=tuple(headers), body=body).with_header("CSeq", cseq)
        transport = response.value("Transport")
        if transport and "tcp" not in transport.partition(";")[0].lower():
            reply = reply.with_header("Transport", self._with_source(transport))
        return reply

    def _with_source(self, transport: str) -> str:
        """Return a UDP transport with the server's address: FFmpeg knows that of the gateway only."""
        fields = [field for field in transport.split(";") if not field.strip().lower().startswith("source=")]
        return ";".join([*fields, f"source={self._client.socket.getpeername()[0]}"])


def _shut_down(connection: socket.socket | None) -> None:
    """Wake the thread that waits for this socket."""
    if connection is not None:
        with suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
