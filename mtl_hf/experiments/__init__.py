"""Experiments: comparisons and searches, which train many runs."""
