"""The silence timeout of a source, from the gaps between its frames."""

from __future__ import annotations

from streamer.capture.silence_timeout import SilenceTimeout


def test_timeout_is_three_times_the_longest_gap() -> None:
    timeout = SilenceTimeout()
    assert timeout.seconds() == 15
    for _ in range(400):
        timeout.observe_gap(0.04)
    assert timeout.seconds() == 5
    timeout.observe_gap(4)
    assert timeout.seconds() == 12
    for _ in range(500):
        timeout.observe_gap(0.04)
    assert timeout.seconds() == 5, "old gap still counts"
    timeout.observe_gap(50)
    assert timeout.seconds() == 60


def test_timeout_exceeds_ten_second_frame_interval() -> None:
    timeout = SilenceTimeout()
    for _ in range(10):
        assert timeout.seconds() > 10
        timeout.observe_gap(10)
    assert timeout.seconds() == 30


def test_timeout_grows_after_reconnect_to_slow_camera() -> None:
    timeout = SilenceTimeout()
    timeout.observe_timeout(15)
    assert timeout.seconds() == 15
    timeout.connected()
    assert timeout.seconds() == 45
