"""Move frames and events; a pipeline says what they mean. Start reading in `types/`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamer.events.schema import Event, IncidentEvent, ResultEvent, StatusEvent
    from streamer.events.subscribe import subscribe

__all__ = ["Event", "IncidentEvent", "ResultEvent", "StatusEvent", "__version__", "subscribe"]
__version__ = "0.1.0"

_HOMES = {
    "Event": "streamer.events.schema",
    "IncidentEvent": "streamer.events.schema",
    "ResultEvent": "streamer.events.schema",
    "StatusEvent": "streamer.events.schema",
    "subscribe": "streamer.events.subscribe",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that `import streamer` alone stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module 'streamer' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
