"""The fast engine: Florence-2 in plain torch operations, with an image cache, in-flight batching and drafts.

`engine.py` has the step loop; the answers equal those of `reference_engine.py`."""
