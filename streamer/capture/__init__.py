"""One stream from its camera: opening, decoding, motion detection, the newest frame, and serving it to consumers."""
