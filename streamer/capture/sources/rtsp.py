"""A network camera over RTSP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import model_validator

from streamer.capture.interfaces import Picture, Source
from streamer.capture.sources._allowed import RTSP, Allowed
from streamer.capture.sources._fields import NetworkCamera
from streamer.core.errors import SourceLost
from streamer.core.landlock import Rules
from streamer.core.redact import Url, require_scheme
from streamer.core.tls import Tls, require_tls_scheme

if TYPE_CHECKING:
    from streamer.core.rtsp.gateway import Gateway


class Rtsp(NetworkCamera):
    """A network camera over RTSP."""

    kind: Literal["rtsp"] = "rtsp"
    url: Annotated[Url, require_scheme("rtsp", "rtsps")]
    """`rtsp://` or `rtsps://`, with user and password if needed. They never appear in logs or events."""
    transport: Literal["tcp", "udp"] = "tcp"
    """Transport of the video. `tcp` loses no packets; `udp` is for cameras without TCP. `rtsps://` always uses TCP."""
    tls: Tls = Tls()
    """Checks of the certificate of an `rtsps://` camera."""

    modules: ClassVar[tuple[str, ...]] = (
        "streamer.capture.sources._av", "streamer.core.rtsp.gateway", "streamer.core.rtsp.session",
    )  # fmt: skip
    allowed: ClassVar[Allowed] = RTSP
    default_ports: ClassVar[Mapping[str, int]] = {"rtsp": 554, "rtsps": 322}

    @model_validator(mode="after")
    def _tls_is_used(self) -> Self:
        require_tls_scheme(self.tls, self.url.scheme)
        return self

    def demuxer_options(self) -> dict[str, str]:
        return {
            "rtsp_transport": "tcp" if self.url.scheme == "rtsps" else self.transport,
            "protocol_whitelist": "rtsp,rtp,udp,tcp",
            "allowed_media_types": "video",
            # The decoder finds parameters and frame rate. Probing for them would delay the first frame by 1 s.
            "probesize": "32",
            "fpsprobesize": "0",
        }

    def open(self, read_limit: float = 15.0) -> Source:
        from streamer.capture.sources._av import OPEN_S, AvSource
        from streamer.core.rtsp.gateway import Gateway
        from streamer.core.rtsp.session import open_session

        allowed = self.allowed.extended(self.allow)
        session = open_session(self.url.reveal(), self.tls, min(OPEN_S, read_limit))
        try:
            allowed.check_description(session.responses["DESCRIBE"].body)
        except SourceLost:
            session.client.close()
            raise
        gateway = Gateway(session)
        try:
            source = AvSource(
                gateway.url,
                self.demuxer_options(),
                read_limit=read_limit,
                container_format="rtsp",
                allowed=allowed,
                hwaccel=self.hwaccel,
                may_skip_frames=self.decode == "auto",
                stream=self.stream,
                keeps_jpegs=True,
            )
        except BaseException as error:
            gateway.close()
            if isinstance(error, SourceLost) and gateway.failure is not None:
                raise gateway.failure from None
            raise
        return _RtspSource(source, gateway)

    def needs(self) -> Rules:
        return replace(super().needs(), read=self.tls.files)


class _RtspSource:
    """Frames that FFmpeg decodes from a session of the gateway, which knows why the session ended."""

    def __init__(self, source: Source, gateway: Gateway) -> None:
        self._source, self._gateway = source, gateway

    @property
    def note(self) -> str | None:
        return self._source.note

    def __iter__(self) -> Iterator[Picture | None]:
        try:
            yield from self._source
        except SourceLost as error:
            raise self._gateway.failure or error from None

    def set_interval(self, every: float) -> bool:
        return self._source.set_interval(every)

    def close(self) -> None:
        self._source.close()
        self._gateway.close()
