"""Annotated video: pacing, boxes between answers, drawing, encoding, and the outputs that publish it."""
