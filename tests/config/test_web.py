"""Settings of the page."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from streamer.config.web import Web

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        (f"{TOKEN}\n", "no spaces or line ends"),
        (f" {TOKEN}", "no spaces or line ends"),
        ("two words are here", "no spaces or line ends"),
        (f"{TOKEN}\0", "no spaces or line ends"),
        (f"{TOKEN}ü", "of ASCII only"),
        ("short", "at least 16 characters"),
        ("a" * 40, "at least 6 different characters"),
        ("abcab" * 8, "at least 6 different characters"),
    ],
)
def test_token_that_cannot_be_sent_or_is_guessed_is_refused(token: str, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Web.model_validate({"token": token})


@pytest.mark.parametrize("token", [TOKEN, "~!#$%&/()=?*+-._:;<>|", "dGhpcyBpcyBhIHRva2Vu"])
def test_token_of_ascii_characters_is_taken(token: str) -> None:
    web = Web.model_validate({"token": token})
    assert web.token is not None
    assert web.token.get_secret_value() == token
