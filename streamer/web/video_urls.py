"""URLs of the annotated video that the web process serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamer.config.model import Config
from streamer.video.outputs.base import ViewId, outputs_by_view

URLS = {"mjpeg": "/live/{}.mjpeg", "hls": "/hls/{}/index.m3u8"}
"""URL by kind of output, the preferred one first."""


@dataclass(frozen=True, slots=True)
class ServedView:
    """A view with outputs that the web process serves."""

    id: ViewId
    kinds: frozenset[str]
    """Keys of `URLS`."""

    def live(self) -> list[dict[str, str]]:
        """Return kind and URL of each output, preferred first."""
        return [
            {"kind": kind, "view": str(self.id), "url": url.format(self.id)}
            for kind, url in URLS.items()
            if kind in self.kinds
        ]


def served_views(config: Config) -> Mapping[str, ServedView]:
    """Return the views with served outputs, by name."""
    views = [
        ServedView(view, frozenset(output.kind for output in outputs) & frozenset(URLS))
        for view, outputs in outputs_by_view(config.outputs).items()
    ]
    return {str(view.id): view for view in views if view.kinds}
