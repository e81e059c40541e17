"""The optional packages of int8: OpenVINO runs a model, NNCF makes one."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from streamer.core.errors import ConfigError

INSTALL = "pip install 'florence-streamer[openvino]'"


def openvino() -> Any:
    """Return the package. Raises ConfigError with the command that installs it."""
    return _load("openvino")


def nncf() -> Any:
    """Return the package. Raises ConfigError with the command that installs it."""
    module = _load("nncf")
    module.set_log_level(logging.ERROR)
    return module


def _load(name: str) -> Any:
    # Both send usage data unless this package is missing; both run without it.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        with quiet():
            return import_module(name)
    except ImportError:
        raise ConfigError(f"int8 needs the package {name}: run `{INSTALL}`") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore warnings: those of these packages are for their own developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
