"""Fixtures and settings of all tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from streamer.core import redact

os.environ["TRITON_INTERPRET"] = "1"  # kernels for graphics cards run on the CPU

settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")  # a busy computer fails no test


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Shorten the temporary folder of a test process that runs beside others: paths of sockets are limited."""
    if worker := getattr(config, "workerinput", None):
        folder = Path(config.option.basetemp)
        config.option.basetemp = str(folder.with_name(worker["workerid"].removeprefix("gw")))


@pytest.fixture(autouse=True)
def _own_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password that one test used is not hidden from the output of the next one."""
    monkeypatch.setattr(redact, "_remembered", set())
    monkeypatch.setattr(redact, "_forms", [])


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """The log that a command of one test has set up is not that of the next one."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in [one for one in root.handlers if one not in handlers]:
        root.removeHandler(handler)
    root.setLevel(level)
