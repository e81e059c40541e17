"""The base of all models in events."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    # Unknown keys are ignored: a reader must accept events of a newer agent.
    model_config = ConfigDict(frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
