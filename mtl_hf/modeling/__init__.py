"""The room that travels: what a saved model needs to answer raw text, and nothing else.

Its files import only torch, transformers and each other (`from .x import y`), because they are copied to the Hub
beside the weights.
"""
