"""The int8 model: calibration on the user's frames, the comparison with float32 that admits it, and its engine."""
