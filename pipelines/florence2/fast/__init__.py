"""The fast engine: Florence-2 rewritten for streams. The plain engine is its reference."""
