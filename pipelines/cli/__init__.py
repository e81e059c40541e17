"""Commands of the pipelines, which `streamer` offers beside its own (entry points of the group `streamer.commands`).

Each module imports heavy packages only inside functions, so that `streamer --help` starts fast.
"""
