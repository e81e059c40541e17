"""Trains the shipped small Florence-2 from nothing on the toy world: `python -m pipelines.florence2.training`."""
