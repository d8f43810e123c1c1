"""The model code that is saved with a model: all it needs to make predictions for raw text, and nothing else.

These files import only each other (`from .x import y`), torch, transformers and their dependencies, so that they can be
copied beside the weights of a published model.
"""
