"""Evaluation: any saved model on any split, and how numbers are shown."""
