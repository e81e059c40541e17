"""Used by every package: errors, settings base class, logging, redaction, agent folders, ZeroMQ helpers, backoff.

Imports nothing of the program but `types`.
"""
