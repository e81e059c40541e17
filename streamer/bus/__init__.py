"""Messages between the processes: frames (shared memory), events (acknowledged), live results (PUB/SUB), RPC."""
