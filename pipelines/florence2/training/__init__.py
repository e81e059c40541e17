"""Training of the shipped small Florence-2 on the toy world: `python -m pipelines.florence2.training`."""
