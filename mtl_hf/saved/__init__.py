"""Saved models: find them by name, and load them with their configs."""
