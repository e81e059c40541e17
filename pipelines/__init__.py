"""What the frames mean: Florence-2's tasks, prompts, answers and engines."""
