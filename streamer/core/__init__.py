"""Shared by every package: errors, settings base class, logging, redaction, folders, ZeroMQ helpers, backoff, files."""
