"""The measurement behind `streamer bench --device`: speed relative to transformers, beside the limits of the card."""
