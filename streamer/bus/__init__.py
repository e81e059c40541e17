"""Between processes: frames through shared memory, events with acknowledgement, live results, requests and replies."""
