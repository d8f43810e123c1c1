"""Training: arguments, parameter groups, freezing, checkpoints, and the subclass of transformers' Trainer."""
