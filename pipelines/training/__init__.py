"""Trains the small Florence-2 that is shipped, from nothing, on the toy world: `python -m pipelines.training`."""
