"""Fixtures and settings of all tests."""

from __future__ import annotations

import pytest

from streamer.core import redact


@pytest.fixture(autouse=True)
def _own_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password that one test used is not hidden from the output of the next one."""
    monkeypatch.setattr(redact, "_remembered", set())
    monkeypatch.setattr(redact, "_forms", [])
