"""Scheduling of inference: triggers, policy, overload, in-flight jobs, crash recovery, zones and tracking."""
