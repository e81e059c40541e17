"""State of a running agent as seen from outside: capture processes, events, tasks; for the page and `streamer top`."""
