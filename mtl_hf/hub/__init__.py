"""Hugging Face Hub: model cards and pushing."""
