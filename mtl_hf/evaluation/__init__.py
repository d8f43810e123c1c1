"""Evaluation: score any saved model on any split, and format the results."""
