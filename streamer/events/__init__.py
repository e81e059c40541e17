"""Events: their schema, the ledger that stores them, the sinks that publish them, the subscriber for other programs."""
