"""A drawn world with known objects, for the demo, the tests and the training of the shipped model."""
