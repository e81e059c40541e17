"""Snapshots: the frames of answers as JPEG files in the state folder, named and hashed by events."""
