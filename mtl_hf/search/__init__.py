"""Searching for the settings of a run."""
