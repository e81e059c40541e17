"""The HTTP server of the web process: page, live video, events, metrics. It decodes no video and runs no model."""
