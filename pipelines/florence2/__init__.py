"""Florence-2: tasks, prompts, preprocessing, engines, parsing and scores. `pipeline.py` is the entry point."""
