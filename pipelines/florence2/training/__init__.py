"""Training of the shipped small model on the toy world, from random weights: examples, losses, checkpoint folder.

Run it with `python -m pipelines.florence2.training`."""
