"""The rules: conditions on events that make incidents. Deterministic, without input or output; events give the time."""
