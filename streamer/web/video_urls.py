"""Which annotated pictures this process serves, by the names under which they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamer.config.model import Config
from streamer.video.outputs import ViewId, outputs_by_view

ADDRESSES = {"mjpeg": "/live/{}.mjpeg", "hls": "/hls/{}/index.m3u8"}
"""By kind of output, the best first."""


@dataclass(frozen=True, slots=True)
class View:
    """One drawing of a stream; its name stands in sockets, folders and addresses."""

    id: ViewId
    kinds: frozenset[str]
    """Kinds of output in `ADDRESSES`."""

    @property
    def name(self) -> str:
        return str(self.id)

    @property
    def stream(self) -> str:
        return self.id.stream

    def live(self) -> list[dict[str, str]]:
        """Kind and address of each way to see it."""
        return [
            {"kind": kind, "view": self.name, "url": address.format(self.name)}
            for kind, address in ADDRESSES.items()
            if kind in self.kinds
        ]


def views_of(config: Config) -> Mapping[str, View]:
    """The views that have something to serve, by name."""
    views = [
        View(view_id, frozenset(output.kind for output in outputs) & frozenset(ADDRESSES))
        for view_id, outputs in outputs_by_view(config.outputs).items()
    ]
    return {view.name: view for view in views if view.kinds}
