"""Inference: embeddings and answers to raw text from files."""
