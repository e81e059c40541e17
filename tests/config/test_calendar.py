"""The zone of this computer, compared with the C library."""

from __future__ import annotations

import subprocess
import sys

import pytest

from streamer.config.calendar import zone_of_variable

COMPARE = """
import time
from datetime import datetime
from streamer.config.calendar import local_zone
for day in range(0, 366, 5):
    unix = 1_767_225_600 + day * 86400 + 5400
    ours, theirs = datetime.fromtimestamp(unix, local_zone()), time.localtime(unix)
    assert ours.strftime("%F %T") == time.strftime("%F %T", theirs), (str(ours), theirs)
"""


@pytest.mark.parametrize(
    "text",
    [
        "Europe/Berlin",
        ":Europe/Berlin",
        "/usr/share/zoneinfo/Europe/Berlin",
        ":/usr/share/zoneinfo/America/New_York",
        "UTC0",
        "<+0530>-5:30",
        "CET-1CEST,M3.5.0,M10.5.0/3",
        "CET-1CEST",
        "EST5EDT",
        "",
        "No/Such_Zone",
    ],
)
def test_local_zone_is_that_of_the_c_library(text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMPARE], env={"TZ": text, "PATH": "/usr/bin"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", ["No/Such_Zone", "x", "\ud800", "../../../etc/passwd", "/dev/zero", "CET-1CEST,x"])
def test_variable_that_is_no_zone_has_none(text: str) -> None:
    assert zone_of_variable(text) is None
