"""Communication between processes: frames in shared memory, acknowledged events, live results, requests and replies."""
