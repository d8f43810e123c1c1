"""The room that travels: what a saved model needs to answer raw text, and nothing else.

Its files import only torch, transformers and what these need, and each other (`from .x import y`), so that they can be
copied beside the weights of a published model.
"""
