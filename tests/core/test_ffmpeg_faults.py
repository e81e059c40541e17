"""The table of known faults is compared with versions of FFmpeg and with what a source allows."""

from __future__ import annotations

from typing import Any

import pytest

from streamer.capture.sources import Http, Rtsp, Synthetic
from streamer.core.ffmpeg_faults import FAULTS, Version, bundled_version, parse_version

BY_NAME = {fault.name: fault for fault in FAULTS}


@pytest.mark.parametrize(
    ("name", "version", "affected"),
    [
        ("magicyuv", (8, 1, 1), True), ("magicyuv", (8, 1, 2), False), ("magicyuv", (8, 0, 2), True),
        ("magicyuv", (8, 0, 3), False), ("magicyuv", (7, 1, 4), True), ("magicyuv", (7, 0, 9), True),
        ("magicyuv", (9, 0, 0), False), ("hap", (8, 1, 2), True), ("hap", (9, 0, 1), True), ("hap", (9, 1, 0), False),
        ("av1", (9, 9, 9), True), ("mov", (8, 1, 0), False), ("mov", (8, 0, 9), True),
    ],
)  # fmt: skip
def test_fault_affects_versions_before_its_cure(name: str, version: Version, affected: bool) -> None:
    assert BY_NAME[name].affects(version) is affected


@pytest.mark.parametrize(
    ("text", "version"), [("8.1.2", (8, 1, 2)), ("n8.1", (8, 1, 0)), ("N-118000-gabc", None), ("", None)]
)
def test_version_is_read_from_releases_only(text: str, version: Version | None) -> None:
    assert parse_version(text) == version


def test_fault_is_reached_by_sources_that_allow_it() -> None:
    rtsp, http, allow = "rtsp://camera/1", "http://camera/1", {"allow": ["av1", "hap"]}
    sources: dict[str, Any] = {
        "plain": Rtsp.model_validate({"url": rtsp}),
        "rtsp": Rtsp.model_validate({"url": rtsp, **allow}),
        "http": Http.model_validate({"url": http, **allow}),
        "synthetic": Synthetic(),
    }
    reached = {fault.name: [name for name in sources if fault.is_reached_by(sources[name])] for fault in FAULTS}
    assert reached["av1"] == ["rtsp"]
    assert reached["hap"] == ["rtsp", "http"]
    assert reached["magicyuv"] == []
    assert reached["mov"] == ["plain", "rtsp", "http"]


def test_bundled_ffmpeg_has_no_fault_that_is_reached_by_default() -> None:
    version = parse_version(bundled_version())
    assert version is not None
    assert not [fault for fault in FAULTS if fault.is_usual and fault.affects(version)]
