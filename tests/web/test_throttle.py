"""Limits of wrong tokens, with a clock of the test."""

from __future__ import annotations

from streamer.web.throttle import (
    ALL_BURST,
    ALL_EVERY_S,
    CLIENT_BURST,
    CLIENT_EVERY_S,
    KNOWN_S,
    MAX_CLIENTS,
    TokenThrottle,
)


def guess(throttle: TokenThrottle, client: str, now: float, times: int = 1) -> int:
    """Send wrong tokens; return how many were checked."""
    checked = 0
    for _ in range(times):
        if not throttle.wait(client, now):
            throttle.wrong(client, now)
            checked += 1
    return checked


def test_client_that_guesses_is_slowed_alone() -> None:
    throttle = TokenThrottle(0)
    assert guess(throttle, "a", 0, 1000) == CLIENT_BURST
    assert 0 < throttle.wait("a", 0) <= CLIENT_EVERY_S
    assert throttle.wait("b", 0) == 0
    assert guess(throttle, "a", CLIENT_EVERY_S, 1000) == 1
    assert guess(throttle, "a", 3600, 1000) == CLIENT_BURST


def test_many_guessing_clients_are_slowed_together() -> None:
    throttle = TokenThrottle(0)
    assert sum(guess(throttle, f"client {number}", 0) for number in range(1000)) == ALL_BURST
    assert sum(guess(throttle, f"client {number}", 60) for number in range(1000, 2000)) == round(60 / ALL_EVERY_S)


def test_client_with_the_token_is_never_slowed() -> None:
    throttle = TokenThrottle(0)
    throttle.right("owner", 0)
    guess(throttle, "owner", 1, 1000)  # somebody else behind the same address
    guess(throttle, "stranger", 1, 1000)
    assert throttle.wait("owner", 1) == 0
    assert throttle.wait("owner", KNOWN_S + 1) == 0  # its wrong tokens are forgotten by then
    guess(throttle, "owner", KNOWN_S + 1, 1000)
    assert throttle.wait("owner", KNOWN_S + 1) > 0


def test_memory_of_clients_is_bounded() -> None:
    throttle = TokenThrottle(0)
    for number in range(2 * MAX_CLIENTS):
        throttle.wrong(f"client {number}", 0)
        throttle.right(f"client {number}", 0)
    assert len(throttle._clients) == len(throttle._known) == MAX_CLIENTS
