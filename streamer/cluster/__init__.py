"""Several hosts: which host runs which streams of a config."""
