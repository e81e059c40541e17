"""Session cookies, with a clock of the test."""

from __future__ import annotations

import pytest

from streamer.web.session import IDLE_S, LONGEST_S, RENEW_S, Session, SessionKey, cookie_of, renewed

TOKEN = "a-token-of-good-length"
KEY = SessionKey(TOKEN)
NOW = 1_790_000_000


def test_session_ends_when_idle_and_in_the_end() -> None:
    session = Session(NOW, NOW)
    value = KEY.write(session)
    assert KEY.read(value, NOW + 1) == session
    assert KEY.read(value, NOW + IDLE_S - 1) == session
    assert KEY.read(value, NOW + IDLE_S) is None
    now = NOW
    while now < NOW + LONGEST_S:
        assert KEY.read(KEY.write(session), now) == session, (now - NOW) / 86400
        now += IDLE_S - RENEW_S
        session = renewed(session, now) or session
    assert KEY.read(KEY.write(session), now) is None


def test_cookie_is_renewed_once_an_hour() -> None:
    assert renewed(Session(NOW, NOW), NOW + RENEW_S - 1) is None
    assert renewed(Session(NOW, NOW), NOW + RENEW_S) == Session(NOW, NOW + RENEW_S)


def test_cookie_of_a_later_clock_is_refused() -> None:
    assert KEY.read(KEY.write(Session(NOW + 86400, NOW + 86400)), NOW) is None


def test_cookie_does_not_contain_the_token() -> None:
    value = KEY.write(Session(NOW, NOW))
    assert TOKEN not in value
    assert value != KEY.write(Session(NOW, NOW))


@pytest.mark.parametrize(
    "change",
    [
        lambda value: "",
        lambda value: value[:-1],
        lambda value: value + "0",
        lambda value: value.replace(str(NOW), str(NOW + 1)),
        lambda value: "..." + value.rpartition(".")[2],
        lambda value: SessionKey(TOKEN + "x").write(Session(NOW, NOW)),
        lambda value: "\udcff" * 10,
        lambda value: "9" * 400 + ".1.x." + "0" * 64,
    ],
)
def test_changed_cookie_is_refused(change) -> None:  # type: ignore[no-untyped-def]
    assert KEY.read(change(KEY.write(Session(NOW, NOW))), NOW) is None


def test_cookie_is_found_among_others() -> None:
    assert cookie_of("other=1; streamer-home=abc; x=2", "streamer-home") == "abc"
    assert cookie_of("streamer-home=abc", "streamer-home") == "abc"
    assert cookie_of("xstreamer-home=abc", "streamer-home") is None
    assert cookie_of(";=;\x01", "streamer-home") is None
