"""What the pages show: frame counts from capture, events from the ledger, the state of each stream and task."""
