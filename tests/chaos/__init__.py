"""Faults done to the real program, each measured against a target."""
