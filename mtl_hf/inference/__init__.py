"""Inference: embeddings, predictions for raw text, and exports."""
