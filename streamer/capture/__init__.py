"""Capture of one stream: sources, connection, motion gate, newest frame, frame accounting, and the frame server."""
