"""Florence-2: tasks, prompts, checkpoints, preprocessing, parsing and scores; `pipeline.py` is the entry point.

`reference_engine.py` runs transformers' `generate`; `fast/` is the faster engine; `training/` made `models/`."""
