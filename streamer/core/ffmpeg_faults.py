"""Known faults of FFmpeg that bytes from a camera or file can reach, for comparison with the bundled version.

From the CVE records (cvelistV5) and FFmpeg's security page, read on 2026-11-25. Faults of encoders, muxers and parts
that are not in the bundled build are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class FfmpegFault:
    ids: str
    part: str
    name: str
    """Codec or container of FFmpeg that reaches the part."""
    cured: tuple[Version, ...]
    """First cured version of each release branch. Empty: none is known."""
    kind: str | None = None
    """Kind of source that reaches the part. None: any."""
    is_usual: bool = False
    """The part is used without `allow`."""

    def affects(self, version: Version) -> bool:
        """Return whether a version of FFmpeg has this fault. Versions of branches after the last one named do not."""
        for cured in self.cured:
            if version[:2] == cured[:2]:
                return version < cured
        return not self.cured or version < max(self.cured)

    def is_reached_by(self, source: Any) -> bool:
        """Return whether bytes that a source reads can reach the part."""
        allow = getattr(source, "allow", None)  # None: it does not read with FFmpeg's demuxers
        return allow is not None and self.kind in (None, source.kind) and (self.is_usual or self.name in allow)

    def __str__(self) -> str:
        return f"{self.part} ({self.ids})"


FAULTS = (
    FfmpegFault("CVE-2026-39210 to -39218, CVE-2026-70628", "AV1 over RTP", "av1", (), kind="rtsp"),
    FfmpegFault("CVE-2026-64834", "ASF over RTP", "asf", ((8, 1, 3), (9, 0, 0)), kind="rtsp"),
    FfmpegFault("CVE-2026-8461", "MagicYUV decoder", "magicyuv", ((7, 1, 5), (8, 0, 3), (8, 1, 2))),
    FfmpegFault("CVE-2026-125174", "Hap decoder", "hap", ((8, 1, 3), (9, 0, 2))),
    FfmpegFault("CVE-2026-40962", "encrypted MP4", "mov", ((8, 1, 0),), is_usual=True),
)


def parse_version(text: str) -> Version | None:
    """Return the numbers of a release such as `8.1.2` or `n8.1`, None for a build between releases."""
    match = re.match(r"n?(\d+)\.(\d+)(?:\.(\d+))?", text)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else None


def bundled_version() -> str:
    """Return the version of the FFmpeg that decodes, as it names itself."""
    import av

    return av.ffmpeg_version_info
