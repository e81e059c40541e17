"""Toy world: drawn scenes with known objects, for the demo, the tests and the training of the shipped model.

`world.py` moves objects and signs, `paint.py` draws them, `words.py` lists the words on signs."""
