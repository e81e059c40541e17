"""State that the page shows: frame counts from capture, events from the ledger, streams and tasks."""
