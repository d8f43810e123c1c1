"""Experiments: comparisons and hyperparameter searches, which train many runs."""
