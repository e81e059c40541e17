"""The HTTP server: page, live video, snapshots, events, metrics and health. It decodes no video and runs no model."""
