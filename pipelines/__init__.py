"""Meaning of the frames, one package per model family. No module here moves frames or events."""
