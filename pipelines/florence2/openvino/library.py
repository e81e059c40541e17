"""Imports the optional packages OpenVINO (runs a graph) and NNCF (quantizes one) without their usage reports."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from streamer.core.errors import ConfigError

INSTALL = "pip install 'florence-streamer[openvino]'"


def openvino() -> Any:
    """Return the package. Raises ConfigError with the command that installs it."""
    return load("openvino", "`backend: openvino`", INSTALL)


def load(package: str, feature: str, command: str) -> Any:
    """Return an optional package that `feature` needs. Raises ConfigError with the command that installs it."""
    # Both packages send usage reports and write to the home folder through this one; without it they do neither.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return import_module(package)
    except ImportError:
        raise ConfigError(f"{feature} needs the package {package}: run `{command}`") from None
