"""Training: arguments, learning-rate groups, freezing, and the seams of transformers' Trainer."""
