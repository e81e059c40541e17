"""Capture of one stream: sources, decoding thread, motion detection, frame slot, and the server for its consumers."""
