"""Saved models: found by name and opened, with what belongs to them."""
