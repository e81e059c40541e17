"""Measures of answers against the truth, one module per kind of answer."""
