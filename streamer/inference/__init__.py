"""When each task runs, on which frame, in which order, and what happens when the model is slow, stuck or killed."""
